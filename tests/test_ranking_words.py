from dataclasses import replace

import pytest

from app.presentation.ranking import share, verdict
from saif_core.records.ranking import LatentScore, Ranking


def latent(index: int, rate_with: float, rate_without: float) -> LatentScore:
    return LatentScore(index, 0.5, 1.0, 0.1, rate_with, rate_without, 0.5)


RANKING = Ranking(
    model="m",
    model_sha256="",
    sae="s",
    sae_sha256="",
    hook_point="blocks.14.hook_resid_post",
    d_sae=4608,
    instruction="translate-to-french",
    read="response",
    selector="sensitivity",
    selector_parameters={},
    n_pairs=48,
    top=15,
    latents=(latent(1496, 0.61, 0.03), latent(2398, 0.56, 0.02), latent(3, 0.1, 0.0)),
    n_selective=0,
    seconds=1.0,
    tokens_total=1,
    tokens_computed=1,
    cached=False,
)


def test_the_verdict_says_how_often_the_best_fire_with_and_without() -> None:
    assert verdict(RANKING) == (
        "The two best, latents 1496 and 2398, fire on 61% and 56% of answer tokens with "
        "translate-to-french, and on 3% and 2% without (48 prompt pairs)."
    )


def test_nothing_is_said_of_the_threshold_unless_a_latent_passes_it() -> None:
    assert "80%" not in verdict(RANKING)
    assert "Of all 4,608, 1 latent fires on at least 80%" in verdict(
        replace(RANKING, n_selective=1)
    )
    assert "2 latents fire on at least 80%" in verdict(replace(RANKING, n_selective=2))


def test_the_position_that_was_read_is_named() -> None:
    assert "of prompts, at their last token," in verdict(replace(RANKING, read="last-token"))


def test_one_latent_alone_is_one() -> None:
    alone = replace(RANKING, latents=RANKING.latents[:1], n_pairs=1)
    assert verdict(alone).startswith("The best latent, 1496, fires on 61% of")
    assert "(1 prompt pair)" in verdict(alone)


def test_a_ranking_in_which_nothing_stands_out_says_so() -> None:
    flat = replace(RANKING, latents=(latent(1, 0.2, 0.2),))
    assert verdict(flat).startswith("No latent stands out.")
    assert "lists no latent" in verdict(replace(RANKING, latents=()))


@pytest.mark.parametrize(
    ("part", "words"),
    [(0.0, "0%"), (0.004, "under 1%"), (0.5, "50%"), (0.996, "over 99%"), (1.0, "100%")],
)
def test_a_share_never_calls_something_nothing(part: float, words: str) -> None:
    assert share(part) == words
