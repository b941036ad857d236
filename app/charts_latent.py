"""Charts of one latent: the tokens it promotes, and how strongly it fires on each pair."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from app.session_view import visible
from saif_core.records import PairActivations, PromptPair

WITH, WITHOUT = "with the instruction", "without"
PROMOTED, SUPPRESSED = "promoted", "suppressed"
# No colours are named: the theme's first and second are blue and orange, fit for light and dark.
_BY_SIDE = alt.Color(
    "side:N",
    scale=alt.Scale(domain=[WITH, WITHOUT]),
    legend=alt.Legend(orient="top", title=None),
)


def token_bars(tokens: Sequence[tuple[str, float]], *, promoted: bool) -> alt.Chart:
    """Tokens with their logits as horizontal bars, strongest first.

    Args:
        tokens: (token, logit of the decoder direction less the mean over the vocabulary).
        promoted: colours the bars as promoted, else as suppressed.
    """
    kind = PROMOTED if promoted else SUPPRESSED
    seen: dict[str, int] = {}
    rows = []
    for rank, (token, logit) in enumerate(tokens, start=1):
        label = visible(token)
        seen[label] = seen.get(label, 0) + 1
        # Tokens that look alike need labels of their own, or their bars fall on each other.
        unique = label + "\u200b" * (seen[label] - 1)
        rows.append({"rank": rank, "token": unique, "logit": logit, "kind": kind})
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar()
        .encode(
            y=alt.Y(
                "token:N",
                sort=None,
                title=None,
                axis=alt.Axis(
                    labelFont="monospace", labelLimit=160, labelOverlap=False, ticks=False
                ),
            ),
            x=alt.X("logit:Q", title="logit, vocabulary mean = 0"),
            color=alt.Color("kind:N", scale=alt.Scale(domain=[PROMOTED, SUPPRESSED]), legend=None),
            tooltip=[
                alt.Tooltip("token:N"),
                alt.Tooltip("logit:Q", format="+.3f"),
                alt.Tooltip("rank:O"),
            ],
        )
        .properties(height=alt.Step(18))
    )
    return chart


def pair_rows(activations: PairActivations, pairs: Sequence[PromptPair]) -> list[dict[str, Any]]:
    """One row per pair, strongest with the instruction first."""
    rows = [
        {
            "content": pair.content or pair.negative,
            "instruction": pair.instruction,
            "with": positive,
            "without": negative,
        }
        for pair, positive, negative in zip(
            pairs, activations.positive, activations.negative, strict=True
        )
    ]
    return sorted(rows, key=lambda row: (-row["with"], -row["without"]))


def pair_chart(activations: PairActivations, pairs: Sequence[PromptPair]) -> alt.LayerChart:
    """Activation on every pair with and without the instruction, joined by a line."""
    rows = [dict(row, pair=at) for at, row in enumerate(pair_rows(activations, pairs), start=1)]
    points = [
        {
            "pair": row["pair"],
            "side": side,
            "activation": row[key],
            "content": row["content"],
            "instruction": row["instruction"],
        }
        for row in rows
        for side, key in ((WITH, "with"), (WITHOUT, "without"))
    ]
    x = alt.X("pair:Q", title="pair, strongest first", axis=alt.Axis(tickMinStep=1, format="d"))
    lines = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_rule(color="#888888")
        .encode(x=x, y=alt.Y("with:Q", title="activation"), y2="without:Q")
    )
    dots = (
        alt.Chart(alt.InlineData(values=points))
        .mark_point(filled=True, size=45)
        .encode(
            x=x,
            y=alt.Y("activation:Q", title="activation"),
            color=_BY_SIDE,
            shape=alt.Shape("side:N", scale=alt.Scale(domain=[WITH, WITHOUT])),
            tooltip=[
                alt.Tooltip("side:N"),
                alt.Tooltip("activation:Q", format=".3f"),
                alt.Tooltip("content:N"),
                alt.Tooltip("instruction:N"),
            ],
        )
    )
    return alt.LayerChart(layer=[lines, dots]).properties(height=260)


def histogram_rows(activations: PairActivations, n_bins: int = 20) -> list[dict[str, Any]]:
    """Counts of pairs per activation interval and side; the same intervals for both sides."""
    values = [*activations.positive, *activations.negative]
    top = max([0.0, *values])
    edges = np.linspace(0.0, top or 1.0, n_bins + 1)
    rows: list[dict[str, Any]] = []
    for side, side_values in ((WITH, activations.positive), (WITHOUT, activations.negative)):
        counts, _ = np.histogram(np.asarray(side_values, dtype=float), bins=edges)
        rows += [
            {"side": side, "from": float(low), "to": float(high), "n": int(n), "zero": 0}
            for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True)
            if n
        ]
    return rows


def activation_histogram(activations: PairActivations) -> alt.Chart:
    """How many pairs fire how strongly, on a logarithmic count axis."""
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=histogram_rows(activations)))
        .mark_bar(opacity=0.65)
        .encode(
            x=alt.X("from:Q", title="activation"),
            x2="to:Q",
            y2="zero:Q",
            # A logarithm that has a place for zero; without y2 the bars would not start there.
            y=alt.Y("n:Q", title="pairs", stack=None, scale=alt.Scale(type="symlog")),
            color=_BY_SIDE,
            tooltip=[
                alt.Tooltip("side:N"),
                alt.Tooltip("n:Q", title="pairs"),
                alt.Tooltip("from:Q", format=".3f"),
                alt.Tooltip("to:Q", format=".3f"),
            ],
        )
        .properties(height=260)
    )
    return chart


def activation_sentence(activations: PairActivations) -> str:
    """Firing rates and quantiles of both sides, with n."""
    parts = []
    for side, values in ((WITH, activations.positive), (WITHOUT, activations.negative)):
        if not values:
            continue
        array = np.asarray(values, dtype=float)
        median, high = np.quantile(array, [0.5, 0.9])
        parts.append(
            f"{side} it fires on {int((array > 0).sum())} of {len(array)} pairs "
            f"(median {median:.2f}, 90% below {high:.2f}, most {array.max():.2f})"
        )
    return ("; ".join(parts) + ".").capitalize() if parts else ""
