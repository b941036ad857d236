"""Contrast of two sets of texts: planted differences, dense definitions, and honest p-values."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, rankdata

from saif_core.errors import PromptPairError
from saif_core.explaining import contrast as module
from saif_core.explaining.contrast import LARGEST_EFFECT, Contrast, contrast
from saif_core.saes.latents import LatentActivations
from tests.test_latents import from_dense

N_TOKENS = 4


def as_tokens(means: np.ndarray) -> LatentActivations:
    """Texts of N_TOKENS tokens whose activations have the given means (n_texts, d_sae)."""
    shares = np.array([0.0, 1.0, 0.5, 2.5])
    tokens = (means[:, None] * shares[None, :, None]).reshape(-1, means.shape[1])
    return from_dense(tokens, np.repeat(np.arange(len(means)), N_TOKENS).tolist())


def random_means(rng: np.random.Generator, n_texts: int, d_sae: int) -> np.ndarray:
    # Few distinct values, so that there are ties besides the zeros.
    values = rng.integers(1, 6, (n_texts, d_sae)).astype(np.float64)
    return np.where(rng.random((n_texts, d_sae)) < 0.6, values, 0.0)


def halves_of(n_positive: int, n_negative: int, seed: int) -> np.ndarray:
    labels = np.arange(n_positive + n_negative) < n_positive
    return module._draw_half(labels, np.random.default_rng(seed))


def test_statistics_equal_the_dense_definitions() -> None:
    rng = np.random.default_rng(0)
    positive, negative = random_means(rng, 21, 30), random_means(rng, 14, 30)
    positive[:, 3] += 2
    positive[:, 9] = negative[:, 9] = 0
    found = contrast(as_tokens(positive), as_tokens(negative), seed=5)

    drawn = halves_of(21, 14, seed=5)
    assert (drawn[:21].sum(), drawn[21:].sum()) == (11, 7)
    assert (found.n_ranking, found.n_held_out) == (18, 17)
    one, other = positive[drawn[:21]], negative[drawn[21:]]
    np.testing.assert_allclose(found.mean_difference, one.mean(0) - other.mean(0), atol=1e-6)
    pooled = np.sqrt((10 * one.var(0, ddof=1) + 6 * other.var(0, ddof=1)) / 16)
    pooled[9] = 1.0
    np.testing.assert_allclose(found.effect, (one.mean(0) - other.mean(0)) / pooled, atol=1e-5)

    one, other = positive[~drawn[:21]], negative[~drawn[21:]]
    for latent in range(30):
        u = mannwhitneyu(one[:, latent], other[:, latent]).statistic
        assert found.auc[latent] == pytest.approx(u / (10 * 7))
    assert found.auc[9] == 0.5
    assert found.effect[9] == 0.0

    order = np.argsort(-np.abs(found.effect))[:20]
    assert found.best.tolist() == order.tolist()


def test_a_planted_latent_is_best_with_the_smallest_p_value() -> None:
    rng = np.random.default_rng(1)
    positive, negative = random_means(rng, 40, 200), random_means(rng, 40, 200)
    positive[:, 17] += 20
    negative[:, 111] += 20
    found = contrast(as_tokens(positive), as_tokens(negative), top=5, n_permutations=499)
    assert set(found.best[:2].tolist()) == {17, 111}
    assert found.auc[17] == 1.0
    assert found.auc[111] == 0.0
    assert found.effect[17] > 0 > found.effect[111]
    assert found.p_values[:2].tolist() == [1 / 500, 1 / 500]
    assert len(found.best) == len(found.p_values) == 5


def test_p_values_are_uniform_when_the_labels_mean_nothing() -> None:
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        positive, negative = (rng.exponential(size=(24, 40)) for _ in range(2))
        found = contrast(
            as_tokens(positive), as_tokens(negative), top=10, n_permutations=199, seed=seed
        )
        p_values += found.p_values.tolist()
    # 600 draws: the largest distance to the uniform distribution is beyond 0.08 once in 1,000.
    ordered = np.sort(p_values)
    assert np.abs(ordered - np.arange(1, 601) / 600).max() < 0.08
    assert min(p_values) >= 1 / 200


def test_p_values_count_permutations_at_least_as_extreme() -> None:
    rng = np.random.default_rng(2)
    positive, negative = random_means(rng, 16, 6), random_means(rng, 16, 6)
    found = contrast(as_tokens(positive), as_tokens(negative), top=6, n_permutations=4000, seed=3)
    drawn = halves_of(16, 16, seed=3)
    one, other = positive[~drawn[:16]], negative[~drawn[16:]]
    labels = np.arange(16) < 8
    for latent, p_value in zip(found.best, found.p_values, strict=True):
        ranks = rankdata(np.concatenate([one[:, latent], other[:, latent]]))
        sums = np.array([ranks[rng.permutation(labels)].sum() for _ in range(4000)])
        distance = np.abs(sums - 8 * 17 / 2)
        expected = (distance >= abs(ranks[labels].sum() - 8 * 17 / 2)).mean()
        assert p_value == pytest.approx(expected, abs=0.04)


def test_a_latent_without_spread_has_the_largest_effect_and_not_infinity() -> None:
    positive, negative = np.zeros((8, 3)), np.zeros((8, 3))
    positive[:, 0] = 1.0
    positive[:, 1] = 2.0
    negative[:, 2] = 1.0
    found = contrast(as_tokens(positive), as_tokens(negative))
    np.testing.assert_allclose(found.effect, [LARGEST_EFFECT, LARGEST_EFFECT, -LARGEST_EFFECT])
    assert found.best[0] == 1  # equal effects: the larger difference first


def test_the_same_seed_repeats_and_another_splits_anew() -> None:
    rng = np.random.default_rng(4)
    sets = as_tokens(random_means(rng, 20, 25)), as_tokens(random_means(rng, 20, 25))

    def numbers(found: Contrast) -> list[list[float]]:
        return [found.effect.tolist(), found.auc.tolist(), found.p_values.tolist()]

    assert numbers(contrast(*sets, seed=1)) == numbers(contrast(*sets, seed=1))
    assert numbers(contrast(*sets, seed=1)) != numbers(contrast(*sets, seed=2))


def test_a_text_counts_once_however_long_it_is() -> None:
    """Each text has mean 1 by its own length; the token mean over the set would differ."""
    lengths = [1, 2, 3, 5, 8, 13, 21, 34]
    rows = [np.full((n, 1), 1.0) for n in lengths]
    groups = np.repeat(np.arange(len(lengths)), lengths).tolist()
    some = from_dense(np.concatenate(rows), groups)
    half = from_dense(
        np.concatenate([row * (np.arange(len(row)) == 0)[:, None] * len(row) for row in rows]),
        groups,
    )
    found = contrast(some, half)
    assert found.mean_difference.tolist() == [0.0]
    assert found.auc.tolist() == [0.5]


def test_texts_without_tokens_and_silent_sets() -> None:
    silent = as_tokens(np.zeros((5, 12)))
    found = contrast(silent, silent)
    assert found.best.tolist() == found.p_values.tolist() == []
    assert set(found.auc.tolist()) == {0.5}
    # Texts 0 and 2 of three: one without tokens leaves no row.
    gap = from_dense(np.ones((8, 12)), [0, 0, 2, 2, 3, 3, 5, 5])
    assert contrast(gap, silent).n_ranking == 2 + 3


def test_too_few_texts_are_refused() -> None:
    few, enough = as_tokens(np.ones((3, 2))), as_tokens(np.ones((4, 2)))
    with pytest.raises(PromptPairError, match="they have 3 and 4 texts"):
        contrast(few, enough)
    assert contrast(enough, enough).n_held_out == 4


def test_as_many_latents_as_an_sae_has_cost_only_what_fires() -> None:
    rng = np.random.default_rng(6)
    d_sae, n_texts, per_text = 65_536, 60, 400

    def texts() -> LatentActivations:
        indices = np.sort(
            np.stack([rng.choice(d_sae, per_text, replace=False) for _ in range(n_texts)])
        )
        indices[:, 0] = 0
        return LatentActivations(
            np.arange(0, n_texts * per_text + 1, per_text),
            indices.ravel(),
            rng.random(n_texts * per_text).astype(np.float32) + 0.01,
            np.arange(n_texts),
            d_sae,
        )

    positive, negative = texts(), texts()
    positive.values[::per_text] += 2
    found = contrast(positive, negative, n_permutations=99)
    assert found.auc.shape == (d_sae,)
    assert found.best[0] == 0
    assert found.p_values[0] == 1 / 100
    assert np.isfinite(found.effect).all()
