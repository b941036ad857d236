"""Texts of people and models, made safe to show."""

import re
import unicodedata
from collections.abc import Sequence

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^])")
# Stands for a token that goes on with the character before it.
CONTINUED = "←"
_VISIBLE = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}


def escape_markdown(text: str) -> str:
    """A typed or generated text as one line of Markdown that shows exactly that text."""
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def visible(token: str) -> str:
    """A token with its white space made visible, for monospace."""
    return CONTINUED if not token else "".join(_VISIBLE.get(sign, sign) for sign in token)


def promotes(tokens: Sequence[str], n: int = 3) -> str:
    """The first tokens a latent promotes, as ``a · b · c``; "" when none is known."""
    return " · ".join(token.strip() or visible(token) for token in tokens[:n])


def printable(text: str) -> str:
    """The text without characters that could steer a terminal; lines and tabs stay."""
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cs") else "\ufffd"
        for char in text
    )
