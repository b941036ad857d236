"""Client of an OpenAI-compatible chat endpoint, local or hosted.

It knows nothing of latents and reads no settings. No message of its errors holds the key, or more
of the URL than the host.
"""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from saif_core.characters import valid_text
from saif_core.errors import SaifError

N_TRIES = 4
FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 30.0
CONNECT_SECONDS = 10.0
MAX_ANSWER_BYTES = 1_000_000
_SHOWN_REASON = 200


class LanguageEndpoint:
    """A model that answers chat messages over HTTP.

    Args:
        url: base URL, such as http://localhost:8000/v1.
        model: name that the endpoint knows the model by.
        key: sent as bearer token; "" for endpoints that ask for none.
        timeout_seconds: how long one answer may take.

    Raises:
        SaifError: the URL, model or key cannot be used.
    """

    def __init__(
        self, url: str, model: str, key: str = "", *, timeout_seconds: float = 120.0
    ) -> None:
        self.model = model.strip()
        self.timeout_seconds = timeout_seconds
        self._key = key.strip()
        if not self.model:
            raise SaifError("No model was named for the language endpoint; give a model name.")
        if not (self._key.isascii() and self._key.isprintable()):
            raise SaifError(
                "The key of the language endpoint holds characters that no key has; copy it again."
            )
        try:
            base = httpx2.URL(url.strip())
        except (httpx2.InvalidURL, ValueError) as error:
            raise _url_error() from error
        if base.scheme not in ("http", "https") or not base.host:
            raise _url_error()
        self._url = base.copy_with(path=base.path.rstrip("/") + "/chat/completions")
        self.host = base.netloc.decode("ascii")

    def complete(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> str:
        """The text that the model answers, without what it wrote while thinking.

        Args:
            messages: each with "role" (system, user or assistant) and "content".
            max_tokens: longest answer.
            temperature: 0 is greedy.
            seed: for endpoints that can repeat a sample.

        Raises:
            SaifError: the endpoint cannot be reached, refuses, takes too long, or answers
                something else than text.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {name: valid_text(value) for name, value in message.items()} for message in messages
            ],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if seed is not None:
            body["seed"] = seed
        return self._text(self._post(json.dumps(body).encode()))

    def _post(self, body: bytes) -> bytes:
        """The body of the first answer that is not "try again later"."""
        # Compressed answers could grow without bound while they are unpacked.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        timeout = httpx2.Timeout(self.timeout_seconds, connect=CONNECT_SECONDS)
        try:
            with httpx2.Client(timeout=timeout) as client:
                for n_tries in range(1, N_TRIES + 1):
                    status, wait, answer = self._try(client, headers, body)
                    if status != 429 and status < 500:
                        break
                    if n_tries < N_TRIES:
                        backoff = FIRST_WAIT_SECONDS * 2 ** (n_tries - 1)
                        time.sleep(min(backoff if wait is None else wait, MAX_WAIT_SECONDS))
        except httpx2.TimeoutException as error:
            raise SaifError(
                f"The language endpoint at {self.host} did not answer within "
                f"{self.timeout_seconds:g} seconds; try again, or choose a faster model."
            ) from error
        except httpx2.HTTPError as error:
            raise SaifError(
                f"The language endpoint at {self.host} could not be reached "
                f"({type(error).__name__}); check its URL and that it runs."
            ) from error
        if status != 200:
            raise self._refusal(status, answer)
        return answer

    def _try(
        self, client: httpx2.Client, headers: dict[str, str], body: bytes
    ) -> tuple[int, float | None, bytes]:
        """Status, seconds that the endpoint asks to wait, and the answer's bytes."""
        # The client's own limit is per read; an endpoint that drips bytes would never reach it.
        latest = time.monotonic() + self.timeout_seconds
        answer = bytearray()
        with client.stream("POST", self._url, headers=headers, content=body) as response:
            for chunk in response.iter_raw():
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise SaifError(
                        f"The language endpoint at {self.host} answered with more than "
                        f"{MAX_ANSWER_BYTES / 1e6:g} MB; check its URL."
                    )
                if time.monotonic() > latest:
                    raise httpx2.ReadTimeout("the answer took too long")
            return response.status_code, _asked_wait(response.headers), bytes(answer)

    def _refusal(self, status: int, answer: bytes) -> SaifError:
        asked = f"The language endpoint at {self.host}"
        if status in (401, 403):
            # What it says about the key may quote the key.
            return SaifError(f"{asked} refused the key (status {status}); check the key.")
        if status == 429 or status >= 500:
            return SaifError(
                f"{asked} was busy or failed {N_TRIES} times (status {status}); try again later."
            )
        reason = self._reason(answer)
        return SaifError(
            f"{asked} refused the request for model {self.model!r} with status {status}"
            f"{f' ({reason})' if reason else ''}; check its base URL and the model's name."
        )

    def _reason(self, answer: bytes) -> str:
        """What an error answer says, on one short line, without what is secret."""
        try:
            error = json.loads(answer)["error"]
            text = error if isinstance(error, str) else error["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ""
        if not isinstance(text, str):
            return ""
        for secret in (self._key, self._url.username, self._url.password):
            if secret:
                text = text.replace(secret, "…")
        line = "".join(c if c.isprintable() else " " for c in text).strip().rstrip(".")
        return line if len(line) <= _SHOWN_REASON else line[: _SHOWN_REASON - 1] + "…"

    def _text(self, answer: bytes) -> str:
        try:
            choice = json.loads(answer)["choices"][0]
            text, stopped = choice["message"]["content"], choice.get("finish_reason")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise SaifError(
                f"The language endpoint at {self.host} answered something that is not a chat "
                "completion; give the base URL of an OpenAI-compatible endpoint."
            ) from error
        # Some endpoints leave a reasoning model's thoughts in front of its answer.
        text = text.rpartition("</think>")[2].strip() if isinstance(text, str) else ""
        if not text or text.startswith("<think>"):
            hint = "allow more tokens" if stopped == "length" else "choose another model"
            raise SaifError(f"Model {self.model!r} at {self.host} answered without a text; {hint}.")
        return valid_text(text)


def _url_error() -> SaifError:
    return SaifError(
        "The URL of the language endpoint cannot be used; give a base URL that starts with "
        "http:// or https://, such as http://localhost:8000/v1."
    )


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for, as a number or a date; None if it does not."""
    asked = headers.get("Retry-After", "").strip()
    if asked.isdecimal():
        return float(asked[:9])
    try:
        until = parsedate_to_datetime(asked)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
