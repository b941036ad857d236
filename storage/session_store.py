"""Steering sessions in the database: saved, found, shared, deleted and brought back."""

import builtins
import json
import secrets
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.orm import Session as OrmSession

from saif_core.characters import valid_text
from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.as_json import from_json, new_id, to_json, utc_now
from saif_core.records.older import upgrade_session
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SessionSummary, SteeringSession
from storage.database import Database, some_ids
from storage.tables import SessionRow

SHARE_BYTES = 16


class SessionStore:
    """Sessions by id; whether one is shared is decided here alone, never by a record's field.

    Sessions of earlier versions are read as if they had been saved today; their vectors go to the
    tensors when they are read.

    Args:
        database: a migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, session: SteeringSession) -> SteeringSession:
        """The session as it is stored now, with the time of saving in ``updated_at``.

        A session that exists keeps its share link, whatever the record says: a copy held by an
        old tab must not bring back a link that was withdrawn. Saving a deleted session brings it
        back, unshared.

        Raises:
            StorageError: the session, or what it would replace, is of a newer schema version; it
                holds NaN or infinity; or the database refused.
        """
        with self._database.transaction("Saving the session", write=True) as db:
            row = db.get(SessionRow, valid_text(session.id), with_for_update=True)
            if row is not None:
                _check_version(row.name, row.schema_version)
            share_id = row.share_id if row is not None and row.deleted_at is None else None
            return self._write(db, replace(session, share_id=share_id, updated_at=utc_now()))

    def get(self, session_id: str) -> SteeringSession:
        """The session with that id.

        Raises:
            UnknownNameError: there is none, or it is deleted.
            StorageError: it is of a newer schema version, cannot be read, or the database refused.
        """
        with self._database.transaction("Reading the session") as db:
            row = _find(db, session_id)
        return self._to_record(row)

    def list(self, search: str = "", limit: int = 200) -> builtins.list[SessionSummary]:
        """Sessions that are not deleted, the last saved first.

        Args:
            search: text to find in name, notes or instruction, in any case; taken literally.
            limit: how many at most.

        Raises:
            StorageError: the database refused.
        """
        query = select(
            SessionRow.id,
            SessionRow.name,
            SessionRow.instruction,
            SessionRow.model,
            SessionRow.sae,
            SessionRow.n_prompts,
            SessionRow.share_id.is_not(None).label("shared"),
            SessionRow.created_at,
            SessionRow.updated_at,
        ).where(_is_live())
        if wanted := _folded(search.strip()):
            query = query.where(self._database.contains(SessionRow.search_text, wanted))
        query = query.order_by(SessionRow.saved_seconds.desc(), SessionRow.id).limit(max(0, limit))
        with self._database.transaction("Listing the sessions") as db:
            return [SessionSummary(**row._mapping) for row in db.execute(query)]

    def rename(self, session_id: str, name: str) -> SteeringSession:
        """The session under its new name, without blanks around it.

        Raises:
            UnknownNameError: there is no such session.
            StorageError: the name is blank, or as for ``get``.
        """
        name = name.strip()
        if not name:
            raise StorageError("The new name of the session is empty; type one.")
        with self._database.transaction("Renaming the session", write=True) as db:
            session = self._to_record(_find(db, session_id, lock=True), db)
            return self._write(db, replace(session, name=name, updated_at=utc_now()))

    def duplicate(self, session_id: str) -> SteeringSession:
        """A copy under an id of its own, not shared.

        Raises:
            UnknownNameError: there is no such session.
            StorageError: it is of a newer schema version, cannot be read, or the database refused.
        """
        with self._database.transaction("Copying the session", write=True) as db:
            session = self._to_record(_find(db, session_id), db)
            now = utc_now()
            copy = replace(
                session,
                id=new_id(),
                name=f"{session.name} (copy)",
                share_id=None,
                created_at=now,
                updated_at=now,
            )
            return self._write(db, copy)

    def delete(self, session_id: str) -> None:
        """Hide a session everywhere, its share link included, until it is restored.

        Raises:
            UnknownNameError: there is no such session.
            StorageError: the database refused.
        """
        with self._database.transaction("Deleting the session", write=True) as db:
            _find(db, session_id, lock=True).deleted_at = utc_now()

    def purge(self, older_than_days: float) -> int:
        """Number of sessions removed for good: those deleted longer ago than so many days.

        Raises:
            StorageError: the database refused.
        """
        limit = datetime.now(UTC) - timedelta(days=older_than_days)
        old = delete(SessionRow).where(SessionRow.deleted_at < limit.isoformat(timespec="seconds"))
        with self._database.transaction("Removing deleted sessions", write=True) as db:
            return len(db.execute(old.returning(SessionRow.id)).all())

    def restore(self, session_id: str) -> None:
        """Undo a deletion; the share link works again too.

        Raises:
            UnknownNameError: there never was such a session.
            StorageError: the database refused.
        """
        with self._database.transaction("Restoring the session", write=True) as db:
            _find(db, session_id, lock=True, deleted=True).deleted_at = None

    def share(self, session_id: str) -> str:
        """The id that lets anyone read the session: the one it has, or a new, unguessable one.

        Raises:
            UnknownNameError: there is no such session.
            StorageError: the database refused.
        """
        with self._database.transaction("Sharing the session", write=True) as db:
            row = _find(db, session_id, lock=True)
            if row.share_id is None:
                row.share_id = secrets.token_urlsafe(SHARE_BYTES)
            return row.share_id

    def unshare(self, session_id: str) -> None:
        """Withdraw the share link for good; sharing again makes another one.

        Raises:
            UnknownNameError: there is no such session.
            StorageError: the database refused.
        """
        with self._database.transaction("Unsharing the session", write=True) as db:
            _find(db, session_id, lock=True).share_id = None

    def get_shared(self, share_id: str) -> SteeringSession | None:
        """The session behind a share link; None when there is none or it was withdrawn.

        Raises:
            StorageError: it is of a newer schema version, cannot be read, or the database refused.
        """
        query = select(SessionRow).where(SessionRow.share_id == valid_text(share_id), _is_live())
        with self._database.transaction("Reading the shared session") as db:
            row = db.scalar(query)
        return None if row is None else self._to_record(row)

    def _write(self, db: OrmSession, session: SteeringSession) -> SteeringSession:
        _check_version(session.name, session.schema_version)
        session = replace(session, schema_version=SESSION_SCHEMA_VERSION)
        values = _to_columns(session)
        insert = self._database.insert(SessionRow).values(values)
        upsert = insert.on_conflict_do_update(
            index_elements=["id"], set_={name: values[name] for name in values if name != "id"}
        )
        db.execute(upsert)
        return session

    def _to_record(self, row: SessionRow, db: OrmSession | None = None) -> SteeringSession:
        """The session in a row.

        Args:
            row: as it was read.
            db: a transaction under way that writes; None if there is none under way.
        """
        _check_version(row.name, row.schema_version)
        try:
            data = json.loads(row.record)
            if row.schema_version < SESSION_SCHEMA_VERSION:
                data = upgrade_session(data, lambda vector: self._keep_vector(vector, db))
            session = from_json(SteeringSession, data)
        except (ValueError, RecursionError) as error:
            raise StorageError(
                f"Session {row.name!r} was to be read, but what is stored is not a complete "
                "session; restore the database from a backup, or delete the session."
            ) from error
        return replace(session, share_id=row.share_id)

    def _keep_vector(self, vector: Sequence[float], db: OrmSession | None) -> str:
        # It imports numpy, which sessions without vectors of earlier versions do not need.
        from storage.tensor_store import TensorStore

        return TensorStore(self._database).put_vector(vector, note="of a session", db=db)


def _is_live() -> ColumnElement[bool]:
    return SessionRow.deleted_at.is_(None)


def _find(
    db: OrmSession, session_id: str, *, lock: bool = False, deleted: bool = False
) -> SessionRow:
    row = db.get(SessionRow, valid_text(session_id), with_for_update=lock)
    if row is None or (row.deleted_at is not None and not deleted):
        newest = select(SessionRow.id).where(_is_live()).order_by(SessionRow.saved_seconds.desc())
        raise UnknownNameError("session", session_id, some_ids(db, newest))
    return row


def _check_version(name: str, version: int) -> None:
    if version > SESSION_SCHEMA_VERSION:
        raise StorageError(
            f"Session {name!r} was made by a newer version of SAIF (its format is {version}, this "
            f"one knows formats up to {SESSION_SCHEMA_VERSION}); update SAIF to use it."
        )


def _to_columns(session: SteeringSession) -> dict[str, Any]:
    try:
        record = json.dumps(to_json(replace(session, share_id=None)), allow_nan=False)
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"Session {session.name!r} was to be saved, but it holds something that JSON cannot "
            "write, such as a number that is not finite; generate its texts again and save it anew."
        ) from error
    source = session.recipe or session.ranking
    return {
        "id": valid_text(session.id),
        "name": valid_text(session.name),
        "instruction": valid_text(_instruction_name(session)),
        "model": valid_text(source.model if source else ""),
        "sae": valid_text(next(_sae_ids(session), "")),
        "n_prompts": len(session.request.prompts) if session.request else 0,
        "share_id": session.share_id,
        "schema_version": session.schema_version,
        "created_at": valid_text(session.created_at),
        "updated_at": session.updated_at,
        "deleted_at": None,
        "saved_seconds": time.time(),
        "search_text": _search_text(session),
        "record": record,
    }


def _instruction_name(session: SteeringSession) -> str:
    if session.instruction is not None:
        return session.instruction.name
    if session.request is not None:
        return session.request.instruction
    return session.ranking.instruction if session.ranking else ""


def _sae_ids(session: SteeringSession) -> Iterator[str]:
    """The SAEs of the session, that of its first arm that steers with latents first."""
    for arm in session.request.arms if session.request else ():
        yield from (edit.sae_id for edit in arm.edits if edit.sae_id)
    if session.ranking is not None:
        yield session.ranking.sae


def _search_text(session: SteeringSession) -> str:
    texts = [session.name, session.notes, _instruction_name(session)]
    if session.instruction is not None:
        texts.append(session.instruction.description)
        texts.extend(wording.text for wording in session.instruction.wordings)
    return _folded("\n".join(texts))


def _folded(text: str) -> str:
    # Twice normalized: folding can leave letters and accents apart again.
    folded = unicodedata.normalize("NFC", valid_text(text)).casefold()
    return unicodedata.normalize("NFC", folded)
