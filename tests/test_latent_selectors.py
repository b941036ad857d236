"""Every selector: planted latent first, permutation, no NaN; each one's own formula by hand."""

import numpy as np
import pytest

from saif_core.registry import SELECTORS
from tests.contracts import parameters_of
from tests.test_latents import from_dense

# What asks a study for more is tried on a model, in test_sources.
ALONE = [one.name for one in SELECTORS if one.takes == ("positive", "negative")]

rng = np.random.default_rng(1)


def planted(d_sae: int = 20, n_pairs: int = 30, latent: int = 7) -> tuple[np.ndarray, np.ndarray]:
    noise = [
        np.where(rng.random((n_pairs, d_sae)) < 0.2, rng.random((n_pairs, d_sae)), 0) for _ in "ab"
    ]
    positive, negative = (n.astype(np.float32) for n in noise)
    positive[:, latent], negative[:, latent] = 2.0 + rng.random(n_pairs), 0.0
    return positive, negative


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("paired", [True, False])
def test_planted_latent_comes_first_whatever_its_index(name: str, paired: bool) -> None:
    positive, negative = planted()
    groups = None if paired else [j // 3 for j in range(30)]
    score = SELECTORS.bind(name, parameters_of(SELECTORS.get(name)))
    scores = score(from_dense(positive, groups), from_dense(negative, groups))
    assert scores.shape == (20,)
    assert np.isfinite(scores).all()
    assert int(np.argmax(scores)) == 7
    order = rng.permutation(20)
    permuted = score(from_dense(positive[:, order], groups), from_dense(negative[:, order], groups))
    np.testing.assert_allclose(permuted, scores[order])


@pytest.mark.parametrize("name", ALONE)
def test_silent_latents_score_without_nan(name: str) -> None:
    silent = from_dense(np.zeros((3, 5), dtype=np.float32))
    score = SELECTORS.bind(name, parameters_of(SELECTORS.get(name)))
    np.testing.assert_array_equal(score(silent, silent), np.zeros(5))


def test_correlation_is_pearsons_with_the_instruction() -> None:
    positive, negative = planted()
    groups = [j // 3 for j in range(30)]
    scores = SELECTORS.bind("correlation", {})(
        from_dense(positive, groups), from_dense(negative, groups)
    )
    means = [side.reshape(10, 3, 20).mean(axis=1) for side in (positive, negative)]
    label = np.repeat([1.0, 0.0], 10)
    expected = [np.corrcoef(np.concatenate(means)[:, i], label)[0, 1] for i in range(20)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_sensitivity_counts_pairs_that_switch_on() -> None:
    positive = from_dense(np.array([[1, 1, 2], [1, 0, 2], [0, 1, 2], [1, 1, 2]], dtype=np.float32))
    negative = from_dense(np.array([[0, 1, 1], [0, 0, 1], [0, 1, 1], [1, 0, 1]], dtype=np.float32))
    fires = SELECTORS.bind("sensitivity", {})(positive, negative)
    higher = SELECTORS.bind("sensitivity", {"compare": "higher"})(positive, negative)
    np.testing.assert_allclose(fires, [0.5, 0.25, 0.0])
    np.testing.assert_allclose(higher, [0.5, 0.25, 1.0])


def test_sensitivity_over_response_tokens_is_a_difference_of_rates() -> None:
    positive = from_dense(
        np.array([[1, 1], [1, 0], [0, 1], [1, 1]], dtype=np.float32), [0, 0, 1, 1]
    )
    negative = from_dense(np.array([[0, 1], [0, 1]], dtype=np.float32), [0, 1])
    scores = SELECTORS.bind("sensitivity", {})(positive, negative)
    np.testing.assert_allclose(scores, [0.75, -0.25])
