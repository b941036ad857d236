"""Sparse latent activations against their dense definition."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saif_core.errors import StorageError
from saif_core.saes.latents import LatentActivations, from_payload, join_rows, to_payload


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


@pytest.mark.parametrize(("d_sae", "index_bytes"), [(12, 2), (65_536, 2), (70_000, 4)])
def test_a_payload_keeps_rows_and_latents_and_is_small(
    dense: np.ndarray, d_sae: int, index_bytes: int
) -> None:
    wide = np.zeros((9, d_sae), dtype=np.float32)
    wide[:, -12:] = dense
    sparse = from_dense(wide)
    payload = to_payload(sparse)
    again = from_payload(payload, d_sae)
    np.testing.assert_array_equal(again.indptr, sparse.indptr)
    np.testing.assert_array_equal(again.indices, sparse.indices)
    np.testing.assert_allclose(again.values, sparse.values, rtol=5e-4)
    assert len(payload) == 10 + 2 * 9 + (2 + index_bytes) * len(sparse.values)


def test_a_row_may_hold_more_than_65535_activations() -> None:
    wide = np.ones((2, 70_000), dtype=np.float32)
    np.testing.assert_array_equal(from_payload(to_payload(from_dense(wide)), 70_000).dense(), wide)


@given(
    hnp.arrays(
        np.float32,
        st.integers(1, 40),
        elements=st.floats(np.float32(1e-30), np.float32(3e38), width=32),
    )
)
def test_stored_activations_are_close_and_never_zero(values: np.ndarray) -> None:
    n = len(values)
    row = LatentActivations(np.array([0, n]), np.arange(n), values, np.zeros(1, np.int64), n)
    again = from_payload(to_payload(row), n).values.astype(np.float64)
    error = np.abs(again - values) / values
    assert (error[values >= values.max() * 2.0**-14] <= 5e-4).all()
    assert (again > 0).all()
    assert np.isfinite(again).all()
    # Below that, a value is off by less than the smallest share.
    smallest = float(values.max()) * 2.0**-24
    assert (np.abs(again - values) <= np.maximum(5e-4 * values, smallest)).all()


@pytest.mark.parametrize("value", [1e-45, 1e-38, 1.6e-38, 3e-38, 3.4e38])
def test_the_smallest_and_largest_numbers_survive(value: float) -> None:
    row = LatentActivations(
        np.array([0, 2]),
        np.arange(2),
        np.array([value, 1e-45], np.float32),
        np.zeros(1, np.int64),
        2,
    )
    again = from_payload(to_payload(row), 2).values
    assert again[0] == np.float32(value)
    assert again[1] > 0


def test_a_payload_written_twice_is_the_same_as_once(dense: np.ndarray) -> None:
    once = to_payload(from_dense(dense))
    assert to_payload(from_payload(once, 12)) == once


def test_rows_without_activations_survive() -> None:
    empty = from_dense(np.zeros((3, 12), dtype=np.float32))
    again = from_payload(to_payload(empty), 12)
    assert again.n_rows == 3
    assert len(again.values) == 0
    none = from_dense(np.zeros((0, 12), dtype=np.float32), [])
    assert from_payload(to_payload(none), 12).n_rows == 0


@pytest.mark.parametrize("payload", [b"", b"\x01", bytes(100)])
def test_a_payload_of_another_version_is_refused(payload: bytes) -> None:
    with pytest.raises(StorageError, match="another version"):
        from_payload(payload, 12)


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
