"""A corpus read through SAEs: every token's latents, then a profile of every latent.

The text runs through the model once for all SAEs. What is read goes to the store batch by batch,
so an index that was stopped goes on where it was, and ends the same to the last byte.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np

from saif_core.activations import read_rows
from saif_core.corpus import Position, encode_contexts, find_files, hash_files, read_documents
from saif_core.corpus_records import (
    CorpusBlock,
    LatentIndex,
    LatentProfile,
    ProfileText,
)
from saif_core.errors import CorpusError
from saif_core.latent_profiles import profile_latents
from saif_core.latents import LatentActivations, join_rows
from saif_core.models import LoadedModel
from saif_core.saes import LoadedSae

CONTEXTS_PER_WRITE = 64

Step = Callable[[int, int, str], None]


class ContextStore(Protocol):
    """Where contexts and their activations go; ``storage`` implements it."""

    def create_index(
        self,
        name: str,
        model_sha256: str,
        sae_sha256: str,
        d_sae: int,
        hook_point: str = "",
        sae_id: str = "",
        source_sha256: str = "",
    ) -> str:
        """Id of a new, empty index."""

    def indexes(self) -> list[LatentIndex]:
        """Every index, the newest first."""

    def append(self, index_id: str, block: CorpusBlock) -> None:
        """Add the contexts of a block in one transaction."""

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


@dataclass(frozen=True)
class IndexRequest:
    """What to read.

    Attributes:
        name: of the indexes, for people.
        paths: files and folders of text.
        sae_ids: SAEs to read it through, all in one pass.
    """

    name: str
    paths: tuple[str, ...]
    sae_ids: tuple[str, ...]


def index_corpus(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    request: IndexRequest,
    contexts: ContextStore,
    profiles: ProfileWriter,
    *,
    step: Step,
) -> list[LatentIndex]:
    """Read the text, or what is left of it, and describe every latent; one index per SAE.

    An unfinished index of the same text, model and SAE is continued; a finished one is kept.

    Raises:
        CorpusError: a file cannot be read, or there is no text.
    """
    files = find_files([Path(path) for path in request.paths])
    source = hash_files(files)
    mine = {sae.id: _find_or_create(model, sae, request.name, source, contexts) for sae in saes}
    # Two names of one SAE share an index.
    unread = list({mine[sae.id].id: sae for sae in saes if not mine[sae.id].finished}.values())
    if unread:
        n_done = min(mine[sae.id].n_contexts for sae in unread)
        _read_text(model, unread, files, mine, n_done, contexts, step)
    for sae in unread:
        _describe(model, sae, mine[sae.id].id, contexts, profiles, step)
    done = {index.id: index for index in contexts.indexes()}
    return [done[mine[sae.id].id] for sae in saes]


def _find_or_create(
    model: LoadedModel, sae: LoadedSae, name: str, source: str, store: ContextStore
) -> LatentIndex:
    def same() -> LatentIndex | None:
        key = (model.sha256, sae.sha256, source)
        for index in store.indexes():
            if (index.model_sha256, index.sae_sha256, index.source_sha256) == key:
                return index
        return None

    found = same()
    if found is None:
        store.create_index(
            name, model.sha256, sae.sha256, sae.d_sae, sae.hook_point, sae.id, source
        )
        found = same()
    assert found is not None
    return found


def _read_text(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    files: Sequence[Path],
    indexes: dict[str, LatentIndex],
    n_done: int,
    store: ContextStore,
    step: Step,
) -> None:
    position = Position()
    pieces = (
        (document.name, tokens)
        for document in read_documents(files, position)
        for tokens in encode_contexts(model, document)
    )
    n_read = len(list(islice(pieces, n_done)))
    if n_read < n_done:
        raise CorpusError("The text has become shorter since its index was begun; begin anew.")
    counts = {sae.id: indexes[sae.id].n_contexts for sae in saes}
    while batch := list(islice(pieces, CONTEXTS_PER_WRITE)):
        read = _read_batch(model, saes, [tokens for _, tokens in batch])
        names = tuple(name for name, _ in batch)
        for sae in saes:
            # An SAE that was ahead of the others when everything stopped has these already.
            skip = min(max(counts[sae.id] - n_read, 0), len(batch))
            if skip < len(batch):
                block = _block(batch[skip:], names[skip:], read[sae.id][skip:])
                store.append(indexes[sae.id].id, block)
        n_read += len(batch)
        step(position.done, position.total, f"reading: {n_read:,} contexts so far")
    if not n_read:
        raise CorpusError("The files hold no text; give some with words in them.")


def _read_batch(
    model: LoadedModel, saes: Sequence[LoadedSae], sequences: Sequence[Sequence[int]]
) -> dict[str, list[LatentActivations]]:
    """Latents of every token, by SAE and sequence; residual streams live for one row."""
    found: dict[str, dict[int, LatentActivations]] = {sae.id: {} for sae in saes}
    layers = sorted({sae.layer for sae in saes})
    for row, resid in read_rows(model, sequences, layers):
        for sae in saes:
            encoded = sae.encode_sparse(resid[sae.layer])
            for index, path in row.paths:
                found[sae.id][index] = encoded.rows(path)
    order = range(len(sequences))
    return {sae_id: [read[index] for index in order] for sae_id, read in found.items()}


def _block(
    batch: Sequence[tuple[str, Sequence[int]]],
    names: tuple[str, ...],
    activations: Sequence[LatentActivations],
) -> CorpusBlock:
    lengths = [len(tokens) for _, tokens in batch]
    joined = join_rows(activations)
    return CorpusBlock(
        token_ids=np.fromiter(chain.from_iterable(t for _, t in batch), dtype=np.uint32),
        context_starts=np.cumsum([0, *lengths[:-1]]),
        counts=np.diff(joined.indptr),
        indices=joined.indices,
        values=joined.values,
        documents=names,
    )


def _describe(
    model: LoadedModel,
    sae: LoadedSae,
    index_id: str,
    contexts: ContextStore,
    profiles: ProfileWriter,
    step: Step,
) -> None:
    contexts.checkpoint(index_id)

    def blocks() -> Iterable[CorpusBlock]:
        return contexts.blocks(index_id)

    density = contexts.density(index_id)
    for part in profile_latents(model, sae, blocks, density, step=step):
        profiles.put(index_id, [profile for profile, _ in part], [text for _, text in part])
    contexts.finish(index_id)
