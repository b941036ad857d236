"""Tokens as HTML, tinted by what steering did to their probability, or by how far gates opened.

Everything is escaped.

Less probable is blue with a dotted underline, more probable orange with a solid one, so that
colour is not the only sign. A line above a token says that the arm steered as it wrote it.
"""

import html
from collections.abc import Sequence
from typing import Literal

from app.presentation.escaping import CONTINUED
from app.presentation.figures import number_words
from saif_core.characters import join_tokens
from saif_core.records.texts import TokenDivergence

Tint = Literal["change", "kl", "gates"]
# Which gate: its number, or None for all of an arm's together.
Gate = int | None

# Reading what every token's probability was costs one more pass over each text.
MAX_TEXTS_WITH_CHANGES = 16
FULL_NATS = 4.0
_LEAST_SHARE = 0.02
_TOLD_GATES = 3
_MOST_TINT, _MOST_UNDERLINE = 50, 4
_LESS, _MORE = "#2b7fc4", "#d55e00"
_STEERED = "border-top:1px solid currentColor"
_BLOCK = "white-space:pre-wrap;overflow-wrap:anywhere;min-height:3em;line-height:1.8"
_LEGEND = "font-size:0.85rem;line-height:1.9;display:flex;flex-wrap:wrap;gap:0.2rem 1rem"
_MARK = '<span style="user-select:none;opacity:0.85">{}</span>'


def changes_html(
    changes: Sequence[TokenDivergence],
    tint: Tint,
    *,
    gate: Gate = None,
    names: Sequence[str] = (),
) -> str:
    """A text token by token as one block; the exact figures show under the pointer.

    Args:
        gate: of the tint "gates".
        names: of the gates; those of latents are their numbers.
    """
    tokens = join_tokens([change.token for change in changes])
    full = FULL_NATS
    if tint == "gates":
        full = max((opened(change, gate) for change in changes), default=0.0) or 1.0
    spans = "".join(
        _token_html(change, token, _value(change, tint, gate) / full, names)
        for change, token in zip(changes, tokens, strict=True)
    )
    return f'<div dir="auto" style="{_BLOCK}">{spans}</div>'


def opened(change: TokenDivergence, gate: Gate) -> float:
    """How far a gate, or all of them together, were open as a token was written."""
    if gate is None:
        return sum(change.gates)
    return change.gates[gate] if gate < len(change.gates) else 0.0


def legend_html(tint: Tint) -> str:
    """What tint, underline and line above mean."""
    full = f"full tint from {FULL_NATS:g} nats"
    if tint == "change":
        entries = [
            (_style(1.0, -1), "less probable than unsteered"),
            (_style(1.0, 1), f"more probable ({full})"),
        ]
    elif tint == "kl":
        entries = [(_style(1.0, 1), f"KL divergence from unsteered ({full})")]
    else:
        entries = [(_style(1.0, 1), "gate open (full tint where it is widest in the text)")]
    entries.append((_STEERED, "steered as it was written"))
    shown = "".join(
        f'<span><span style="{style};padding:0 0.3em">token</span> {html.escape(meaning)}</span>'
        for style, meaning in entries
    )
    return f'<div style="{_LEGEND}">{shown}<span>Hover a token for its figures.</span></div>'


def change_words(change: TokenDivergence, names: Sequence[str] = ()) -> str:
    """The figures of a token as one line of plain text.

    Args:
        names: of the gates, of which the widest are told.
    """
    said = (
        f"log-probability {change.log_prob + change.change:.2f} here, {change.log_prob:.2f} "
        f"unsteered (change {change.change:+.2f}) · KL {change.kl:.3f} nats · "
        f"strength {number_words(round(change.strength, 6))}"
    )
    return f"{said} · gates: {_widest(change, names)}" if change.gates else said


def _widest(change: TokenDivergence, names: Sequence[str]) -> str:
    found = sorted(enumerate(change.gates), key=lambda one: -one[1])[:_TOLD_GATES]
    told = [
        f"{names[number] if number < len(names) else number + 1} {value:.2f}"
        for number, value in found
        if value > 0
    ]
    return ", ".join(told) or "all closed"


def _value(change: TokenDivergence, tint: Tint, gate: Gate) -> float:
    if tint == "gates":
        return opened(change, gate)
    return change.change if tint == "change" else change.kl


def _token_html(change: TokenDivergence, text: str, value: float, names: Sequence[str]) -> str:
    share = min(abs(value), 1.0)
    styles = [_style(share, value)] if share >= _LEAST_SHARE else []
    if change.strength:
        styles.append(_STEERED)
    style = f' style="{";".join(styles)}"' if styles else ""
    token = html.escape(text).replace("\n", f"{_MARK.format('↵')}\n")
    token = token or _MARK.format(CONTINUED)
    return f'<span title="{html.escape(change_words(change, names))}"{style}>{token}</span>'


def _style(share: float, value: float) -> str:
    hue, line = (_MORE, "solid") if value > 0 else (_LESS, "dotted")
    return (
        f"background:color-mix(in srgb,{hue} {share * _MOST_TINT:.0f}%,transparent);"
        f"border-bottom:{1 + share * (_MOST_UNDERLINE - 1):.1f}px {line} {hue};color:inherit"
    )
