"""What people and methods say of latents, by the SAE that has them and not by any corpus."""

import builtins
import json
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from dataclasses import asdict, replace

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session as OrmSession

from saif_core.characters import valid_text
from saif_core.errors import StorageError, UnknownNameError, check_latent
from saif_core.records.as_json import to_json
from saif_core.records.notes import LatentDescription, LatentNote, NoteKind
from storage.database import Database, some_ids
from storage.tables import (
    LatentDescriptionRow,
    LatentIndexRow,
    LatentNoteRow,
    LatentTextRow,
    id_of,
)

NAME_CHARACTERS = 200
TEXT_CHARACTERS = 10_000
# One search text per latent must stay below the 1 MB that PostgreSQL allows.
SEARCH_CHARACTERS = 20_000
WORD_CHARACTERS = 64
# An index counts latents with the lower half of a 64-bit number.
MOST_LATENTS = 1 << 32
NOTE_COLUMNS = tuple(c for c in LatentNoteRow.__table__.columns if c.name != "number")
DESCRIPTION_COLUMNS = tuple(c for c in LatentDescriptionRow.__table__.columns if c.name != "number")


class NoteStore:
    """Labels, notes, stars and descriptions of latents; safe from several threads and processes.

    Args:
        database: a migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        sae_sha256: str,
        latent: int,
        kind: NoteKind,
        text: str = "",
        author: str = "",
        source: str = "",
    ) -> LatentNote | None:
        """The note as it is stored, or None when it took the author's star of that latent back.

        A label can be searched for at once, in every corpus read through that SAE.

        Args:
            latent: its index in the SAE.
            text: at most 200 characters of a label, 10,000 of a note; a star has none.
            source: the catalogue that a label was imported from; empty for what people write.

        Raises:
            UnknownLatentError: there can be no such latent.
            StorageError: a text is too long, a label or note is empty, or the database refused.
        """
        text = _checked_text(kind, text, NAME_CHARACTERS if kind == "label" else TEXT_CHARACTERS)
        author = _checked_text("name of an author", author, NAME_CHARACTERS)
        source = _checked_text("name of a source", source, NAME_CHARACTERS)
        if not text and kind != "star":
            raise StorageError(f"The {kind} of latent {latent} is empty; type one.")
        _check_latent(latent)
        note = LatentNote(valid_text(sae_sha256), latent, kind, text, author, source)
        with self._database.transaction(f"Saving the {kind}", write=True) as db:
            if kind == "star" and _take_back(db, note):
                return None
            db.add(LatentNoteRow(**asdict(note)))
            if kind == "label":
                _refresh_label(db, note.sae_sha256, latent)
        return note

    def list(self, sae_sha256: str, latent: int) -> builtins.list[LatentNote]:
        """Everything people say of a latent, the newest first.

        Raises:
            UnknownLatentError: there can be no such latent.
            StorageError: the database refused.
        """
        query = (
            select(*NOTE_COLUMNS)
            .where(LatentNoteRow.sae_sha256 == valid_text(sae_sha256))
            .where(LatentNoteRow.latent == latent)
            .order_by(LatentNoteRow.number.desc())
        )
        _check_latent(latent)
        with self._database.transaction("Listing the notes") as db:
            return [LatentNote(**row._mapping) for row in db.execute(query)]

    def remove(self, note_id: str) -> None:
        """Remove a label, a note or a star for good.

        Raises:
            UnknownNameError: there is none with that id.
            StorageError: the database refused.
        """
        with self._database.transaction("Removing the note", write=True) as db:
            row = db.scalar(select(LatentNoteRow).where(LatentNoteRow.id == valid_text(note_id)))
            if row is None:
                newest = select(LatentNoteRow.id).order_by(LatentNoteRow.number.desc())
                raise UnknownNameError("note", note_id, some_ids(db, newest))
            db.delete(row)
            if row.kind == "label":
                _refresh_label(db, row.sae_sha256, row.latent)

    def add_description(self, description: LatentDescription) -> LatentDescription:
        """The description as it is stored; adding it twice is adding it once.

        Raises:
            UnknownLatentError: there can be no such latent.
            StorageError: the text is too long, something is no JSON (such as a number that is not
                finite), or the database refused.
        """
        _check_latent(description.latent)
        text = _checked_text("description", description.text, TEXT_CHARACTERS)
        try:
            evidence = json.dumps(to_json(description)["evidence"], allow_nan=False)
        except (ValueError, TypeError, RecursionError) as error:
            raise StorageError(
                f"The description of latent {description.latent} was to be saved, but it holds "
                "something that JSON cannot write, such as a number that is not finite; leave it "
                "out."
            ) from error
        stored = replace(
            description,
            sae_sha256=valid_text(description.sae_sha256),
            method=valid_text(description.method),
            text=text,
            model=valid_text(description.model),
            prompt=valid_text(description.prompt),
            evidence=json.loads(evidence),
        )
        insert = self._database.insert(LatentDescriptionRow)
        values = asdict(stored) | {"evidence": evidence}
        with self._database.transaction("Saving the description", write=True) as db:
            db.execute(insert.values(values).on_conflict_do_nothing())
        return stored

    def descriptions(self, sae_sha256: str, latent: int) -> builtins.list[LatentDescription]:
        """Every description of a latent, the newest first.

        Raises:
            UnknownLatentError: there can be no such latent.
            StorageError: the database refused.
        """
        query = (
            select(*DESCRIPTION_COLUMNS)
            .where(LatentDescriptionRow.sae_sha256 == valid_text(sae_sha256))
            .where(LatentDescriptionRow.latent == latent)
            .order_by(LatentDescriptionRow.number.desc())
        )
        _check_latent(latent)
        with self._database.transaction("Listing the descriptions") as db:
            return [
                LatentDescription(**{**row._mapping, "evidence": json.loads(row.evidence)})
                for row in db.execute(query)
            ]


def label_words(
    db: OrmSession, sae_sha256: str, latents: Collection[int] | None = None
) -> dict[int, str]:
    """The folded labels of latents that have any, all of a latent in one text.

    Args:
        latents: only these.
    """
    query = (
        select(LatentNoteRow.latent, LatentNoteRow.text)
        .where(LatentNoteRow.sae_sha256 == sae_sha256, LatentNoteRow.kind == "label")
        .order_by(LatentNoteRow.number.desc())
    )
    if latents is not None:
        query = query.where(LatentNoteRow.latent.in_(latents))
    labels: dict[int, builtins.list[str]] = defaultdict(list)
    for latent, text in db.execute(query):
        labels[latent].append(text)
    return {latent: folded_words(" ".join(texts)) for latent, texts in labels.items()}


def folded_words(text: str) -> str:
    """The words of a text without case and accents, each once, one space between any two.

    Both databases split such a text at its spaces and nowhere else, so a search finds the same in
    both. Of words the first 64 characters count, of texts the first 20,000. Without repetitions,
    the beginning of a common word is found in two thirds of the time.
    """
    folded = text[:SEARCH_CHARACTERS].translate(_FOLDED)
    words = dict.fromkeys(word[:WORD_CHARACTERS] for word in folded.split())
    return " ".join(words)[:SEARCH_CHARACTERS]


class _Folded(dict[int, str]):
    """What ``str.translate`` makes of each character, worked out when it first comes up."""

    def __missing__(self, code: int) -> str:
        decomposed = unicodedata.normalize("NFKD", chr(code)).casefold()
        parts = []
        for c in unicodedata.normalize("NFKD", decomposed):
            if "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff":
                # Chinese and Japanese have no spaces: every character is a word of its own.
                parts.append(f" {c} ")
            elif c.isalnum() or unicodedata.category(c)[0] == "M":
                # Accents of Latin, Greek and Cyrillic letters go; other marks are part of a word.
                parts.append("" if "\u0300" <= c <= "\u036f" else c)
            else:
                parts.append(" ")
        self[code] = "".join(parts)
        return self[code]


_FOLDED = _Folded()


def _checked_text(kind: str, text: str, limit: int) -> str:
    text = valid_text(text).strip()
    if len(text) > limit:
        raise StorageError(
            f"A {kind} of {len(text):,} characters was to be saved; shorten it to {limit:,}."
        )
    return text


def _check_latent(latent: int) -> None:
    check_latent(latent, MOST_LATENTS, "the largest SAE there can be")


def _take_back(db: OrmSession, star: LatentNote) -> bool:
    same = delete(LatentNoteRow).where(
        LatentNoteRow.sae_sha256 == star.sae_sha256,
        LatentNoteRow.latent == star.latent,
        LatentNoteRow.kind == "star",
        LatentNoteRow.author == star.author,
    )
    return bool(db.execute(same.returning(LatentNoteRow.id)).all())


def _refresh_label(db: OrmSession, sae_sha256: str, latent: int) -> None:
    db.flush()
    indexes = select(LatentIndexRow.number).where(LatentIndexRow.sae_sha256 == sae_sha256)
    # Whoever writes profiles locks the index too, so that neither misses what the other wrote.
    numbers = db.scalars(indexes.order_by(LatentIndexRow.number).with_for_update()).all()
    words = label_words(db, sae_sha256, [latent]).get(latent, "")
    ids = [id_of(number, latent) for number in numbers]
    db.execute(update(LatentTextRow).where(LatentTextRow.id.in_(ids)).values(label=words))
