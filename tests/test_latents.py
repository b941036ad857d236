"""Sparse latent activations against their dense definition."""

import numpy as np
import pytest

from saif_core.latents import LatentActivations, from_payload, join_rows, to_payload


def from_dense(matrix: np.ndarray, groups: list[int] | None = None) -> LatentActivations:
    rows, indices = np.nonzero(matrix)
    counts = np.bincount(rows, minlength=len(matrix))
    return LatentActivations(
        np.concatenate([[0], np.cumsum(counts)]),
        indices,
        matrix[rows, indices].astype(np.float32),
        np.arange(len(matrix)) if groups is None else np.array(groups),
        matrix.shape[1],
    )


@pytest.fixture
def dense() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(rng.random((9, 12)) < 0.3, rng.random((9, 12)), 0).astype(np.float32)


def test_statistics_equal_the_dense_ones(dense: np.ndarray) -> None:
    sparse = from_dense(dense)
    np.testing.assert_allclose(sparse.firing_rate(), (dense > 0).mean(0))
    np.testing.assert_allclose(sparse.mean(), dense.mean(0), rtol=1e-6)
    mean, std = sparse.firing_mean_and_std()
    for latent in range(12):
        fired = dense[:, latent][dense[:, latent] > 0]
        assert mean[latent] == pytest.approx(fired.mean() if len(fired) else 0, rel=1e-5)
        assert std[latent] == pytest.approx(fired.std() if len(fired) else 0, abs=1e-6)
    np.testing.assert_array_equal(sparse.dense(), dense)


@pytest.mark.parametrize("d_sae", [12, 70_000])
def test_payload_round_trip_is_exact_and_small(dense: np.ndarray, d_sae: int) -> None:
    wide = np.zeros((9, d_sae), dtype=np.float32)
    wide[:, -12:] = dense
    sparse = from_dense(wide)
    payload = to_payload(sparse)
    again = from_payload(payload, d_sae)
    np.testing.assert_array_equal(again.dense(), wide)
    bytes_each = 6 if d_sae <= 65_536 else 8
    assert len(payload) == 8 + 4 * 9 + bytes_each * len(sparse.values)


def test_joined_rows_remember_their_prompt(dense: np.ndarray) -> None:
    empty = from_dense(np.zeros((0, 12), dtype=np.float32), [])
    joined = join_rows([from_dense(dense[:4]), empty, from_dense(dense[4:])])
    np.testing.assert_array_equal(joined.dense(), dense)
    assert joined.groups.tolist() == [0] * 4 + [2] * 5
    assert not joined.one_row_per_prompt
    assert join_rows([from_dense(row[None]) for row in dense]).one_row_per_prompt


def test_latent_by_prompt_is_the_mean_over_its_rows(dense: np.ndarray) -> None:
    groups = [0, 0, 0, 2, 2, 2, 2, 3, 3]
    found = from_dense(dense, groups).latent_by_prompt(5, 4)
    expected = [dense[:3, 5].mean(), 0.0, dense[3:7, 5].mean(), dense[7:, 5].mean()]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
