"""Feature flow on planted decoder directions."""

import numpy as np
import pytest
import torch
from torch import Tensor

from saif_core.errors import HookPointError, UnknownLatentError
from saif_core.explaining import flow
from saif_core.explaining.flow import (
    CHANCE_COSINE,
    KEPT_COSINE,
    classify_origin,
    coactivation,
    flow_graph,
    match_latents,
)
from saif_core.records.flow import FlowEdge, FlowNode


def random_directions(n: int, d_model: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d_model, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def decoders() -> dict[int, Tensor]:
    """Unit axes; only what is set below is shared between layers 3, 5 and 9.

    5/0 is 3/2 and goes on as 9/1; 9/3 is 5/0 at a cosine of 0.6; 5/3 is half-way from 3/0.
    """
    axes = torch.eye(16)
    weak = 0.3 * axes[0] + (1 - 0.3**2) ** 0.5 * axes[15]
    slanted = 0.6 * axes[2] + 0.8 * axes[14]
    return {
        9: torch.stack([axes[10], 7 * axes[2], axes[11], slanted]),
        3: torch.stack([axes[0], axes[1], 2 * axes[2], axes[3]]),
        5: torch.stack([5 * axes[2], axes[8], axes[9], weak]),
    }


def test_matches_are_the_largest_cosines_whatever_the_norms(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, there = random_directions(50, 12), random_directions(70, 12, seed=1)
    here *= torch.linspace(0.1, 30, 50)[:, None]
    there *= torch.linspace(20, 0.01, 70)[:, None]
    latents = [3, 49, 0, 17, 3]
    expected = torch.nn.functional.cosine_similarity(here[latents, None], there[None], dim=-1)
    order = expected.argsort(dim=-1, descending=True)[:, :4]
    whole = match_latents(here, there, latents, 4)
    assert whole.indices.tolist() == order.tolist()
    torch.testing.assert_close(whole.cosines, expected.gather(1, order))
    # Blocks of two latents, the last one of one.
    monkeypatch.setattr(flow, "_BLOCK_COSINES", 2 * 70)
    blocks = match_latents(here, there, latents, 4)
    assert blocks.indices.tolist() == whole.indices.tolist()


def test_a_planted_rotation_and_order_is_found_again() -> None:
    here = random_directions(40, 24)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    matches = match_latents(here, 3 * here[order], list(range(40)), 1)
    assert order[matches.indices[:, 0]].tolist() == list(range(40))
    torch.testing.assert_close(matches.cosines[:, 0], torch.ones(40))


def test_there_are_no_more_matches_than_latents_and_none_for_a_zero_direction() -> None:
    there = torch.stack([torch.zeros(3), torch.tensor([0.0, -2.0, 0.0])])
    matches = match_latents(torch.eye(3), there, [1], 5)
    assert matches.indices.tolist() == [[0, 1]]
    assert matches.cosines.tolist() == [[0.0, -1.0]]
    assert match_latents(torch.eye(3), there, [], 2).indices.shape == (0, 2)


def test_half_precision_directions_are_matched() -> None:
    matches = match_latents(torch.eye(3).bfloat16(), torch.eye(3), [2], 1)
    assert matches.indices.tolist() == [[2]]


@pytest.mark.parametrize(
    ("cosine", "origin"),
    [
        (1.0, "kept"),
        (KEPT_COSINE, "kept"),
        (KEPT_COSINE - 0.01, "newborn"),
        (CHANCE_COSINE, "newborn"),
        (CHANCE_COSINE - 0.01, "unmatched"),
        (-0.9, "unmatched"),
        (None, "unmatched"),
    ],
)
def test_origin_follows_the_best_match(cosine: float | None, origin: str) -> None:
    assert classify_origin(cosine) == origin


def test_the_chance_cosine_is_just_above_what_random_directions_reach() -> None:
    there = random_directions(65_536, 576, seed=3)
    best = match_latents(random_directions(64, 576), there, list(range(64)), 1).cosines
    assert 0.85 * CHANCE_COSINE < float(best.mean()) < CHANCE_COSINE
    assert float((best < CHANCE_COSINE).float().mean()) > 0.85


def test_the_graph_walks_both_ways_over_the_layers_that_are_there(
    decoders: dict[int, Tensor],
) -> None:
    graph = flow_graph(0, 5, decoders)
    assert graph.nodes == (
        FlowNode(3, 2, "unmatched"),
        FlowNode(5, 0, "kept"),
        FlowNode(9, 1, "kept"),
        FlowNode(9, 3, "kept"),
    )
    assert [(e.layer_from, e.latent_from, e.layer_to, e.latent_to) for e in graph.edges] == [
        (3, 2, 5, 0),
        (5, 0, 9, 1),
        (5, 0, 9, 3),
    ]
    assert [e.cosine for e in graph.edges] == pytest.approx([1.0, 1.0, 0.6])


def test_the_graph_follows_matches_over_several_layers(decoders: dict[int, Tensor]) -> None:
    backwards = flow_graph(3, 9, decoders, breadth=1)
    assert backwards.edges == (
        FlowEdge(3, 2, 5, 0, pytest.approx(1.0)),
        FlowEdge(5, 0, 9, 3, pytest.approx(0.6)),
    )
    forwards = flow_graph(2, 3, decoders, breadth=1)
    assert [(e.layer_to, e.latent_to) for e in forwards.edges] == [(5, 0), (9, 1)]
    assert len(flow_graph(2, 3, decoders, depth=1).edges) == 1


def test_a_latent_without_a_like_stands_alone(decoders: dict[int, Tensor]) -> None:
    assert flow_graph(3, 5, decoders).nodes == (FlowNode(5, 3, "newborn"),)
    assert flow_graph(1, 5, decoders).nodes == (FlowNode(5, 1, "unmatched"),)
    assert flow_graph(3, 5, decoders).edges == ()


def test_a_missing_layer_or_latent_is_refused(decoders: dict[int, Tensor]) -> None:
    with pytest.raises(HookPointError, match="layers 3, 5, 9"):
        flow_graph(0, 4, decoders)
    for latent in (-1, 4):
        with pytest.raises(UnknownLatentError, match="latents 0 to 3"):
            flow_graph(latent, 5, decoders)


def test_coactivation_by_hand() -> None:
    found = coactivation(np.array([1, 4, 6, 9]), np.array([9, 2, 4, 7, 8]), 20)
    assert (found.n_a, found.n_b, found.n_both) == (4, 5, 2)
    assert found.b_given_a == 0.5
    assert found.a_given_b == 0.4
    assert found.lift == pytest.approx((2 / 20) / ((4 / 20) * (5 / 20)))


def test_coactivation_of_independent_latents_has_lift_one() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.flatnonzero(rng.random(200_000) < share) for share in (0.1, 0.3))
    lift = coactivation(a, b, 200_000).lift
    assert lift == pytest.approx(1.0, abs=0.05)


def test_rates_of_a_latent_that_never_fires_are_unknown() -> None:
    found = coactivation(np.array([3]), np.zeros(0, dtype=np.int64), 10)
    assert (found.b_given_a, found.a_given_b, found.lift) == (0.0, None, None)
