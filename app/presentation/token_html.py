"""Tokens as HTML, tinted and underlined by the activation of one latent; everything is escaped.

White space that the eye would miss has a mark that copying leaves out, so that the text copied is
the text.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from app.presentation.escaping import CONTINUED

# One hue mixed into whatever the theme's background is; at the most, text keeps a contrast above 5.
_HUE = "#2b7fc4"
_MOST_TINT = 55
_MOST_UNDERLINE = 4
_TEXT = (
    "font-family:monospace;font-size:0.9rem;line-height:1.9;white-space:pre-wrap;"
    "overflow-wrap:anywhere"
)
_EXAMPLE = "display:flex;gap:0.75rem;padding:0.35rem 0;border-top:1px solid rgba(128,128,128,0.3)"
_VALUE = (
    "flex:none;width:4.5em;text-align:right;font-variant-numeric:tabular-nums;line-height:1.9;"
    "opacity:0.85;user-select:none"
)
_MARK = '<span style="user-select:none;opacity:0.85">{}</span>'
_MARKS = {"\n": "↵", "\r": "␍", "\t": "⇥"}


@dataclass(frozen=True)
class TintedText:
    """A text to draw.

    Attributes:
        activations: of the latent, one per token.
        firing: number of the token that the text is shown for; None where there is none.
    """

    tokens: Sequence[str]
    activations: Sequence[float]
    firing: int | None = None


def text_html(text: TintedText, maximum: float) -> str:
    """A text as one block.

    Args:
        maximum: activation that is given the full tint.
    """
    spans = [
        _token_html(token, activation / maximum if maximum > 0 else 0.0, activation, at)
        for token, activation, at in zip(
            text.tokens,
            text.activations,
            (number == text.firing for number in range(len(text.tokens))),
            strict=True,
        )
    ]
    return f'<div dir="auto" style="{_TEXT};min-width:0">{"".join(spans)}</div>'


def examples_html(texts: Sequence[TintedText], maximum: float) -> str:
    """Texts below each other, each after the activation of its firing token."""
    rows = []
    for text in texts:
        value = text.activations[text.firing] if text.firing is not None else max(text.activations)
        rows.append(
            f'<div style="{_EXAMPLE}"><span style="{_VALUE}">{value:.3g}</span>'
            f"{text_html(text, maximum)}</div>"
        )
    return "".join(rows)


def _token_html(token: str, share: float, activation: float, firing: bool) -> str:
    shown = _visible(token)
    if share <= 0:
        return shown
    share = min(share, 1.0)
    style = (
        f"background:color-mix(in srgb,{_HUE} {share * _MOST_TINT:.0f}%,transparent);"
        f"border-bottom:{1 + share * (_MOST_UNDERLINE - 1):.1f}px solid {_HUE};color:inherit"
    )
    if firing:
        style += ";outline:1px solid currentColor;outline-offset:1px;font-weight:700"
    tag = "mark" if firing else "span"
    return f'<{tag} style="{style}" title="activation {activation:.4g}">{shown}</{tag}>'


def _visible(token: str) -> str:
    """An escaped token; a space before a word needs no mark, any other white space has one."""
    if not token:
        return _MARK.format(CONTINUED)
    only_space = not token.strip()
    parts = []
    for sign in token:
        mark = "·" if sign == " " and only_space else _MARKS.get(sign, "")
        # A browser reads a carriage return as the end of a line, which a mark alone is not.
        kept = "" if sign == "\r" else html.escape(sign)
        parts.append((_MARK.format(mark) if mark else "") + kept)
    return "".join(parts)
