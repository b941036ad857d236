"""Writes that take long, in many short transactions, so that others may write in between.

An index that is being imported or deleted is pending: nobody sees it, and what is left of it after
a process was killed is removed by whoever next imports, begins or deletes one.
"""

import time
from collections.abc import Iterator

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session as OrmSession

from saif_core.errors import StorageError
from saif_core.records.as_json import new_id
from storage.database import PAUSE_SECONDS, Database
from storage.tables import (
    CorpusContextRow,
    LatentIndexRow,
    LatentProfileRow,
    LatentRow,
    LatentTextRow,
    rows_of,
)

# Rows that one transaction removes: a tenth of a second.
ROWS_AT_ONCE = 500
# Whoever works at an index says so with every transaction.
ABANDONED_SECONDS = 600
ROW_KINDS = (CorpusContextRow, LatentRow, LatentProfileRow, LatentTextRow)


class PendingIndex:
    """An index that nobody sees yet, or no more.

    Args:
        database: where it is.
        row: of the index, in an open transaction; from its end on nobody sees it.
    """

    def __init__(self, database: Database, db: OrmSession, row: LatentIndexRow) -> None:
        self._database = database
        # A name that no other index ever has; its own is free for the same index to come again.
        row.id, row.pending_at = new_id(), int(time.time())
        db.add(row)
        db.flush()
        self.number = row.number
        self._mine = (
            LatentIndexRow.number == row.number,
            LatentIndexRow.id == row.id,
            LatentIndexRow.pending_at.is_not(None),
        )

    def hold(self, db: OrmSession) -> None:
        """Say in a transaction that the index is being worked at, and keep others from it.

        Raises:
            StorageError: someone has taken it for abandoned and removed it.
        """
        if not self._touch(db):
            raise StorageError(
                "Latents were being imported, but nothing was heard of that for so long that they "
                "were removed; import them again."
            )

    def show(self, db: OrmSession, index_id: str) -> None:
        """Let everybody see the index from the end of the transaction on, under its own id."""
        self.hold(db)
        db.execute(update(LatentIndexRow).where(*self._mine).values(id=index_id, pending_at=None))

    def remove(self) -> None:
        """Remove all of its rows, and at last the index.

        Raises:
            StorageError: the database refused.
        """
        for kind in ROW_KINDS:
            mine = select(kind.id).where(rows_of(self.number, kind.id)).order_by(kind.id)
            some = delete(kind).where(kind.id.in_(mine.limit(ROWS_AT_ONCE)))
            n_removed = ROWS_AT_ONCE
            while n_removed:
                with self._database.transaction("Removing a latent index", write=True) as db:
                    # Its number may belong to another index already.
                    if not self._touch(db):
                        return
                    n_removed = db.connection().execute(some).rowcount
                time.sleep(PAUSE_SECONDS)
        with self._database.transaction("Removing a latent index", write=True) as db:
            db.execute(delete(LatentIndexRow).where(*self._mine))

    def _touch(self, db: OrmSession) -> bool:
        now = update(LatentIndexRow).where(*self._mine).values(pending_at=int(time.time()))
        return db.connection().execute(now).rowcount == 1


def remove_abandoned(database: Database) -> None:
    """Remove what processes left that were killed while they imported or deleted an index.

    Raises:
        StorageError: the database refused.
    """
    for abandoned in list(_find_abandoned(database)):
        abandoned.remove()


def _find_abandoned(database: Database) -> Iterator[PendingIndex]:
    limit = int(time.time()) - ABANDONED_SECONDS
    old = select(LatentIndexRow).where(LatentIndexRow.pending_at < limit)
    with database.transaction("Looking for what was left half-way") as db:
        if db.scalars(old.limit(1)).first() is None:
            return
    with database.transaction("Removing what was left half-way", write=True) as db:
        # Whoever comes second finds none: they have new names.
        for row in db.scalars(old.with_for_update(skip_locked=True)).all():
            yield PendingIndex(database, db, row)
