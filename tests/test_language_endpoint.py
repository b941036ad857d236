"""The endpoint's client against a real server on this machine."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from saif_core.errors import SaifError
from saif_core.models.language_endpoint import MAX_ANSWER_BYTES, MAX_WAIT_SECONDS, LanguageEndpoint

KEY = "sk-very-secret"
MESSAGES = [{"role": "user", "content": "Say hello."}]


class Answer(NamedTuple):
    """What the server sends; ``pause_seconds`` passes before each of the two halves of the body."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = {}
    pause_seconds: float = 0.0


def chat(text: Any, *, stopped: str = "stop") -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": stopped}
    return Answer(json.dumps({"choices": [choice]}).encode())


class FakeServer:
    """An endpoint that answers each request with what ``reply`` makes of its JSON."""

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any]], Answer] = lambda _: chat("Hello.")
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.stopping = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.host = f"127.0.0.1:{self.http.server_address[1]}"
        self.url = f"http://{self.host}/v1"
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self._thread.start()

    def answer_in_turn(self, *answers: Answer) -> None:
        waiting = list(answers)
        self.reply = lambda _: waiting.pop(0)

    def close(self) -> None:
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                server.headers.append(dict(self.headers))
                server.paths.append(self.path)
                answer = server.reply(request)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                middle = len(answer.body) // 2
                try:
                    for half in (answer.body[:middle], answer.body[middle:]):
                        server.stopping.wait(answer.pause_seconds)
                        self.wfile.write(half)
                        self.wfile.flush()
                except ConnectionError:
                    pass  # the client gave up, as it should

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr("saif_core.models.language_endpoint.time.sleep", slept.append)
    return slept


def ask(server: FakeServer, **options: Any) -> str:
    endpoint = LanguageEndpoint(server.url, "tiny-chat", KEY, **options)
    return endpoint.complete(MESSAGES, max_tokens=8)


def test_a_question_is_sent_as_asked_and_the_text_comes_back(server: FakeServer) -> None:
    endpoint = LanguageEndpoint(f" {server.url}/ ", "tiny-chat", f"{KEY}\n")
    assert endpoint.complete(MESSAGES, max_tokens=8, temperature=0.5, seed=3) == "Hello."
    assert server.paths == ["/v1/chat/completions"]
    assert server.requests[0] == {
        "model": "tiny-chat",
        "messages": MESSAGES,
        "max_tokens": 8,
        "temperature": 0.5,
        "seed": 3,
    }
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_no_key_and_no_seed_are_sent_when_none_is_given(server: FakeServer) -> None:
    LanguageEndpoint(server.url, "tiny-chat").complete(MESSAGES, max_tokens=8)
    assert "Authorization" not in server.headers[0]
    assert "seed" not in server.requests[0]


def test_a_busy_endpoint_is_asked_again(server: FakeServer, waits: list[float]) -> None:
    busy = Answer(b"{}", status=429)
    server.answer_in_turn(busy, Answer(b"oops", status=503), chat("At last."))
    assert ask(server) == "At last."
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("7", 7.0, 7.0),
        ("86400", MAX_WAIT_SECONDS, MAX_WAIT_SECONDS),
        ("9" * 400, MAX_WAIT_SECONDS, MAX_WAIT_SECONDS),
        (
            format_datetime(datetime.now(UTC) + timedelta(days=1)),
            MAX_WAIT_SECONDS,
            MAX_WAIT_SECONDS,
        ),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, 0.0),
        ("soon", 1.0, 1.0),
        ("-5", 1.0, 1.0),
    ],
)
def test_the_endpoint_says_how_long_to_wait_within_bounds(
    server: FakeServer, waits: list[float], header: str, least: float, most: float
) -> None:
    server.answer_in_turn(Answer(b"{}", status=429, headers={"Retry-After": header}), chat("Yes."))
    assert ask(server) == "Yes."
    assert least <= waits[0] <= most


def test_an_endpoint_that_stays_busy_is_given_up(server: FakeServer, waits: list[float]) -> None:
    server.reply = lambda _: Answer(b"{}", status=429)
    with pytest.raises(SaifError, match=r"busy or failed 4 times \(status 429\)"):
        ask(server)
    assert len(server.requests) == 4
    assert waits == [1.0, 2.0, 4.0]


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_named_and_not_shown(server: FakeServer, status: int) -> None:
    quoting = json.dumps({"error": {"message": f"Incorrect API key: {KEY}"}}).encode()
    server.reply = lambda _: Answer(quoting, status=status)
    with pytest.raises(SaifError, match="refused the key") as caught:
        ask(server)
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


def test_a_refusal_says_why_in_one_line_without_secrets(server: FakeServer) -> None:
    reason = f"No model 'tiny-chat'\nfor {KEY}, me and my-password. " + "x" * 5000
    body = json.dumps({"error": {"message": reason}}).encode()
    server.reply = lambda _: Answer(body, status=404)
    url = server.url.replace("http://", "http://me:my-password@")
    with pytest.raises(SaifError, match="No model 'tiny-chat' for …") as caught:
        LanguageEndpoint(url, "tiny-chat", KEY).complete(MESSAGES, max_tokens=8)
    message = str(caught.value)
    assert server.host in message
    assert "status 404" in message
    assert KEY not in message
    assert "my-password" not in message
    assert "\n" not in message
    assert len(message) < 500


def test_a_redirect_does_not_take_the_key_elsewhere(server: FakeServer) -> None:
    server.reply = lambda _: Answer(b"", status=307, headers={"Location": server.url + "/other"})
    with pytest.raises(SaifError, match="status 307"):
        ask(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>welcome</html>",
        b'{"choices": [{"message": {"content": "cut',
        b"{}",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [7]}',
        b'{"choices": {"0": 1}}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"",
    ],
)
def test_an_answer_that_is_no_chat_completion_is_one_sentence(
    server: FakeServer, body: bytes
) -> None:
    server.reply = lambda _: Answer(body)
    with pytest.raises(SaifError, match="not a chat completion"):
        ask(server)


@pytest.mark.parametrize(
    ("content", "stopped", "hint"),
    [
        (None, "stop", "choose another model"),
        ([{"type": "text"}], "stop", "choose another model"),
        ("  ", "stop", "choose another model"),
        ("<think>so much to think about", "length", "allow more tokens"),
    ],
)
def test_an_answer_without_a_text_is_one_sentence(
    server: FakeServer, content: Any, stopped: str, hint: str
) -> None:
    server.reply = lambda _: chat(content, stopped=stopped)
    with pytest.raises(SaifError, match=f"without a text; {hint}"):
        ask(server)


def test_thoughts_are_left_out(server: FakeServer) -> None:
    server.reply = lambda _: chat("<think>Set 1? No.</think>\n\n2")
    assert ask(server) == "2"


def test_an_endless_answer_is_not_read_to_its_end(server: FakeServer) -> None:
    server.reply = lambda _: Answer(b" " * (MAX_ANSWER_BYTES + 1))
    with pytest.raises(SaifError, match="more than 1 MB"):
        ask(server)


@pytest.mark.parametrize("pause_seconds", [5.0, 0.2])
def test_a_slow_answer_is_given_up_as_a_whole(server: FakeServer, pause_seconds: float) -> None:
    # With 0.2 seconds no single read is too slow, but both together are.
    server.reply = lambda _: chat("Too late.")._replace(pause_seconds=pause_seconds)
    with pytest.raises(SaifError, match=r"did not answer within 0\.3 seconds"):
        ask(server, timeout_seconds=0.3)


def test_odd_characters_survive_and_invalid_ones_are_replaced(server: FakeServer) -> None:
    # As escapes in JSON, which may name half of a pair.
    server.reply = lambda _: chat("ère 😀 \ud83d \0 \u202e")
    endpoint = LanguageEndpoint(server.url, "modèle-✓")
    text = endpoint.complete([{"role": "user", "content": "a\ud800b 😀 \0"}], max_tokens=8)
    assert text == "ère 😀 � � \u202e"
    assert server.requests[0]["messages"][0]["content"] == "a�b 😀 �"
    assert server.requests[0]["model"] == "modèle-✓"


def test_an_endpoint_that_is_not_there_is_one_sentence(server: FakeServer) -> None:
    server.close()
    with pytest.raises(SaifError, match=f"{server.host} could not be reached"):
        ask(server)


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://h:port"])
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(SaifError, match="starts with http:// or https://"):
        LanguageEndpoint(url, "tiny-chat")


def test_a_key_or_model_that_cannot_be_sent_is_refused() -> None:
    with pytest.raises(SaifError, match="copy it again") as caught:
        LanguageEndpoint("http://localhost/v1", "tiny-chat", "sk-clé\nX: y")
    assert "sk-cl" not in str(caught.value)
    with pytest.raises(SaifError, match="give a model name"):
        LanguageEndpoint("http://localhost/v1", " ")


def test_parameters_in_the_url_are_kept(server: FakeServer) -> None:
    url = f"{server.url}?api-version=2"
    LanguageEndpoint(url, "tiny-chat").complete(MESSAGES, max_tokens=8)
    assert server.paths == ["/v1/chat/completions?api-version=2"]
