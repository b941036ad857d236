"""Charts of one latent: what it promotes, how strongly it fires, and what continues it."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from app.presentation.escaping import visible
from app.presentation.figures import counted
from saif_core.records.corpus import QUANTILES, LatentProfile
from saif_core.records.flow import FlowGraph
from saif_core.records.latents import PairActivations
from saif_core.records.prompts import PromptPair

FLOW_CLICK = "flow_click"
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
            f"{side} it fires on {int((array > 0).sum())} of {counted(len(array), 'pair')} "
            f"(median {median:.2f}, 90% below {high:.2f}, most {array.max():.2f})"
        )
    return ("; ".join(parts) + ".").capitalize() if parts else ""


def profile_histogram(profile: LatentProfile) -> alt.LayerChart:
    """How many tokens of a corpus it fires on how strongly, with its quantiles as lines."""
    width = profile.maximum / len(profile.histogram)
    bars = [
        {"from": at * width, "to": (at + 1) * width, "n": n, "zero": 0}
        for at, n in enumerate(profile.histogram)
        if n
    ]
    marks = [
        {"quantile": f"{quantile:.0%}", "activation": value}
        for quantile, value in zip(QUANTILES, profile.quantiles, strict=True)
    ]
    tokens = _counts(bars, "latent activation", "tokens")
    rules = (
        alt.Chart(alt.InlineData(values=marks))
        .mark_rule(strokeDash=[4, 3], color="#888888")
        .encode(
            x="activation:Q",
            tooltip=[alt.Tooltip("quantile:N"), alt.Tooltip("activation:Q", format=".4g")],
        )
    )
    # The names of neighbouring quantiles would cover each other; the rest are in the tooltips.
    named = [mark for mark in marks if mark["quantile"] in ("5%", "50%", "95%")]
    names = (
        alt.Chart(alt.InlineData(values=named))
        .mark_text(baseline="bottom", color="#888888")
        .encode(x="activation:Q", y=alt.value(-3), text="quantile:N")
    )
    return alt.LayerChart(layer=[tokens, rules, names]).properties(height=220)


def logit_histogram(profile: LatentProfile) -> alt.Chart:
    """How many tokens of the vocabulary its decoder direction raises or lowers how much."""
    low, high = profile.logit_range
    edges = np.linspace(low, high, len(profile.logit_histogram) + 1).tolist()
    bars = [
        {"from": start, "to": end, "n": n, "zero": 0}
        for start, end, n in zip(edges, edges[1:], profile.logit_histogram, strict=False)
        if n
    ]
    return _counts(bars, "logit, vocabulary mean = 0", "tokens").properties(height=220)


def _counts(bars: Sequence[dict[str, Any]], value: str, count: str) -> alt.Chart:
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=list(bars)))
        .mark_bar()
        .encode(
            x=alt.X("from:Q", title=value),
            x2="to:Q",
            y2="zero:Q",
            # A logarithm that has a place for zero.
            y=alt.Y("n:Q", title=f"{count}, log scale", scale=alt.Scale(type="symlog")),
            tooltip=[
                alt.Tooltip("n:Q", title=count, format=","),
                alt.Tooltip("from:Q", format=".4g"),
                alt.Tooltip("to:Q", format=".4g"),
            ],
        )
    )
    return chart


def flow_rows(
    graph: FlowGraph, names: Mapping[tuple[int, int], str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Nodes and edges with their places: x is the layer, y the place among those of the layer.

    Args:
        names: by (layer, latent), the words to put under a node.
    """
    layers: dict[int, list[int]] = {}
    for node in graph.nodes:
        layers.setdefault(node.layer, []).append(node.latent)

    def place(layer: int, latent: int) -> float:
        return (len(layers[layer]) - 1) / 2 - layers[layer].index(latent)

    nodes = [
        {
            "layer": node.layer,
            "latent": node.latent,
            "name": f"{node.layer}/{node.latent}",
            "promotes": names.get((node.layer, node.latent), ""),
            "class": node.origin,
            "place": place(node.layer, node.latent),
        }
        for node in graph.nodes
    ]
    edges = [
        {
            "layer": edge.layer_from,
            "place": place(edge.layer_from, edge.latent_from),
            "layer to": edge.layer_to,
            "place to": place(edge.layer_to, edge.latent_to),
            "from": f"{edge.layer_from}/{edge.latent_from}",
            "to": f"{edge.layer_to}/{edge.latent_to}",
            "cosine": edge.cosine,
            "middle": (edge.layer_from + edge.layer_to) / 2,
            "place middle": (
                place(edge.layer_from, edge.latent_from) + place(edge.layer_to, edge.latent_to)
            )
            / 2,
        }
        for edge in graph.edges
    ]
    return nodes, edges


def flow_chart(
    graph: FlowGraph, names: Mapping[tuple[int, int], str], asked: tuple[int, int]
) -> alt.LayerChart:
    """Latents of the layers around as a graph; a click on a node selects its layer and latent.

    Args:
        names: see ``flow_rows``.
        asked: (layer, latent) of the latent that the graph is of, drawn larger.
    """
    nodes, edges = flow_rows(graph, names)
    nodes = [dict(node, asked=(node["layer"], node["latent"]) == asked) for node in nodes]
    layers = sorted({node["layer"] for node in nodes})
    largest = max(abs(node["place"]) for node in nodes) + 0.6
    margin = max((layers[-1] - layers[0]) / 6, 0.5)
    span = alt.Scale(domain=[layers[0] - margin, layers[-1] + margin], nice=False)
    x = alt.X(
        "layer:Q", title="layer", scale=span, axis=alt.Axis(values=layers, format="d", grid=False)
    )
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[-largest, largest], nice=False))
    lines = (
        alt.Chart(alt.InlineData(values=edges))
        .mark_rule(color="#888888")
        .encode(
            x=x,
            y=y,
            x2="layer to:Q",
            y2="place to:Q",
            strokeWidth=alt.StrokeWidth(
                "cosine:Q", scale=alt.Scale(domain=[0.5, 1], range=[1, 5]), legend=None
            ),
            tooltip=["from:N", "to:N", alt.Tooltip("cosine:Q", format=".3f")],
        )
    )
    cosines = (
        alt.Chart(alt.InlineData(values=edges))
        .mark_text(dy=-8, color="#888888")
        .encode(
            x="middle:Q",
            y=alt.Y("place middle:Q", axis=None),
            text=alt.Text("cosine:Q", format=".2f"),
        )
    )
    classes = alt.Scale(domain=["kept", "newborn", "unmatched"])
    chosen = alt.selection_point(
        name=FLOW_CLICK, fields=["layer", "latent"], toggle=False, clear=False
    )
    dots = (
        alt.Chart(alt.InlineData(values=nodes))
        .mark_point(filled=True, opacity=1, cursor="pointer")
        .encode(
            x=x,
            y=y,
            color=alt.Color("class:N", scale=classes, legend=alt.Legend(orient="top", title=None)),
            shape=alt.Shape(
                "class:N",
                scale=alt.Scale(
                    domain=["kept", "newborn", "unmatched"], range=["circle", "diamond", "square"]
                ),
            ),
            size=alt.Size(
                "asked:O", scale=alt.Scale(domain=[False, True], range=[110, 320]), legend=None
            ),
            tooltip=["name:N", "promotes:N", "class:N"],
        )
        .add_params(chosen)
    )
    text = alt.Chart(alt.InlineData(values=nodes))
    labels = [
        text.mark_text(dy=below, color="#888888", limit=150).encode(x=x, y=y, text=f"{words}:N")
        for words, below in (("name", 20), ("promotes", 34))
    ]
    return alt.LayerChart(layer=[lines, cosines, dots, *labels]).properties(
        height=120 + 80 * int(2 * largest)
    )
