"""A corpus read through SAEs: every token's latents, then a profile of every latent.

The text runs through the model once for all SAEs. What is read goes to the store batch by batch,
so an index that was stopped goes on where it was, and ends the same to the last byte.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from saif_core.errors import CorpusError, StorageError
from saif_core.explaining.profiles import profile_latents
from saif_core.inputs.documents import Position, find_files, hash_files, read_contexts
from saif_core.models.activations import read_rows
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.corpus import (
    CorpusBlock,
    IndexRequest,
    LatentIndex,
)
from saif_core.records.jobs import Step
from saif_core.records.ports import ContextStore, ProfileWriter
from saif_core.records.questions import IndexReport
from saif_core.saes.latents import LatentActivations, join_rows
from saif_core.saes.loaded_sae import LoadedSae

CONTEXTS_PER_WRITE = 64


def index_corpus(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    request: IndexRequest,
    contexts: ContextStore,
    profiles: ProfileWriter,
    *,
    step: Step,
) -> IndexReport:
    """Read the text, or what is left of it, and describe every latent; one index per SAE.

    An unfinished index of the same text, model and SAE is continued; a finished one is kept. Two
    processes that read the same text at once fill one index together.

    Raises:
        CorpusError: a file cannot be read, or there is no text.
    """
    files = find_files([Path(path) for path in request.paths])
    source = hash_files(files)
    mine = {
        sae.id: contexts.open_index(
            request.name, model.sha256, sae.sha256, sae.d_sae, sae.hook_point, sae.id, source
        )
        for sae in saes
    }
    # Two names of one SAE share an index.
    unread = list({mine[sae.id].id: sae for sae in saes if not mine[sae.id].finished}.values())
    position = Position()

    def told(done: int, total: int, message: str) -> None:
        step(done, total, message + position.left_out)

    if unread:
        n_done = min(mine[sae.id].n_contexts for sae in unread)
        pieces = read_contexts(model, files, position)
        _read_text(model, unread, pieces, mine, n_done, contexts, position, told)
    for number, sae in enumerate(unread, start=1):
        of = f" of SAE {number} of {len(unread)}" if len(unread) > 1 else ""
        _describe(model, sae, mine[sae.id].id, contexts, profiles, partial(_step_of, told, of))
    done = {index.id: index for index in contexts.indexes()}
    return IndexReport(tuple(done[mine[sae.id].id] for sae in saes), position.n_left_out)


def _step_of(step: Step, of: str, done: int, total: int, message: str) -> None:
    step(done, total, message + of)


def _read_text(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    pieces: Iterator[tuple[str, list[int]]],
    indexes: dict[str, LatentIndex],
    n_done: int,
    store: ContextStore,
    position: Position,
    step: Step,
) -> None:
    n_read = len(list(islice(pieces, n_done)))
    if n_read < n_done:
        raise CorpusError("The text has become shorter since its index was begun; begin anew.")
    while batch := list(islice(pieces, CONTEXTS_PER_WRITE)):
        # An SAE that was ahead of the others when everything stopped has these already, and so
        # have all where another process reads the same text.
        there = {index.id: index.n_contexts for index in store.indexes()}
        n_after = n_read + len(batch)
        behind = [sae for sae in saes if there.get(indexes[sae.id].id, 0) < n_after]
        read = _read_batch(model, behind, [tokens for _, tokens in batch]) if behind else {}
        names = tuple(name for name, _ in batch)
        for sae in behind:
            block = _block(batch, names, read[sae.id])
            store.append(indexes[sae.id].id, block, first=n_read)
        n_read = n_after
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
    # Counting afresh: reading is done, and gathering what was read takes its time.
    step(0, sae.d_sae, "gathering what was read")

    def blocks() -> Iterable[CorpusBlock]:
        return contexts.blocks(index_id)

    try:
        contexts.checkpoint(index_id)
        density = contexts.density(index_id)
        for part in profile_latents(model, sae, blocks, density, step=step):
            profiles.put(index_id, [profile for profile, _ in part], [text for _, text in part])
        contexts.finish(index_id)
    except StorageError:
        # Another process that reads the same text was faster.
        if not any(index.id == index_id and index.finished for index in contexts.indexes()):
            raise
