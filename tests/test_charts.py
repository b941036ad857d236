from dataclasses import replace
from typing import Any

import pytest

from app.charts import BRUSH, latents_in, overlap_rows, rate_scatter, score_curve
from saif_core.records import LatentScore, Ranking

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
