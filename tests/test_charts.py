from dataclasses import replace
from typing import Any

import pytest

from app.charts.latent import (
    FLOW_CLICK,
    flow_chart,
    flow_rows,
    logit_histogram,
    profile_histogram,
)
from app.charts.ranking import BRUSH, latents_in, overlap_rows, rate_scatter, score_curve
from saif_core.records.corpus import LatentProfile
from saif_core.records.flow import FlowEdge, FlowGraph, FlowNode
from saif_core.records.ranking import LatentScore, Ranking

LATENTS = tuple(
    LatentScore(10 + n, 1 - n / 10, 2.0, 0.5, 1 - n / 10, n / 20, 1.0, (f" t{n}",))
    for n in range(6)
)
RANKING = Ranking(
    model="m",
    model_sha256="",
    sae="s",
    sae_sha256="",
    hook_point="blocks.1.hook_resid_post",
    d_sae=64,
    instruction="i",
    read="response",
    selector="mean_difference",
    selector_parameters={},
    n_pairs=4,
    top=2,
    latents=LATENTS,
    n_selective=1,
    seconds=0.1,
    tokens_total=10,
    tokens_computed=10,
    cached=False,
)


def rows_of(spec: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    """Altair moves inline rows to the top of the specification, by name."""
    rows: list[dict[str, Any]] = spec["datasets"][part["data"]["name"]]
    return rows


def test_the_curve_marks_the_top_k_and_cuts_after_it() -> None:
    spec = score_curve(RANKING, 2).to_dict()
    points, rule = spec["layer"]
    rows = rows_of(spec, points)
    assert [row["score"] for row in rows] == [latent.score for latent in LATENTS]
    assert [row["cut"] for row in rows].count("in the top k") == 2
    assert rows_of(spec, rule)[0]["cut_at"] == 2.5


def test_the_curve_leaves_out_the_long_tail() -> None:
    long = replace(RANKING, latents=LATENTS * 200)
    for top, n_shown in ((5, 100), (50, 200)):
        spec = score_curve(long, top).to_dict()
        assert len(rows_of(spec, spec["layer"][0])) == n_shown


def test_the_scatter_has_a_dot_per_latent_and_a_brush_over_both_rates() -> None:
    spec = rate_scatter(RANKING, 2).to_dict()
    rows = rows_of(spec, spec)
    assert [(row["latent"], row["with"], row["without"]) for row in rows] == [
        (latent.index, latent.rate_positive, latent.rate_negative) for latent in LATENTS
    ]
    (brush,) = spec["params"]
    assert brush["name"] == BRUSH
    assert brush["select"] == {"type": "interval", "encodings": ["x", "y"]}
    assert spec["encoding"]["x"]["field"] == "without"
    assert spec["encoding"]["y"]["field"] == "with"


def test_nothing_brushed_keeps_all() -> None:
    assert latents_in(LATENTS, {}) == LATENTS


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        ({"with": [0.75, 1.0], "without": [0.0, 1.0]}, [10, 11, 12]),
        ({"with": [1.0, 0.75], "without": [0.04, 0.06]}, [11]),
        ({"with": [0.0, 0.1], "without": [0.0, 0.1]}, []),
    ],
)
def test_a_brush_keeps_what_lies_in_it(selection: dict[str, list[float]], kept: list[int]) -> None:
    assert [latent.index for latent in latents_in(LATENTS, selection)] == kept


def test_overlap_counts_shared_latents() -> None:
    assert overlap_rows({"a": [1, 2, 3], "b": [3, 4]}) == [
        {"ranking": "a", "a": 3, "b": 1},
        {"ranking": "b", "a": 1, "b": 2},
    ]


PROFILE = LatentProfile(
    latent=3,
    n_fired=7,
    maximum=8.0,
    mean=2.0,
    quantiles=(0.1, 0.2, 0.5, 1.0, 2.0, 6.0, 7.5),
    histogram=(4, 2, *(0,) * 29, 1),
    n_first=0,
    n_special=0,
    cofiring=(),
    examples=(),
    promoted=(),
    suppressed=(),
    logit_histogram=(1, 0, 5, 2),
    logit_range=(-1.0, 3.0),
)
GRAPH = FlowGraph(
    (
        FlowNode(14, 1, "unmatched"),
        FlowNode(14, 5, "unmatched"),
        FlowNode(22, 9, "kept"),
    ),
    (FlowEdge(14, 1, 22, 9, 0.9), FlowEdge(14, 5, 22, 9, 0.6)),
)


def test_the_firing_histogram_has_a_bar_per_bin_and_a_line_per_quantile() -> None:
    spec = profile_histogram(PROFILE).to_dict()
    bars, rules, names = (rows_of(spec, layer) for layer in spec["layer"])
    assert [(bar["from"], bar["to"], bar["n"]) for bar in bars] == [
        (0.0, 0.25, 4),
        (0.25, 0.5, 2),
        (7.75, 8.0, 1),
    ]
    assert spec["layer"][0]["encoding"]["y"]["scale"]["type"] == "symlog"
    assert [rule["activation"] for rule in rules] == list(PROFILE.quantiles)
    assert {"quantile": "50%", "activation": 1.0} in names


def test_the_logit_histogram_spans_the_range_of_the_logits() -> None:
    spec = logit_histogram(PROFILE).to_dict()
    assert [(bar["from"], bar["to"], bar["n"]) for bar in rows_of(spec, spec)] == [
        (-1.0, 0.0, 1),
        (1.0, 2.0, 5),
        (2.0, 3.0, 2),
    ]


def test_flow_edges_end_where_their_nodes_are() -> None:
    nodes, edges = flow_rows(GRAPH, {(14, 1): "era · ere"})
    at = {node["name"]: (node["layer"], node["place"]) for node in nodes}
    assert len(set(at.values())) == len(nodes)
    for edge in edges:
        assert at[edge["from"]] == (edge["layer"], edge["place"])
        assert at[edge["to"]] == (edge["layer to"], edge["place to"])
    assert {node["name"]: node["promotes"] for node in nodes} == {
        "14/1": "era · ere",
        "14/5": "",
        "22/9": "",
    }


def test_a_click_on_the_flow_selects_layer_and_latent() -> None:
    spec = flow_chart(GRAPH, {}, (22, 9)).to_dict()
    (click,) = spec["params"]
    assert click["name"] == FLOW_CLICK
    assert click["select"]["fields"] == ["layer", "latent"]
    dots = spec["layer"][2]
    assert dots["encoding"]["color"]["field"] == dots["encoding"]["shape"]["field"] == "class"
    assert [row["asked"] for row in rows_of(spec, dots)] == [False, False, True]
    # A browser draws nothing when some layers have an axis and others have none.
    assert all(layer["encoding"]["y"]["axis"] is None for layer in spec["layer"])
