"""A prompt as HTML, token by token, with white space and special tokens visible."""

import html
from collections.abc import Sequence
from difflib import SequenceMatcher

from app.presentation.escaping import visible
from saif_core.records.prompts import PromptView

_BLOCK = (
    "font-family:monospace;font-size:0.9rem;line-height:1.7;overflow-wrap:anywhere;"
    "max-height:22rem;overflow-y:auto"
)
_SPECIAL = "border:1px solid currentColor;border-radius:3px;padding:0 2px 2px;opacity:0.8"
# Underline besides the tint, so that what was added does not rest on colour alone.
_ADDED = "background:rgba(128,128,128,0.25);text-decoration:underline;text-decoration-thickness:2px"


def added_tokens(positive: PromptView, negative: PromptView) -> tuple[bool, ...]:
    """For every token of ``positive``, whether ``negative`` has no counterpart of it."""
    added = [True] * len(positive.token_ids)
    matcher = SequenceMatcher(None, negative.token_ids, positive.token_ids, autojunk=False)
    for block in matcher.get_matching_blocks():
        added[block.b : block.b + block.size] = [False] * block.size
    return tuple(added)


def prompt_html(view: PromptView, added: Sequence[bool] = ()) -> str:
    """The prompt as one block; every token is escaped.

    Args:
        added: tokens to mark, as ``added_tokens`` finds them; empty marks none.
    """
    marks = added or [False] * len(view.tokens)
    spans = [
        _token_html(token, special, mark)
        for token, special, mark in zip(view.tokens, view.special, marks, strict=True)
    ]
    return f'<div style="{_BLOCK}">{"<wbr>".join(spans)}</div>'


def _token_html(token: str, special: bool, added: bool) -> str:
    text = html.escape(visible(token)).replace("↵", "↵<br>")
    style = _SPECIAL if special else _ADDED if added else ""
    return f'<span style="{style}">{text}</span>' if style else f"<span>{text}</span>"
