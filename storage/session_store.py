"""Step 10: steering sessions, kept as records, listed, searched and shared by link."""

import secrets
from dataclasses import replace

from sqlalchemy import select

from saif_core.errors import StorageError, UnknownNameError
from saif_core.records import (
    SESSION_SCHEMA_VERSION,
    SessionSummary,
    SteeringSession,
    from_json,
    new_id,
    to_json,
    utc_now,
)
from storage.database import Database
from storage.tables import SessionRow

SHARE_BYTES = 16  # 128 random bits: a link nobody guesses


class SessionStore:
    """Sessions in and out of the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, session: SteeringSession) -> SteeringSession:
        """Insert or update a session; its link stays as the database has it.

        Returns:
            the session as saved, ``updated_at`` set.
        """
        with self._database.writing() as transaction:
            row = transaction.get(SessionRow, session.id)
            share_id = row.share_id if row is not None else None
            saved = replace(session, updated_at=utc_now(), share_id=share_id)
            transaction.merge(_row(saved, deleted_at=row.deleted_at if row is not None else None))
        return saved

    def get(self, session_id: str) -> SteeringSession:
        """A session that is not deleted.

        Raises:
            UnknownNameError: there is none of that id.
            StorageError: it was saved by a newer SAIF.
        """
        with self._database.reading() as transaction:
            row = transaction.get(SessionRow, session_id)
            if row is None or row.deleted_at is not None:
                raise UnknownNameError("session", session_id, [])
            return _record(row)

    def list(self, search: str = "", limit: int = 200) -> list[SessionSummary]:
        """Sessions, last changed first; ``search`` looks in name, notes and instruction."""
        query = select(SessionRow).where(SessionRow.deleted_at.is_(None))
        if search.strip():
            # Folded by Python on both sides: the databases fold no more than ASCII the same way.
            wanted = search.strip().casefold()
            query = query.where(SessionRow.search_text.contains(wanted, autoescape=True))
        query = query.order_by(SessionRow.updated_at.desc(), SessionRow.id).limit(limit)
        with self._database.reading() as transaction:
            return [_summary(row) for row in transaction.scalars(query)]

    def rename(self, session_id: str, name: str) -> SteeringSession:
        """Give a session another name.

        Raises:
            StorageError: the name is empty.
        """
        if not name.strip():
            raise StorageError("The new name is empty; type one.")
        return self.save(replace(self.get(session_id), name=name.strip()))

    def duplicate(self, session_id: str) -> SteeringSession:
        """A copy with a new id, without the link."""
        original = self.get(session_id)
        copy = replace(
            original,
            id=new_id(),
            name=f"{original.name} (copy)",
            share_id=None,
            created_at=utc_now(),
        )
        return self.save(copy)

    def delete(self, session_id: str) -> None:
        """Hide a session until ``restore``; its link stops working meanwhile."""
        self.get(session_id)
        with self._database.writing() as transaction:
            transaction.get_one(SessionRow, session_id).deleted_at = utc_now()

    def restore(self, session_id: str) -> None:
        """Undo ``delete``.

        Raises:
            UnknownNameError: there is no such session.
        """
        with self._database.writing() as transaction:
            row = transaction.get(SessionRow, session_id)
            if row is None:
                raise UnknownNameError("session", session_id, [])
            row.deleted_at = None

    def share(self, session_id: str) -> str:
        """Id of the session's link; the same one as long as it is shared."""
        self.get(session_id)
        with self._database.writing() as transaction:
            row = transaction.get_one(SessionRow, session_id, with_for_update=True)
            if row.share_id is None:
                row.share_id = secrets.token_urlsafe(SHARE_BYTES)
            return row.share_id

    def unshare(self, session_id: str) -> None:
        """Make the link stop working, for good: a later one is another."""
        self.get(session_id)
        with self._database.writing() as transaction:
            transaction.get_one(SessionRow, session_id).share_id = None

    def get_shared(self, share_id: str) -> SteeringSession | None:
        """The session behind a link, or None."""
        query = select(SessionRow).where(
            SessionRow.share_id == share_id, SessionRow.deleted_at.is_(None)
        )
        with self._database.reading() as transaction:
            row = transaction.scalars(query).one_or_none()
            return _record(row) if row is not None else None


def _row(session: SteeringSession, *, deleted_at: str | None) -> SessionRow:
    recipe, ranking = session.recipe, session.ranking
    instruction = session.instruction.name if session.instruction else ""
    instruction = instruction or (ranking.instruction if ranking else "")
    source = recipe or ranking
    searched = "\n".join((session.name, session.notes, instruction))
    return SessionRow(
        id=session.id,
        name=session.name,
        instruction=instruction,
        model=source.model if source else "",
        sae=source.sae if source else "",
        search_text=searched.casefold(),
        n_prompts=len(session.prompts),
        share_id=session.share_id,
        deleted_at=deleted_at,
        created_at=session.created_at,
        updated_at=session.updated_at,
        record=to_json(session),
    )


def _record(row: SessionRow) -> SteeringSession:
    version = row.record.get("schema_version")
    if not isinstance(version, int) or version > SESSION_SCHEMA_VERSION:
        raise StorageError(
            f"Session {row.name!r} was saved by a newer version of SAIF (format {version}, this "
            f"one reads up to {SESSION_SCHEMA_VERSION}); update SAIF to open it."
        )
    try:
        return replace(from_json(SteeringSession, row.record), share_id=row.share_id)
    except ValueError as error:
        raise StorageError(f"Session {row.name!r} cannot be read: {error}") from error


def _summary(row: SessionRow) -> SessionSummary:
    return SessionSummary(
        id=row.id,
        name=row.name,
        instruction=row.instruction,
        model=row.model,
        sae=row.sae,
        n_prompts=row.n_prompts,
        shared=row.share_id is not None,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
