"""What a text may hold: characters that every database, endpoint and file can take.

Python's strings can hold halves of surrogate pairs, which no encoding knows, and NUL, which
PostgreSQL refuses. Both come from JSON that others wrote, such as the answer of an endpoint.
"""

import re
from collections.abc import Sequence

REPLACEMENT = "\ufffd"


def encodable_text(text: str) -> str:
    """The text with surrogate pairs joined, and "�" for a half that stands alone."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def valid_text(text: str) -> str:
    """The text with "�" for what cannot be stored or sent: NUL and halves of surrogate pairs."""
    return encodable_text(text).replace("\0", REPLACEMENT)


def is_valid_text(text: str) -> bool:
    """Whether a text can be stored and sent as it is."""
    return valid_text(text) == text


_BYTE = re.compile(r"<([89A-F][0-9A-F])>")
_BYTES_AT_END = re.compile(r"(?:<[89A-F][0-9A-F]>)+$")
_BYTES_AT_START = re.compile(r"^(?:<[89A-F][0-9A-F]>)+")


def byte_words(data: bytes) -> str:
    """Bytes as text; those that are no whole character are written as ``<C3>``."""
    shown = data.decode("utf-8", "surrogateescape")
    return "".join(
        f"<{ord(sign) - 0xDC00:02X}>" if "\udc80" <= sign <= "\udcff" else sign for sign in shown
    )


def join_tokens(tokens: Sequence[str]) -> tuple[str, ...]:
    """Neighbouring tokens of a text, with characters made of several of them put together.

    The whole character stands on the token that it begins in, and "" on the others, so that the
    tokens in a row are still the text. A byte that belongs to no character stays ``<C3>``.
    """
    joined = list(tokens)
    for start in range(len(joined)):
        begun = _BYTES_AT_END.search(joined[start])
        if begun is None:
            continue
        data, end = _bytes_of(begun[0]), start
        # A character has four bytes at most.
        while not _is_text(data) and end + 1 < len(joined) and end - start < 3:
            end += 1
            found = _BYTES_AT_START.match(joined[end])
            if found is None:
                break
            data += _bytes_of(found[0])
            if found[0] != joined[end]:
                break
        if end > start and _is_text(data):
            joined[start] = joined[start][: begun.start()] + data.decode()
            joined[start + 1 : end] = [""] * (end - start - 1)
            joined[end] = _BYTES_AT_START.sub("", joined[end])
    return tuple(joined)


def token_with(tokens: Sequence[str], at: int) -> str:
    """Of joined tokens, the one at a place, or the character that it goes on with."""
    return next((tokens[place] for place in range(at, -1, -1) if tokens[place]), "")


def _bytes_of(shown: str) -> bytes:
    return bytes(int(pair, 16) for pair in _BYTE.findall(shown))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
