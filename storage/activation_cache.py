"""The engine's cache: opaque payloads under content hashes."""

import time
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from storage.database import Database
from storage.tables import CachedActivationsRow

CHUNK = 400  # below SQLite's limit of bound values in any build


class StoredActivationCache:
    """``saif_core.records.ActivationCache`` in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Payloads of the keys that are there; they count as used now."""
        found: dict[str, bytes] = {}
        row = CachedActivationsRow
        with self._database.reading() as session:
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                rows = session.execute(select(row.key, row.payload).where(row.key.in_(chunk)))
                found.update({key: payload for key, payload in rows})
        self._mark_used(list(found))
        return found

    def put_many(self, payloads: Mapping[str, bytes]) -> None:
        """Keep payloads, all in one transaction; keys that exist keep their first payload."""
        insert = sqlite.insert if self._database.dialect == "sqlite" else postgresql.insert
        now = int(time.time())
        values = [
            {"key": key, "payload": payload, "n_bytes": len(payload), "used_at": now}
            for key, payload in sorted(payloads.items())  # one order, so that writers never lock up
        ]
        with self._database.writing() as session:
            for start in range(0, len(values), CHUNK):
                session.execute(
                    insert(CachedActivationsRow).on_conflict_do_nothing(),
                    values[start : start + CHUNK],
                )

    def size_bytes(self) -> int:
        """Bytes of all payloads."""
        with self._database.reading() as session:
            return int(session.scalar(select(func.sum(CachedActivationsRow.n_bytes))) or 0)

    def _mark_used(self, keys: Sequence[str]) -> None:
        now = int(time.time())
        row = CachedActivationsRow
        with self._database.writing() as session:
            for start in range(0, len(keys), CHUNK):
                chunk = keys[start : start + CHUNK]
                # An hour's precision is enough to find what is old, and spares most writes.
                session.execute(
                    update(row)
                    .where(row.key.in_(chunk), row.used_at < now - 3600)
                    .values(used_at=now)
                )
