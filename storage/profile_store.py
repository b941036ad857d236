"""Profiles of latents in the database: written, listed and searched."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Float,
    Select,
    cast,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session as OrmSession

from saif_core.characters import valid_text
from saif_core.errors import StorageError, check_latent
from saif_core.records.corpus import (
    FoundIn,
    LatentFilter,
    LatentPage,
    LatentProfile,
    LatentSort,
    LatentSummary,
    ProfileText,
)
from saif_core.records.jobs import Step
from saif_core.records.packing import pack_profile, unpack_profile
from storage.corpus_store import IS_WHOLE, find_index
from storage.database import PAUSE_SECONDS, Database, chunks
from storage.note_store import SEARCH_CHARACTERS, folded_words, label_words
from storage.pending import PendingIndex, remove_abandoned
from storage.profile_file import PackedIndex, packed_index
from storage.tables import (
    OWN_BITS,
    Base,
    CorpusContextRow,
    LatentIndexRow,
    LatentNoteRow,
    LatentProfileRow,
    LatentRow,
    LatentTextRow,
    id_of,
    own_part,
    rows_of,
)

T = TypeVar("T")
_Entry = tuple[LatentProfile, bytes, ProfileText]
MOST_ROWS = 1000
MOST_WORDS = 32
MOST_FILTERED = 10_000
# What one transaction of an import writes: a tenth of a second.
ENTRIES_AT_ONCE = 200
BYTES_AT_ONCE = 1 << 20
# Of a word in a label, among the tokens, in the examples; PostgreSQL's are 1, 0.4 and 0.1 too.
WEIGHTS = (1.0, 0.4, 0.4, 0.1)
SEARCH = table("latent_search", column("rowid", BigInteger))
WORDS: ColumnElement[str] = literal_column("latent_search", postgresql.TSVECTOR())
SORTED_BY = {
    "latent": LatentRow.id,
    "density": LatentRow.n_fired,
    "maximum": LatentRow.maximum,
    "s_in": LatentRow.s_in,
    "s_out": LatentRow.s_out,
}


class ProfileStore:
    """Profiles of the latents of an index; safe from several threads and processes.

    Args:
        database: a migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self, index_id: str, profiles: Sequence[LatentProfile], texts: Sequence[ProfileText]
    ) -> None:
        """Keep profiles and the words they are found by, all or none; those that exist go.

        Args:
            texts: one per profile; of each text the first 20,000 characters count.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: there are not as many texts as profiles, a profile has numbers that it
                cannot have or is of no latent of the index, or the database refused.
        """
        if len(profiles) != len(texts):
            raise StorageError(
                f"{len(profiles)} profiles were to be stored with {len(texts)} texts; give one "
                "text for each."
            )
        with self._database.transaction("Storing the profiles of latents", write=True) as db:
            row = find_index(db, index_id)
            db.refresh(row, with_for_update=True)
            entries = zip(profiles, map(pack_profile, profiles), texts, strict=True)
            for chunk in chunks(entries):
                self._write(db, row.sae_sha256, _Prepared(row, chunk))

    def get(self, index_id: str, latent: int) -> LatentProfile:
        """The profile of a latent.

        Raises:
            UnknownNameError: there is no such index.
            UnknownLatentError: the index has no such latent.
            StorageError: the latent has no profile, it cannot be read, or the database refused.
        """
        with self._database.transaction("Reading the profile of a latent") as db:
            row = find_index(db, index_id)
            check_latent(latent, row.d_sae, f"the index {row.name!r}")
            found = db.get(LatentProfileRow, id_of(row.number, latent))
            if found is None:
                raise StorageError(
                    f"The profile of latent {latent} was asked for, but the index {row.name!r} "
                    "has none of it; profile the index, or choose another latent."
                )
            return unpack_profile(found.profile)

    def contexts(self, index_id: str, ordinals: Sequence[int]) -> dict[int, np.ndarray]:
        """Token ids (n_tokens,) uint32 of contexts, by ordinal; those that are not there are not.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: the database refused.
        """
        wanted = sorted({ordinal for ordinal in ordinals if 0 <= ordinal < 1 << OWN_BITS})
        found = {}
        with self._database.transaction("Reading contexts") as db:
            number = find_index(db, index_id).number
            for chunk in chunks(wanted):
                ids = [id_of(number, ordinal) for ordinal in chunk]
                query = select(CorpusContextRow.id, CorpusContextRow.token_ids)
                for row_id, token_ids in db.execute(query.where(CorpusContextRow.id.in_(ids))):
                    found[own_part(row_id)] = np.frombuffer(token_ids, "<u4")
        return found

    def page(
        self,
        index_id: str,
        *,
        sort: LatentSort | None = None,
        descending: bool = False,
        filters: LatentFilter | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> LatentPage:
        """Some of the latents that have a profile and pass the filters, and how many do.

        Args:
            sort: what to order by, latents without a value last; by default what a search finds
                comes best first, and all else in the order of the SAE.
            offset: lines to leave out at the beginning.
            limit: lines at most, up to 1,000.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: more than 32 words or 10,000 latents are asked for, or the database
                refused.
        """
        filters = filters or LatentFilter()
        words = _search_words(filters.text)
        if filters.latents is not None and len(filters.latents) > MOST_FILTERED:
            raise StorageError(
                f"{len(filters.latents):,} latents were asked for one by one; ask for "
                f"{MOST_FILTERED:,} at most."
            )
        with self._database.transaction("Listing the latents") as db:
            index = find_index(db, index_id)
            if filters.text.strip() and not words:
                return LatentPage((), 0)
            which = select(LatentRow).where(*_conditions(index, filters))
            order: list[ColumnElement[Any]] = []
            if words:
                which, order = self._found(which, index.number, words)
            if sort is not None:
                key = SORTED_BY[sort]
                order = [(key.desc() if descending else key.asc()).nulls_last()]
            rows = db.scalars(
                which.order_by(*order, LatentRow.id)
                .offset(min(max(0, offset), index.d_sae))
                .limit(min(max(0, limit), MOST_ROWS))
            ).all()
            n_total = db.scalar(which.with_only_columns(func.count())) or 0
            return LatentPage(tuple(_summaries(db, index, rows, words)), n_total)

    def export(self, index_id: str) -> bytes:
        """The index with its profiles, and the contexts that they point to, as one file.

        Raises:
            UnknownNameError: there is no such index.
            StorageError: a profile cannot be read, or the database refused.
        """
        with self._database.transaction("Exporting the latents") as db:
            return packed_index(db, find_index(db, index_id))

    def import_index(self, data: bytes, *, step: Step | None = None) -> str:
        """Id of the index that ``export`` wrote; one that is here already is left as it is.

        The index is finished, and no latent fires on its contexts: only profiles are exported. It
        is written in many short transactions, so that others may write in between; nobody sees it
        before it is whole, and an import that fails or is stopped leaves nothing.

        Args:
            data: the file.
            step: told (bytes read, bytes in all, what is done); may raise to stop.

        Raises:
            StorageError: the file is of another version, damaged, or larger than it may be; or
                the database refused.
        """
        file = PackedIndex(data)
        remove_abandoned(self._database)
        known = select(LatentIndexRow.number).where(LatentIndexRow.id == file.index.id, IS_WHOLE)
        with self._database.transaction("Importing the latents") as db:
            if db.scalar(known) is not None:
                return file.index.id
        with self._database.transaction("Importing the latents", write=True) as db:
            row = LatentIndexRow(**asdict(file.index), density=file.density or None)
            pending = PendingIndex(self._database, db, row)
        try:
            self._fill(pending, row, file, step)
            with self._database.transaction("Importing the latents", write=True) as db:
                # Someone may have imported the same file meanwhile.
                is_new = db.scalar(known) is None
                if is_new:
                    pending.show(db, file.index.id)
        except BaseException:
            # What is left, should that fail too, is invisible and goes in time.
            with contextlib.suppress(StorageError):
                pending.remove()
            raise
        if not is_new:
            pending.remove()
        return file.index.id

    def _fill(
        self, pending: PendingIndex, row: LatentIndexRow, file: PackedIndex, step: Step | None
    ) -> None:
        n_latents = 0

        def report() -> None:
            if step:
                step(file.n_read, file.n_bytes, f"importing: {n_latents:,} latents so far")
            time.sleep(PAUSE_SECONDS)

        for entries in _small_parts(file.profiles(), _size):
            prepared = _Prepared(row, entries)
            with self._database.transaction("Importing the latents", write=True) as db:
                pending.hold(db)
                self._write(db, row.sae_sha256, prepared)
            n_latents += len(entries)
            report()
        contexts = file.contexts(pending.number)
        for rows in _small_parts(contexts, lambda context: 2 * len(context["token_ids"])):
            with self._database.transaction("Importing the latents", write=True) as db:
                pending.hold(db)
                db.connection().execute(self._database.insert(CorpusContextRow), rows)
            report()

    def _write(self, db: OrmSession, sae_sha256: str, prepared: "_Prepared") -> None:
        latents = [own_part(text["id"]) for text in prepared.texts]
        labels = label_words(db, sae_sha256, latents)
        texts = [{**text, "label": labels.get(own_part(text["id"]), "")} for text in prepared.texts]
        self._upsert(db, LatentRow, prepared.latents)
        self._upsert(db, LatentProfileRow, prepared.profiles)
        self._upsert(db, LatentTextRow, texts)

    def _upsert(self, db: OrmSession, kind: type[Base], rows: list[dict[str, Any]]) -> None:
        insert = self._database.insert(kind)
        new = {name: insert.excluded[name] for name in rows[0] if name != "id"}
        upsert = insert.on_conflict_do_update(index_elements=["id"], set_=new)
        db.connection().execute(upsert, rows)

    def _found(
        self, which: Select[LatentRow], number: int, words: Sequence[str]
    ) -> tuple[Select[LatentRow], list[ColumnElement[Any]]]:
        """The query with all the words, and its order by rank."""
        # A folded word has no quotes or operators in it.
        if self._database.is_sqlite:
            query = " ".join(f'"{word}"' + "*" * _is_begun(word) for word in words)
            name: ColumnElement[Any] = literal_column("latent_search")
            # Both ids are bounded, as SQLite reads the index of words first.
            which = (
                which.join(SEARCH, SEARCH.c.rowid == LatentRow.id)
                .where(name.bool_op("MATCH")(query))
                .where(SEARCH.c.rowid.between(id_of(number, 0), id_of(number + 1, 0) - 1))
            )
            return which, [func.bm25(name, *WEIGHTS).asc()]
        wanted = func.to_tsquery(
            literal_column("'simple'::regconfig"),
            " & ".join(f"'{word}'" + ":*" * _is_begun(word) for word in words),
        )
        which = which.join(LatentTextRow, LatentTextRow.id == LatentRow.id)
        return which.where(WORDS.bool_op("@@")(wanted)), [func.ts_rank(WORDS, wanted).desc()]


class _Prepared:
    """Profiles as the rows that they are kept as, but for labels.

    Raises:
        StorageError: one is of a latent or a context that the index does not have.
    """

    def __init__(self, index: LatentIndexRow, entries: Sequence[_Entry]) -> None:
        self.latents: list[dict[str, Any]] = []
        self.profiles: list[dict[str, Any]] = []
        self.texts: list[dict[str, Any]] = []
        for profile, packed, text in entries:
            self._add(index, profile, packed, text)

    def _add(
        self, index: LatentIndexRow, profile: LatentProfile, packed: bytes, text: ProfileText
    ) -> None:
        latent = profile.latent
        last = max((example.context for example in profile.examples), default=-1)
        if not 0 <= latent < index.d_sae or last >= index.n_contexts:
            raise StorageError(
                f"The profile of latent {latent} was to be stored, but the index "
                f"{index.name!r} of {index.d_sae} latents and {index.n_contexts} contexts "
                "does not have that latent or a context of its examples; compute the "
                "profiles from this index."
            )
        key = {"id": id_of(index.number, latent)}
        promotes = valid_text(text.promotes[:SEARCH_CHARACTERS])
        self.profiles.append({**key, "promotes": promotes, "profile": packed})
        self.latents.append(
            {
                **key,
                "n_fired": profile.n_fired,
                "maximum": profile.maximum,
                "s_in": profile.s_in,
                "s_out": profile.s_out,
            }
        )
        self.texts.append(
            {
                **key,
                "promotes": folded_words(text.promotes),
                "fires_on": folded_words(text.fires_on),
                "examples": folded_words(text.examples),
            }
        )


def _size(entry: _Entry) -> int:
    """About how many bytes an entry takes."""
    _, packed, text = entry
    return len(packed) + len(text.promotes) + len(text.fires_on) + len(text.examples)


def _small_parts(entries: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Entries that one short transaction writes: some, and of some bytes."""
    part: list[T] = []
    n_bytes = 0
    for entry in entries:
        part.append(entry)
        n_bytes += size(entry)
        if len(part) >= ENTRIES_AT_ONCE or n_bytes >= BYTES_AT_ONCE:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part


def _search_words(text: str) -> list[str]:
    words = sorted(set(folded_words(text).split()))
    if len(words) > MOST_WORDS:
        raise StorageError(
            f"A search for {len(words):,} words was asked for; type {MOST_WORDS} at most."
        )
    return words


def _is_begun(word: str) -> bool:
    """Whether a word finds those that begin with it; what begins with a letter is everything."""
    return len(word) > 1


def _density(index: LatentIndexRow) -> ColumnElement[float]:
    return cast(LatentRow.n_fired, Float(53)) / float(max(index.n_tokens, 1))


def _conditions(index: LatentIndexRow, filters: LatentFilter) -> list[ColumnElement[bool]]:
    conditions = [rows_of(index.number, LatentRow.id)]
    density = _density(index)
    if filters.min_density is not None:
        conditions.append(density >= filters.min_density)
    if filters.max_density is not None:
        conditions.append(density <= filters.max_density)
    if filters.min_s_in is not None:
        conditions.append(LatentRow.s_in >= filters.min_s_in)
    if filters.min_s_out is not None:
        conditions.append(LatentRow.s_out >= filters.min_s_out)
    if filters.starred:
        conditions.append(LatentRow.id.in_(_noted(index, LatentNoteRow.kind == "star")))
    if filters.labelled:
        conditions.append(LatentRow.id.in_(_noted(index, _is_label())))
    if filters.latents is not None:
        ids = [id_of(index.number, n) for n in set(filters.latents) if 0 <= n < index.d_sae]
        conditions.append(LatentRow.id.in_(ids))
    return conditions


def _is_label() -> ColumnElement[bool]:
    """Whether a note is a label that people gave, and not one of a catalogue."""
    return (LatentNoteRow.kind == "label") & (LatentNoteRow.source == "")


def _noted(index: LatentIndexRow, kind: ColumnElement[bool]) -> Select[int]:
    row_id = literal(id_of(index.number, 0), BigInteger()) + LatentNoteRow.latent
    return select(row_id).where(LatentNoteRow.sae_sha256 == index.sae_sha256, kind)


def _summaries(
    db: OrmSession, index: LatentIndexRow, rows: Sequence[LatentRow], words: Sequence[str]
) -> Iterator[LatentSummary]:
    ids = [row.id for row in rows]
    latents = [own_part(row_id) for row_id in ids]
    texts = select(LatentProfileRow.id, LatentProfileRow.promotes)
    promotes = _pairs(db, texts.where(LatentProfileRow.id.in_(ids)))
    notes = (
        select(LatentNoteRow.latent, LatentNoteRow.text)
        .where(LatentNoteRow.sae_sha256 == index.sae_sha256, LatentNoteRow.latent.in_(latents))
        .order_by(LatentNoteRow.number)
    )
    # The newest comes last, and stays.
    labels = _pairs(db, notes.where(_is_label()))
    stars = set(db.scalars(notes.where(LatentNoteRow.kind == "star")))
    found_in = {}
    if words:
        found = db.scalars(select(LatentTextRow).where(LatentTextRow.id.in_(ids)))
        found_in = {text.id: _found_in(text, words) for text in found}
    for row, latent in zip(rows, latents, strict=True):
        yield LatentSummary(
            latent,
            row.n_fired,
            row.n_fired / max(index.n_tokens, 1),
            row.maximum,
            row.s_in,
            row.s_out,
            promotes.get(row.id, ""),
            labels.get(latent),
            latent in stars,
            found_in.get(row.id, ()),
        )


def _pairs(db: OrmSession, query: Select[int, str]) -> dict[int, str]:
    return {number: text for number, text in db.execute(query)}


def _found_in(text: LatentTextRow, words: Sequence[str]) -> tuple[FoundIn, ...]:
    places: dict[FoundIn, str] = {
        "label": text.label,
        "tokens": f"{text.promotes} {text.fires_on}",
        "examples": text.examples,
    }
    return tuple(
        place
        for place, folded in places.items()
        if any(f" {word}{'' if _is_begun(word) else ' '}" in f" {folded} " for word in words)
    )
