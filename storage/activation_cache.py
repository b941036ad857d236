"""The engine's cache in the database: opaque payloads by content hash, oldest use out first."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from sqlalchemy import delete, func, select, update

from saif_core.errors import StorageError
from storage.database import Database
from storage.tables import ActivationRow

# Databases limit the parameters of a statement; the smallest limit still in use is 999.
CHUNK = 500
# A use is written down when the last one is older than this, so that most reads write nothing.
TOUCH_AFTER_SECONDS = 3600


class ActivationStore:
    """Implements ``ActivationCache`` of the records.

    Args:
        database: a migrated database.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Payloads of the keys that are there.

        Raises:
            StorageError: the database refused.
        """
        found: dict[str, bytes] = {}
        stale: list[str] = []
        touch_before = int(self._clock()) - TOUCH_AFTER_SECONDS
        columns = select(ActivationRow.key, ActivationRow.payload, ActivationRow.used_at)
        with self._database.transaction("Reading the cache") as db:
            for chunk in _chunks(keys):
                rows = db.execute(columns.where(ActivationRow.key.in_(chunk)))
                for key, payload, used_at in rows:
                    found[key] = payload
                    if used_at < touch_before:
                        stale.append(key)
        if stale:
            # The payloads are read: a busy or read-only database need not fail the reader now.
            with contextlib.suppress(StorageError):
                self._touch(stale)
        return found

    def put_many(self, payloads: Mapping[str, bytes]) -> None:
        """Keep payloads, all or none; a key that exists keeps its first payload.

        Raises:
            StorageError: the database refused.
        """
        if not payloads:
            return
        now = int(self._clock())
        # In one order everywhere, or two writers of the same keys could wait for each other.
        rows = [
            {"key": key, "used_at": now, "n_bytes": len(payload), "payload": payload}
            for key, payload in sorted(payloads.items())
        ]
        insert = self._database.insert(ActivationRow).on_conflict_do_nothing()
        with self._database.transaction("Writing to the cache", write=True) as db:
            db.connection().execute(insert, rows)

    def size_bytes(self) -> int:
        """Sum of the payload sizes, in bytes.

        Raises:
            StorageError: the database refused.
        """
        with self._database.transaction("Measuring the cache") as db:
            return int(db.scalar(select(func.coalesce(func.sum(ActivationRow.n_bytes), 0))) or 0)

    def evict(self, max_bytes: int) -> int:
        """Number of payloads removed, least recently used first, to fit the cache in a size.

        Args:
            max_bytes: what the payloads may take afterwards, in bytes.

        Raises:
            StorageError: the database refused.
        """
        newest_first = select(ActivationRow.key, ActivationRow.n_bytes).order_by(
            ActivationRow.used_at.desc(), ActivationRow.key
        )
        with self._database.transaction("Shrinking the cache", write=True) as db:
            kept = 0
            evicted = []
            for key, n_bytes in db.execute(newest_first):
                kept += n_bytes
                if kept > max_bytes:
                    evicted.append(key)
            for chunk in _chunks(evicted):
                db.execute(delete(ActivationRow).where(ActivationRow.key.in_(chunk)))
        return len(evicted)

    def _touch(self, keys: Sequence[str]) -> None:
        now = int(self._clock())
        with self._database.transaction("Updating the cache", write=True) as db:
            for chunk in _chunks(keys):
                # Rows that someone else is touching right now are as good as touched.
                free = (
                    select(ActivationRow.key)
                    .where(ActivationRow.key.in_(chunk))
                    .with_for_update(skip_locked=True)
                )
                db.execute(
                    update(ActivationRow)
                    .where(ActivationRow.key.in_(free))
                    .values(used_at=now)
                    .execution_options(synchronize_session=False)
                )


def _chunks(keys: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(keys)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk
