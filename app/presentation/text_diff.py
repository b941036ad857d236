"""Which words of a text differ from another, and that text as safe HTML with them marked."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

# Scripts written without spaces are compared character by character; everything else by word.
_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PIECE = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|\s+|[^\w\s]")
# The text keeps the theme's own colour; tint and underline are readable on white and on black.
_MARK = (
    "background-color:rgba(213,94,0,0.22);color:inherit;text-decoration:underline;"
    "text-decoration-color:#d55e00;text-decoration-thickness:2px;border-radius:2px"
)


@dataclass(frozen=True)
class Piece:
    """A stretch of a text; ``changed`` = it does not stand in the text compared with."""

    text: str
    changed: bool


def split_words(text: str) -> list[str]:
    """Words, runs of white space and single signs; joined they are the text again."""
    return _PIECE.findall(text)


def diff_words(before: str, after: str) -> list[Piece]:
    """``after`` in pieces, each marked if it differs from ``before``.

    White space between two changed words counts as changed; white space alone never does.
    """
    old = [word for word in split_words(before) if not word.isspace()]
    pieces = split_words(after)
    at = [index for index, piece in enumerate(pieces) if not piece.isspace()]
    # autojunk drops frequent words of long texts, which then look changed.
    matcher = SequenceMatcher(None, old, [pieces[index] for index in at], autojunk=False)
    changed = [False] * len(pieces)
    for operation, _, _, start, stop in matcher.get_opcodes():
        if operation in ("replace", "insert"):
            first, last = at[start], at[stop - 1]
            changed[first : last + 1] = [True] * (last + 1 - first)
    return _join(pieces, changed)


def changed_share(pieces: Sequence[Piece]) -> float:
    """Share of the words that differ, between 0 and 1; 0 for a text without words."""
    words = [
        piece.changed for piece in pieces for word in split_words(piece.text) if not word.isspace()
    ]
    return sum(words) / len(words) if words else 0.0


def plain_html(text: str) -> str:
    """A text as an HTML block that keeps its line breaks; everything in it is escaped."""
    return _block(html.escape(text))


def diff_html(before: str, after: str) -> str:
    """``after`` as an HTML block with the words that differ from ``before`` marked."""
    marked = (
        f'<mark style="{_MARK}">{html.escape(piece.text)}</mark>'
        if piece.changed
        else html.escape(piece.text)
        for piece in diff_words(before, after)
    )
    return _block("".join(marked))


def _block(inner: str) -> str:
    return f'<div style="white-space:pre-wrap;overflow-wrap:anywhere;min-height:3em">{inner}</div>'


def _join(pieces: Sequence[str], changed: Sequence[bool]) -> list[Piece]:
    joined: list[Piece] = []
    for text, is_changed in zip(pieces, changed, strict=True):
        if joined and joined[-1].changed == is_changed:
            joined[-1] = Piece(joined[-1].text + text, is_changed)
        else:
            joined.append(Piece(text, is_changed))
    return joined
