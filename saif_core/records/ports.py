"""What the engine wants of a store, without knowing one; ``storage`` implements it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from saif_core.records.corpus import (
    CorpusBlock,
    LatentIndex,
    LatentProfile,
    ProfileText,
)
from saif_core.records.evaluation import Evaluation, EvaluationText
from saif_core.records.jobs import JobRecord
from saif_core.records.notes import LatentDescription


class ActivationCache(Protocol):
    """Where the engine keeps what it computed; ``storage`` implements it.

    Keys are content hashes, payloads are opaque. ``put_many`` may be called for keys that exist:
    the first payload stays. Safe from several threads and processes.
    """

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Payloads of the keys that are there."""

    def put_many(self, payloads: Mapping[str, bytes]) -> None:
        """Keep payloads, all or none."""


class TensorPort(Protocol):
    """Where learned tensors are kept, such as steering vectors; ``storage`` implements it.

    A record never holds their numbers but the SHA-256 that ``put`` returns: whoever has it gets
    exactly what was put. The same content has the same hash. Tensors are numpy arrays, which have
    no bfloat16. Safe from several threads and processes.
    """

    def put(self, tensors: Mapping[str, np.ndarray], *, note: str = "") -> str:
        """The SHA-256 that named tensors are kept under, all or none."""

    def get(self, sha256: str) -> dict[str, np.ndarray]:
        """The tensors that are kept under a hash, by name."""


class JobLog(Protocol):
    """Where the engine reports its jobs; ``storage`` implements it."""

    def save_job(self, job: JobRecord) -> None:
        """Insert or update a job."""


class EvaluationLog(Protocol):
    """Where the engine keeps finished evaluations; ``storage`` implements it."""

    def save(self, evaluation: Evaluation, texts: Sequence[EvaluationText]) -> None:
        """Keep an evaluation with its texts, all or nothing."""


class ContextStore(Protocol):
    """Where contexts and their activations go; ``storage`` implements it."""

    def open_index(
        self,
        name: str,
        model_sha256: str,
        sae_sha256: str,
        d_sae: int,
        hook_point: str = "",
        sae_id: str = "",
        source_sha256: str = "",
    ) -> LatentIndex:
        """The index of a text that was read by a model through an SAE; begun where there is none.

        Whoever asks for the same one at the same time gets the same one.
        """

    def indexes(self) -> list[LatentIndex]:
        """Every index, the newest first."""

    def append(self, index_id: str, block: CorpusBlock, *, first: int) -> None:
        """Add the contexts of a block that are not there yet, in one transaction.

        Args:
            first: which context of the corpus the block begins with.
        """

    def blocks(self, index_id: str) -> Iterator[CorpusBlock]:
        """All contexts of an index, in order, some at a time."""

    def checkpoint(self, index_id: str) -> None:
        """Write the density of everything added so far."""

    def density(self, index_id: str) -> np.ndarray:
        """Number of tokens on which each latent fires, (d_sae,) int64."""

    def finish(self, index_id: str) -> None:
        """Close the index: nothing can be added from now on."""


class ProfileWriter(Protocol):
    """Where profiles go; ``storage`` implements it."""

    def put(
        self, index_id: str, profiles: Sequence[LatentProfile], texts: Sequence[ProfileText]
    ) -> None:
        """Keep profiles in one transaction; those of the same latents are replaced."""


class NoteLog(Protocol):
    """Where descriptions of latents go; ``storage`` implements it."""

    def add_description(self, description: LatentDescription) -> Any:
        """Keep a description."""
