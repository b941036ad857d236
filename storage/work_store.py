"""Work in hand that outlives a page: bounded in size and number, and forgotten when unused."""

import json
import time
import zlib
from typing import Any

from sqlalchemy import delete, select, update

from saif_core.errors import StorageError
from storage.database import Database
from storage.tables import KeptWorkRow

MOST_BYTES = 2 * 2**20
MOST_KEPT = 1000
KEPT_DAYS = 30
DAY_SECONDS = 86_400


class WorkStore:
    """Work by its id, as JSON-ready parts.

    Args:
        database: a migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, work_id: str, parts: dict[str, Any]) -> None:
        """Keep work, in place of what was kept under the id; the longest unused work makes way.

        Raises:
            StorageError: it is more than ``MOST_BYTES``, or the database refused.
        """
        data = json.dumps(parts, allow_nan=False).encode("ascii")
        if len(data) > MOST_BYTES:
            raise StorageError(
                f"This work takes {len(data) / 2**20:.1f} MB, but at most {MOST_BYTES >> 20} MB "
                "are kept for a reload; save it as a session, or use smaller files."
            )
        now = int(time.time())
        values = {"id": work_id, "used_at": now, "parts": zlib.compress(data)}
        insert = self._database.insert(KeptWorkRow).values(values)
        upsert = insert.on_conflict_do_update(
            index_elements=["id"], set_={name: values[name] for name in ("used_at", "parts")}
        )
        newest = (
            select(KeptWorkRow.used_at)
            .order_by(KeptWorkRow.used_at.desc())
            .offset(MOST_KEPT)
            .limit(1)
        )
        with self._database.transaction("Keeping the work", write=True) as db:
            db.execute(upsert)
            oldest = max(db.scalar(newest) or 0, now - KEPT_DAYS * DAY_SECONDS)
            db.execute(
                delete(KeptWorkRow)
                .where(KeptWorkRow.used_at < oldest, KeptWorkRow.id != work_id)
                .execution_options(synchronize_session=False)
            )

    def get(self, work_id: str) -> dict[str, Any] | None:
        """The parts of kept work; None for none, or for such as nobody can read.

        Raises:
            StorageError: the database refused.
        """
        with self._database.transaction("Reading the work") as db:
            row = db.execute(
                select(KeptWorkRow.parts, KeptWorkRow.used_at).where(KeptWorkRow.id == work_id)
            ).first()
        if row is None or row.used_at < time.time() - KEPT_DAYS * DAY_SECONDS:
            return None
        if row.used_at < time.time() - DAY_SECONDS:
            self._touch(work_id)
        try:
            parts = json.loads(zlib.decompress(row.parts))
        except (ValueError, zlib.error):
            return None
        return parts if isinstance(parts, dict) else None

    def _touch(self, work_id: str) -> None:
        with self._database.transaction("Reading the work", write=True) as db:
            db.execute(
                update(KeptWorkRow)
                .where(KeptWorkRow.id == work_id)
                .values(used_at=int(time.time()))
                .execution_options(synchronize_session=False)
            )
