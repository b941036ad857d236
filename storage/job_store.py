"""Jobs in the database: the last known state of each, also after its process is gone."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Row, select, update

from saif_core.characters import valid_text
from saif_core.errors import StorageError
from saif_core.records.as_json import from_json, to_json
from saif_core.records.jobs import JobRecord
from storage.database import Database
from storage.processes import has_ended, process_name
from storage.tables import JobRow

COLUMNS = tuple(column for column in JobRow.__table__.columns if column.name != "number")
UNFINISHED = ("queued", "running")
# Jobs speak every ten seconds, whatever they do.
LOST_AFTER_SECONDS = 60.0
LOST_MESSAGE = "The process that ran this job stopped; start the job again."


class JobStore:
    """Implements ``JobLog`` of the records, and lists what it was told.

    An unfinished job is told as lost once its process has ended, where that can be known, or once
    it has not spoken for a minute; it is told as running again should it speak again.

    Args:
        database: a migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_job(self, job: JobRecord) -> None:
        """Insert or update a job.

        Raises:
            StorageError: its result holds NaN or infinity, a time is not ISO 8601, or the
                database refused.
        """
        values = _to_columns(job) | {"process": process_name()}
        insert = self._database.insert(JobRow).values(values)
        upsert = insert.on_conflict_do_update(
            index_elements=["id"], set_={name: values[name] for name in values if name != "id"}
        )
        with self._database.transaction("Saving a job", write=True) as db:
            db.execute(upsert)

    def get(self, job_id: str) -> JobRecord | None:
        """The job with that id.

        Raises:
            StorageError: the database refused, or the row cannot be read.
        """
        with self._database.transaction("Reading a job") as db:
            row = db.execute(select(*COLUMNS).where(JobRow.id == valid_text(job_id))).first()
        return None if row is None else _from_columns(row)

    def list(self, limit: int = 50) -> list[JobRecord]:
        """Jobs, the newest first.

        Raises:
            StorageError: the database refused, or a row cannot be read.
        """
        newest = select(*COLUMNS).order_by(JobRow.number.desc()).limit(max(0, limit))
        with self._database.transaction("Listing the jobs") as db:
            rows = db.execute(newest).all()
        return [_from_columns(row) for row in rows]

    def mark_lost(self, older_than_seconds: float = LOST_AFTER_SECONDS) -> int:
        """Number of unfinished jobs that are lost; that is written down as their state now.

        Args:
            older_than_seconds: since when they have not spoken, if their process may still run.

        Raises:
            StorageError: the database refused.
        """
        unfinished = select(JobRow.number, JobRow.heartbeat_at, JobRow.process)
        with self._database.transaction("Looking for lost jobs") as db:
            found = db.execute(unfinished.where(JobRow.state.in_(UNFINISHED))).all()
        lost = [row for row in found if _is_lost(row, older_than_seconds)]
        if not lost:
            return 0
        n_marked = 0
        with self._database.transaction("Marking lost jobs", write=True) as db:
            for number, heartbeat_at, _ in lost:
                # Not if it has spoken meanwhile.
                mark = update(JobRow).where(
                    JobRow.number == number,
                    JobRow.heartbeat_at == heartbeat_at,
                    JobRow.state.in_(UNFINISHED),
                )
                done = db.connection().execute(mark.values(state="lost", error=LOST_MESSAGE))
                n_marked += done.rowcount
        return n_marked


def _is_lost(row: Any, silent_seconds: float = LOST_AFTER_SECONDS) -> bool:
    """Whether an unfinished job is; ``row`` has its heartbeat and its process."""
    limit = datetime.now(UTC) - timedelta(seconds=silent_seconds)
    silent: bool = row.heartbeat_at < limit.isoformat(timespec="seconds")
    return silent or has_ended(row.process)


def _to_columns(job: JobRecord) -> dict[str, Any]:
    try:
        values = to_json(job)
        # One zone and one precision, so that times compare as texts.
        for name in ("created_at", "heartbeat_at"):
            time = datetime.fromisoformat(values[name]).astimezone(UTC)
            values[name] = time.isoformat(timespec="seconds")
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"Job {job.title!r} cannot be saved, as its result or a time in it is not valid "
            f"({error}); report this as a bug."
        ) from error
    result = values.pop("result")
    cleaned = {
        name: valid_text(value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    return {**cleaned, "result": None if result is None else json.dumps(result)}


def _from_columns(row: Row[Any]) -> JobRecord:
    values = dict(row._mapping)
    if values["state"] in UNFINISHED and _is_lost(row):
        values |= {"state": "lost", "error": LOST_MESSAGE}
    del values["process"]
    result = values.pop("result")
    try:
        found = None if result is None else json.loads(result)
        return from_json(JobRecord, {**values, "result": found})
    except ValueError as error:
        raise StorageError(
            f"Job {values['id']!r} was to be read, but what is stored is not a job of this SAIF; "
            "update SAIF."
        ) from error
