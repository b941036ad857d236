"""What a text may hold: characters that every database, endpoint and file can take.

Python's strings can hold halves of surrogate pairs, which no encoding knows, and NUL, which
PostgreSQL refuses. Both come from JSON that others wrote, such as the answer of an endpoint.
"""

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
