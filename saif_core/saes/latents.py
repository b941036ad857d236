"""Step 3: residual stream → sparse latent activations, and their statistics per latent."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from saif_core.records.packing import pack_activations, unpack_activations


@dataclass(frozen=True)
class LatentActivations:
    """Latent activations of some token positions, sparse by row (CSR).

    Attributes:
        indptr: (n_rows + 1,) where each row starts in ``indices`` and ``values``.
        indices: latent index of each nonzero activation.
        values: the activations, all positive.
        groups: (n_rows,) prompt that each row was read from.
        d_sae: number of latents.
    """

    indptr: Int[np.ndarray, " n_rows_plus_one"]
    indices: Int[np.ndarray, " n_nonzero"]
    values: Float[np.ndarray, " n_nonzero"]
    groups: Int[np.ndarray, " n_rows"]
    d_sae: int

    @property
    def n_rows(self) -> int:
        return len(self.indptr) - 1

    @property
    def one_row_per_prompt(self) -> bool:
        """Whether row j is prompt j, so that two sets can be compared pair by pair."""
        return bool(np.array_equal(self.groups, np.arange(self.n_rows)))

    def firing_rate(self) -> Float[np.ndarray, " d_sae"]:
        """Share of rows in which each latent fires."""
        return self._count() / max(self.n_rows, 1)

    def mean(self) -> Float[np.ndarray, " d_sae"]:
        """Mean activation of each latent over all rows, zeros included."""
        return self._sum(self.values) / max(self.n_rows, 1)

    def firing_mean_and_std(
        self,
    ) -> tuple[Float[np.ndarray, " d_sae"], Float[np.ndarray, " d_sae"]]:
        """Mean and standard deviation of each latent over the rows in which it fires; else 0."""
        count = np.maximum(self._count(), 1)
        mean = self._sum(self.values) / count
        deviation = self.values - mean[self.indices]
        return mean, np.sqrt(self._sum(deviation**2) / count)

    def dense(self) -> Float[np.ndarray, "n_rows d_sae"]:
        """All activations as a matrix."""
        matrix = np.zeros((self.n_rows, self.d_sae), dtype=np.float32)
        matrix[self.row_of_nonzero(), self.indices] = self.values
        return matrix

    def latent_by_prompt(self, index: int, n_prompts: int) -> Float[np.ndarray, " n_prompts"]:
        """Mean activation of one latent over the rows of each prompt."""
        mine = self.indices == index
        prompts = self.groups[self.row_of_nonzero()[mine]]
        total = np.bincount(prompts, weights=self.values[mine], minlength=n_prompts)
        return np.asarray(total / np.maximum(np.bincount(self.groups, minlength=n_prompts), 1))

    def rows(self, which: Int[np.ndarray, " n"]) -> "LatentActivations":
        """Some of the rows, in the order given."""
        starts, counts = self.indptr[which], np.diff(self.indptr)[which]
        ends = np.cumsum(counts)
        within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
        nonzero = np.repeat(starts, counts) + within
        indptr = np.concatenate([np.zeros(1, dtype=np.int64), ends])
        return LatentActivations(
            indptr, self.indices[nonzero], self.values[nonzero], self.groups[which], self.d_sae
        )

    def row_of_nonzero(self) -> Int[np.ndarray, " n_nonzero"]:
        """Row of each nonzero activation."""
        return np.repeat(np.arange(self.n_rows), np.diff(self.indptr))

    def _count(self) -> Float[np.ndarray, " d_sae"]:
        return np.bincount(self.indices, minlength=self.d_sae).astype(np.float64)

    def _sum(self, weights: np.ndarray) -> Float[np.ndarray, " d_sae"]:
        return np.bincount(self.indices, weights=weights, minlength=self.d_sae)


def join_rows(parts: Sequence[LatentActivations]) -> LatentActivations:
    """One set from several; part j becomes prompt j.

    Args:
        parts: at least one set, all of the same ``d_sae``.
    """
    starts = np.cumsum([0, *(len(part.values) for part in parts)])
    indptr = [np.zeros(1, dtype=np.int64)]
    indptr += [part.indptr[1:] + start for part, start in zip(parts, starts, strict=False)]
    return LatentActivations(
        np.concatenate(indptr),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([np.full(part.n_rows, j) for j, part in enumerate(parts)]),
        parts[0].d_sae,
    )


def to_payload(activations: LatentActivations) -> bytes:
    """Bytes for the cache, see ``pack_activations``; groups are left out."""
    return pack_activations(
        np.diff(activations.indptr), activations.indices, activations.values, activations.d_sae
    )


def from_payload(payload: bytes, d_sae: int) -> LatentActivations:
    """The activations that ``to_payload`` wrote, as rows of prompt 0.

    Raises:
        StorageError: another version of SAIF wrote them.
    """
    counts, indices, values = unpack_activations(payload)
    indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(counts)])
    return LatentActivations(indptr, indices, values, np.zeros(len(counts), dtype=np.int64), d_sae)
