"""The figures of every token as a table that opens by a click, a touch or a key."""

import html
from collections.abc import Sequence

from saif_core.records.texts import TokenDivergence

_HEAD = ("token", "log-probability here", "unsteered", "change", "KL, nats", "strength")
_CELL = "padding:0.1rem 0.6rem 0.1rem 0;text-align:right;font-variant-numeric:tabular-nums"
_TOKEN = "padding:0.1rem 0.6rem 0.1rem 0;white-space:pre;font-family:monospace"


def figures_html(changes: Sequence[TokenDivergence]) -> str:
    """What stands under the pointer over each token, for those who have none."""
    head = "".join(
        f'<th scope="col" style="{_TOKEN if number == 0 else _CELL}">{name}</th>'
        for number, name in enumerate(_HEAD)
    )
    rows = "".join(_row(change) for change in changes)
    return (
        '<details style="font-size:0.85rem;margin-top:0.4rem"><summary>Figures of every token'
        '</summary><div style="overflow:auto;max-height:20rem"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _row(change: TokenDivergence) -> str:
    token = html.escape(change.token.replace(" ", "·").replace("\n", "↵"))
    figures = (
        f"{change.log_prob + change.change:.2f}",
        f"{change.log_prob:.2f}",
        f"{change.change:+.2f}",
        f"{change.kl:.3f}",
        f"{change.strength:.3g}",
    )
    cells = "".join(f'<td style="{_CELL}">{figure}</td>' for figure in figures)
    return f'<tr><th scope="row" style="{_TOKEN}">{token}</th>{cells}</tr>'
