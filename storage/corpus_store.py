"""Latent activations of a corpus in the database, and on how many tokens each latent fires.

A context is one row: its tokens and their packed activations. While a corpus is added, the tokens
on which each latent fires are counted in memory; a checkpoint writes the counts.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session as OrmSession

from saif_core.characters import valid_text
from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.corpus import CorpusBlock, LatentIndex
from saif_core.records.packing import pack_activations, unpack_activations
from storage.database import Database, some_ids
from storage.pending import PendingIndex, remove_abandoned
from storage.tables import CorpusContextRow, LatentIndexRow, id_of

CONTEXTS_PER_READ = 256
# Names the lock under which PostgreSQL looks for an index and begins one.
OPENING_LOCK = 0x494E4458
IS_WHOLE = LatentIndexRow.pending_at.is_(None)
COLUMNS = tuple(
    column
    for column in LatentIndexRow.__table__.columns
    if column.name not in ("number", "density", "pending_at")
)


@dataclass
class _Writer:
    """What a process that adds to an index holds in memory.

    Attributes:
        number: of the index.
        density: (d_sae,) tokens on which each latent fires.
    """

    number: int
    index: LatentIndex
    density: np.ndarray

    def take(self, block: CorpusBlock) -> None:
        """Count the tokens of a block on which each latent fires."""
        self.density += np.bincount(block.indices, minlength=self.index.d_sae)


class LatentStore:
    """Sparse latent activations of corpora, each read through one SAE.

    An index is filled by ``append``; ``checkpoint`` and ``finish`` write its density. Contexts can
    be read as soon as they are added; the density is that of the last checkpoint. A process that
    stopped loses nothing it added: whoever appends next first counts the contexts since the
    checkpoint.

    Args:
        database: a migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._writers: dict[str, _Writer] = {}
        self._lock = threading.Lock()

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
        """The newest index of a text, a model and an SAE; a new, empty one where there is none.

        Two that ask at the same time get the same one. A text without a hash is always new.

        Raises:
            StorageError: there is no latent, or the database refused.
        """
        new = _new_index(name, model_sha256, sae_sha256, d_sae, hook_point, sae_id, source_sha256)
        same = (
            select(*COLUMNS)
            .where(LatentIndexRow.model_sha256 == new.model_sha256)
            .where(LatentIndexRow.sae_sha256 == new.sae_sha256)
            .where(LatentIndexRow.source_sha256 == new.source_sha256, IS_WHOLE)
            .order_by(LatentIndexRow.number.desc())
            .limit(1)
        )
        remove_abandoned(self._database)
        with self._database.transaction("Opening the latent index", write=True) as db:
            self._database.take_turns(db, OPENING_LOCK)
            row = db.execute(same).first() if new.source_sha256 else None
            if row is not None:
                return LatentIndex(**row._mapping)
            db.add(LatentIndexRow(**asdict(new)))
        return new

    def indexes(self) -> list[LatentIndex]:
        """Every index, the newest first.

        Raises:
            StorageError: the database refused.
        """
        newest = select(*COLUMNS).where(IS_WHOLE).order_by(LatentIndexRow.number.desc())
        with self._database.transaction("Listing the latent indexes") as db:
            return [LatentIndex(**row._mapping) for row in db.execute(newest)]

    def append(self, index_id: str, block: CorpusBlock, *, first: int | None = None) -> None:
        """Add the contexts of a block in one transaction.

        Args:
            first: which context of the corpus the block begins with: those that are there already
                are left out, so that several processes may read one text. Without it everything
                is added, and only one process may.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the block contradicts itself or the index, the index is finished, another
                process adds to it, contexts before the block are missing, or the database refused.
        """
        if first is not None:
            self._append_missing(index_id, block, first)
            return
        with self._writing(index_id) as writer:
            added = _contexts(_checked(block, writer.index))
            if not added:
                return
            with self._database.transaction("Adding to the latent index", write=True) as db:
                grown = self._add(db, writer.number, writer.index, added)
            writer.take(_joined(added))
            writer.index = grown

    def _append_missing(self, index_id: str, block: CorpusBlock, first: int) -> None:
        with self._lock:
            writer = self._writers.pop(index_id, None)
            with self._database.transaction("Adding to the latent index", write=True) as db:
                row = find_index(db, index_id)
                # Nobody else adds before this is committed.
                db.refresh(row, with_for_update=True)
                index = _index_of(row)
                contexts = _contexts(_checked(block, index))
                if first > index.n_contexts:
                    raise StorageError(
                        f"The contexts from {first:,} on were to be added to the latent index "
                        f"{index.name!r}, but it has only {index.n_contexts:,}; read the text anew."
                    )
                added = contexts[index.n_contexts - first :]
                if not added:
                    return
                if index.n_contexts == index.n_listed:
                    writer = _Writer(row.number, index, _density(row))
                grown = self._add(db, row.number, index, added)
            # What others have added meanwhile is counted at the next checkpoint.
            if writer is not None and writer.index == index:
                writer.take(_joined(added))
                writer.index = grown
                self._writers[index_id] = writer

    def _add(
        self, db: OrmSession, number: int, index: LatentIndex, added: Sequence[CorpusBlock]
    ) -> LatentIndex:
        """The index once it has these contexts, in the order of the corpus."""
        rows = [
            _context_row(id_of(number, index.n_contexts + ordinal), context, index.d_sae)
            for ordinal, context in enumerate(added)
        ]
        grown = replace(
            index,
            n_contexts=index.n_contexts + len(rows),
            n_tokens=index.n_tokens + sum(len(context.token_ids) for context in added),
            n_nonzero=index.n_nonzero + sum(len(context.values) for context in added),
        )
        _advance(db, index, grown)
        db.connection().execute(self._database.insert(CorpusContextRow), rows)
        return grown

    def blocks(self, index_id: str) -> Iterator[CorpusBlock]:
        """All contexts of an index in the order of the corpus, some hundred at a time.

        An imported index has the contexts of its examples only.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the database refused.
        """
        with self._database.transaction("Reading the contexts of an index") as db:
            row = find_index(db, index_id)
            number, n_contexts = row.number, row.n_contexts
        for start in range(0, n_contexts, CONTEXTS_PER_READ):
            end = min(start + CONTEXTS_PER_READ, n_contexts)
            which = CorpusContextRow.id.between(id_of(number, start), id_of(number, end - 1))
            with self._database.transaction("Reading the contexts of an index") as db:
                found = _read_contexts(db, which)
            if found:
                yield _joined(found)

    def firing_tokens(self, index_id: str, latents: Sequence[int]) -> dict[int, np.ndarray]:
        """Numbers of the tokens on which each latent fires, counted over the whole corpus.

        Two indexes of one text number its tokens alike. An imported index has no activations, so
        there is nothing to find in it.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the database refused.
        """
        found: dict[int, list[np.ndarray]] = {latent: [] for latent in latents}
        n_tokens = 0
        for block in self.blocks(index_id):
            owners = np.repeat(np.arange(len(block.counts)), block.counts) + n_tokens
            for latent, parts in found.items():
                parts.append(owners[block.indices == latent])
            n_tokens += len(block.counts)
        return {
            latent: np.concatenate([np.zeros(0, dtype=np.int64), *parts])
            for latent, parts in found.items()
        }

    def checkpoint(self, index_id: str) -> None:
        """Write the density of everything added so far.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the index is finished, another process adds to it, or the database
                refused.
        """
        with self._writing(index_id) as writer:
            self._checkpoint(writer, finished=False)

    def finish(self, index_id: str) -> None:
        """Write the density; nothing can be added from now on.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the index is finished already, another process adds to it, or the
                database refused.
        """
        with self._writing(index_id) as writer:
            self._checkpoint(writer, finished=True)
            del self._writers[index_id]

    def density(self, index_id: str) -> np.ndarray:
        """Number of tokens on which each latent fires, (d_sae,) int64.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the database refused.
        """
        with self._database.transaction("Reading the density of latents") as db:
            return _density(find_index(db, index_id))

    def delete_index(self, index_id: str) -> None:
        """Remove an index with its contexts and profiles; from the first moment nobody sees it.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the database refused.
        """
        with self._lock:
            self._writers.pop(index_id, None)
            with self._database.transaction("Deleting the latent index", write=True) as db:
                pending = PendingIndex(self._database, db, find_index(db, index_id))
        pending.remove()
        remove_abandoned(self._database)

    @contextlib.contextmanager
    def _writing(self, index_id: str) -> Iterator[_Writer]:
        """The writer of an index, for one thread; after an error the next one is loaded anew."""
        with self._lock:
            if index_id not in self._writers:
                self._writers[index_id] = self._load(index_id)
            try:
                yield self._writers[index_id]
            except BaseException:
                self._writers.pop(index_id, None)
                raise

    def _load(self, index_id: str) -> _Writer:
        with self._database.transaction("Reading the latent index") as db:
            row = find_index(db, index_id)
            index = _index_of(row)
            if index.finished:
                raise StorageError(
                    f"The latent index {index.name!r} was to be changed, but it is finished; "
                    "create a new one."
                )
            writer = _Writer(row.number, index, _density(row))
            for start in range(index.n_listed, index.n_contexts, CONTEXTS_PER_READ):
                end = min(start + CONTEXTS_PER_READ, index.n_contexts)
                ids = CorpusContextRow.id.between(
                    id_of(row.number, start), id_of(row.number, end - 1)
                )
                writer.take(_joined(_read_contexts(db, ids)))
        return writer

    def _checkpoint(self, writer: _Writer, *, finished: bool) -> None:
        counted = replace(writer.index, n_listed=writer.index.n_contexts, finished=finished)
        density = writer.density.astype("<i8").tobytes()
        with self._database.transaction("Writing the density of latents", write=True) as db:
            _advance(db, writer.index, counted, density=density)
        writer.index = counted


def find_index(db: OrmSession, index_id: str) -> LatentIndexRow:
    """The row of an index.

    Raises:
        UnknownNameError: there is no such index.
    """
    known = LatentIndexRow.id == valid_text(index_id)
    row = db.scalar(select(LatentIndexRow).where(known, IS_WHOLE))
    if row is None:
        newest = select(LatentIndexRow.id).where(IS_WHOLE).order_by(LatentIndexRow.number.desc())
        raise UnknownNameError("latent index", index_id, some_ids(db, newest))
    return row


def _new_index(
    name: str,
    model_sha256: str,
    sae_sha256: str,
    d_sae: int,
    hook_point: str,
    sae_id: str,
    source_sha256: str,
) -> LatentIndex:
    """An index without contexts.

    Raises:
        StorageError: there is no latent.
    """
    if d_sae < 1:
        raise StorageError(f"An index of {d_sae} latents was asked for; let it have 1 or more.")
    return LatentIndex(
        valid_text(name),
        model_sha256,
        sae_sha256,
        d_sae,
        hook_point,
        valid_text(sae_id),
        source_sha256,
    )


def _index_of(row: LatentIndexRow) -> LatentIndex:
    return LatentIndex(**{column.name: getattr(row, column.name) for column in COLUMNS})


def _advance(db: OrmSession, index: LatentIndex, new: LatentIndex, **columns: bytes) -> None:
    """Update an index.

    Raises:
        StorageError: someone else has changed it since this process read it.
    """
    done = db.connection().execute(
        update(LatentIndexRow)
        .where(LatentIndexRow.id == index.id)
        .where(LatentIndexRow.n_contexts == index.n_contexts)
        .where(LatentIndexRow.finished.is_(False))
        .values(**asdict(new), **columns)
    )
    if done.rowcount != 1:
        raise StorageError(
            f"The latent index {index.name!r} was to be added to, but another process has changed "
            "it meanwhile; let only one add to it."
        )


def _density(row: LatentIndexRow) -> np.ndarray:
    if row.density is None:
        return np.zeros(row.d_sae, dtype=np.int64)
    return np.frombuffer(row.density, "<i8").astype(np.int64)


def _read_contexts(db: OrmSession, which: ColumnElement[bool]) -> list[CorpusBlock]:
    """Contexts in the order of the corpus."""
    columns = select(
        CorpusContextRow.document,
        CorpusContextRow.token_ids,
        CorpusContextRow.activations,
    )
    return [
        CorpusBlock(
            np.frombuffer(token_ids, "<u4"),
            np.zeros(1, dtype=np.int64),
            *unpack_activations(activations),
            (document,),
        )
        for document, token_ids, activations in db.execute(
            columns.where(which).order_by(CorpusContextRow.id)
        )
    ]


def _context_row(row_id: int, context: CorpusBlock, d_sae: int) -> dict[str, Any]:
    return {
        "id": row_id,
        "document": context.documents[0],
        "token_ids": context.token_ids.tobytes(),
        "activations": pack_activations(context.counts, context.indices, context.values, d_sae),
    }


def _checked(block: CorpusBlock, index: LatentIndex) -> CorpusBlock:
    """The block in the types that are computed with.

    Raises:
        StorageError: it contradicts itself or the index.
    """
    checked = CorpusBlock(
        block.token_ids.astype("<u4"),
        block.context_starts.astype(np.int64),
        block.counts.astype(np.int64),
        block.indices.astype(np.int64),
        block.values.astype(np.float32),
        tuple(valid_text(name) for name in block.documents),
    )
    n_tokens, n_nonzero = len(checked.token_ids), len(checked.values)
    lengths = np.diff([*checked.context_starts, n_tokens])
    tokens_fit = (lengths > 0).all() and lengths.sum() == n_tokens
    counts_fit = (
        len(checked.counts) == n_tokens
        and (checked.counts >= 0).all()
        and checked.counts.sum() == len(checked.indices) == n_nonzero
    )
    latents_fit = (checked.indices >= 0).all() and (checked.indices < index.d_sae).all()
    values_fit = (checked.values > 0).all() and (checked.values < np.inf).all()
    problems = {
        "a context without tokens, or a token outside every context": not tokens_fit,
        "another number of documents than of contexts": len(checked.documents) != len(lengths),
        "counts, indices and values that do not belong together": not counts_fit,
        f"latents outside 0 to {index.d_sae - 1}": not latents_fit,
        "activations that are not positive and finite": not values_fit,
    }
    for problem, found in problems.items():
        if found:
            raise StorageError(
                f"A block was to be added to the latent index {index.name!r}, but it has "
                f"{problem}; read these documents again."
            )
    return checked


def _contexts(block: CorpusBlock) -> list[CorpusBlock]:
    """One block per context."""
    bounds = [*block.context_starts.tolist(), len(block.token_ids)]
    nonzero_starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(block.counts)])
    parts = []
    for name, (start, end) in zip(block.documents, pairwise(bounds), strict=True):
        nonzero = slice(nonzero_starts[start], nonzero_starts[end])
        parts.append(
            CorpusBlock(
                block.token_ids[start:end],
                np.zeros(1, dtype=np.int64),
                block.counts[start:end],
                block.indices[nonzero],
                block.values[nonzero],
                (name,),
            )
        )
    return parts


def _joined(parts: Sequence[CorpusBlock]) -> CorpusBlock:
    """One block from contexts."""
    starts = np.cumsum([0, *(len(part.token_ids) for part in parts)])[:-1]
    return CorpusBlock(
        np.concatenate([part.token_ids for part in parts]),
        starts,
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.values for part in parts]),
        tuple(part.documents[0] for part in parts),
    )
