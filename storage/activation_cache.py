"""The engine's cache in the database: opaque payloads by content hash, oldest use out first."""

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session as OrmSession

from saif_core.errors import StorageError
from storage.database import CHUNK, PAUSE_SECONDS, Database, chunks
from storage.tables import ActivationRow, ActivationTailRow

DEFAULT_CACHE_MB = 2048
BYTES_PER_MB = 1 << 20
KEY_BYTES = 16
# Payloads are stored in pieces, of which four fit a page of SQLite: with whole payloads, one of
# half a page and a little more would take a page of its own.
PIECE_BYTES = 960
PIECE_BITS = 20
# A use is written down when the last one is older than this, so that most reads write nothing.
TOUCH_AFTER_SECONDS = 3600
# What other processes wrote is counted this often; until then the cache may exceed its bound.
MEASURE_AFTER_SECONDS = 60
# Bytes that one transaction evicts: a tenth of a second.
EVICTED_AT_ONCE = 8 << 20
# Room that an eviction makes, so that the next writes need none.
KEPT_SHARE = 0.9


class ActivationStore:
    """Implements ``ActivationCache`` of the records.

    Args:
        database: a migrated database.
        clock: seconds since 1970.
        max_bytes: what the payloads may take together; writing more evicts the least recently
            used ones.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.time,
        max_bytes: int = DEFAULT_CACHE_MB * BYTES_PER_MB,
    ) -> None:
        self._database = database
        self._clock = clock
        self._max_bytes = max_bytes
        # Threads may lose each other's additions here; the next measurement puts that right.
        self._total = 0
        self._measured_at = float("-inf")

    def get_many(self, keys: Sequence[str]) -> dict[str, bytes]:
        """Payloads of the keys that are there.

        Raises:
            StorageError: the database refused.
        """
        names = {_stored_key(key): key for key in keys}
        found: dict[str, bytes] = {}
        stale: list[int] = []
        touch_before = int(self._clock()) - TOUCH_AFTER_SECONDS
        with self._database.transaction("Reading the cache") as db:
            for chunk in chunks(names):
                rows = db.scalars(select(ActivationRow).where(ActivationRow.key.in_(chunk))).all()
                tails = _read_tails(db, rows)
                for row in rows:
                    payload = row.head + b"".join(
                        tails.get(tail_id, b"") for tail_id in _tail_ids(row.id, row.n_bytes)
                    )
                    # Someone may have evicted it between the two queries.
                    if len(payload) != row.n_bytes:
                        continue
                    found[names[row.key]] = payload
                    if row.used_at < touch_before:
                        stale.append(row.id)
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
        now = self._clock()
        stored = {_stored_key(key): payload for key, payload in payloads.items()}
        # In one order everywhere, or two writers of the same keys could wait for each other.
        rows = [
            {
                "key": key,
                "used_at": int(now),
                "n_bytes": len(payload),
                "head": payload[:PIECE_BYTES],
            }
            for key, payload in sorted(stored.items())
        ]
        insert = self._database.insert(ActivationRow).on_conflict_do_nothing()
        returning = insert.returning(ActivationRow.id, ActivationRow.key)
        with self._database.transaction("Writing to the cache", write=True) as db:
            new = db.connection().execute(returning, rows).all()
            tails = [tail for row_id, key in new for tail in _tails(row_id, stored[key])]
            if tails:
                db.connection().execute(self._database.insert(ActivationTailRow), tails)
        self._total += sum(len(stored[key]) for _, key in new)
        if self._total > self._max_bytes or now - self._measured_at > MEASURE_AFTER_SECONDS:
            self._total, self._measured_at = self.size_bytes(), now
        if self._total > self._max_bytes:
            self._shrink()

    def size_bytes(self) -> int:
        """Sum of the payload sizes, in bytes.

        Raises:
            StorageError: the database refused.
        """
        with self._database.transaction("Measuring the cache") as db:
            return _measure(db)

    def _shrink(self) -> None:
        """Evict what makes room for the next writes, in short transactions: others write too."""
        while (excess := self._total - int(KEPT_SHARE * self._max_bytes)) > 0:
            with self._database.transaction("Making room in the cache", write=True) as db:
                n_bytes = _evict(db, min(excess, EVICTED_AT_ONCE))
            if not n_bytes:
                return
            self._total -= n_bytes
            time.sleep(PAUSE_SECONDS)

    def _touch(self, row_ids: Sequence[int]) -> None:
        now = int(self._clock())
        with self._database.transaction("Updating the cache", write=True) as db:
            for chunk in chunks(row_ids):
                # Rows that someone else is touching right now are as good as touched.
                free = (
                    select(ActivationRow.id)
                    .where(ActivationRow.id.in_(chunk))
                    .with_for_update(skip_locked=True)
                )
                db.execute(
                    update(ActivationRow)
                    .where(ActivationRow.id.in_(free))
                    .values(used_at=now)
                    .execution_options(synchronize_session=False)
                )


def _stored_key(key: str) -> bytes:
    # Hashed, as any text may be a key; 16 bytes already never meet by chance.
    return hashlib.sha256(key.encode()).digest()[:KEY_BYTES]


def _tail_ids(row_id: int, n_bytes: int) -> range:
    first = row_id << PIECE_BITS
    return range(first, first + max(0, -(-n_bytes // PIECE_BYTES) - 1))


def _tails(row_id: int, payload: bytes) -> list[dict[str, object]]:
    starts = range(PIECE_BYTES, len(payload), PIECE_BYTES)
    return [
        {"id": tail_id, "piece": payload[start : start + PIECE_BYTES]}
        for tail_id, start in zip(_tail_ids(row_id, len(payload)), starts, strict=True)
    ]


def _read_tails(db: OrmSession, rows: Sequence[ActivationRow]) -> dict[int, bytes]:
    columns = select(ActivationTailRow.id, ActivationTailRow.piece)
    tail_ids = (tail_id for row in rows for tail_id in _tail_ids(row.id, row.n_bytes))
    return {
        tail_id: piece
        for chunk in chunks(tail_ids)
        for tail_id, piece in db.execute(columns.where(ActivationTailRow.id.in_(chunk)))
    }


def _measure(db: OrmSession) -> int:
    return int(db.scalar(select(func.coalesce(func.sum(ActivationRow.n_bytes), 0))) or 0)


def _evict(db: OrmSession, n_bytes: int) -> int:
    """Bytes of the payloads removed, oldest use first, until so many are free."""
    # The order of the index, so that only what goes is read. Rows that someone else is removing
    # or touching right now are passed over.
    oldest = (
        select(ActivationRow.id, ActivationRow.n_bytes)
        .order_by(ActivationRow.used_at, ActivationRow.n_bytes, ActivationRow.id)
        .limit(CHUNK)
        .with_for_update(skip_locked=True)
    )
    removed = 0
    while removed < n_bytes and (rows := db.execute(oldest).all()):
        chosen = {}
        for row_id, size in rows:
            if removed < n_bytes:
                chosen[row_id] = size
                removed += size
        for tail_ids in chunks(
            i for row_id, size in chosen.items() for i in _tail_ids(row_id, size)
        ):
            db.execute(delete(ActivationTailRow).where(ActivationTailRow.id.in_(tail_ids)))
        db.execute(delete(ActivationRow).where(ActivationRow.id.in_(chosen)))
    return removed
