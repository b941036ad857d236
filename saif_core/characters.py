"""Characters that texts may hold."""


def valid_text(text: str) -> str:
    """The text with "�" for what cannot be stored or sent: NUL and halves of surrogate pairs."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\0", "�")
