"""Jobs: the engine reports them, pages read them, also after a restart."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from saif_core.errors import StorageError
from saif_core.records import JobRecord, from_json, to_json
from storage.database import Database
from storage.tables import JobRow

_OPEN_STATES = ("queued", "running")


class JobStore:
    """``saif_core.records.JobLog`` in the database, with lists."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_job(self, job: JobRecord) -> None:
        """Insert or update a job."""
        with self._database.writing() as session:
            session.merge(_row(job))

    def get(self, job_id: str) -> JobRecord | None:
        """A job, or None."""
        with self._database.reading() as session:
            row = session.get(JobRow, job_id)
            return _record(row) if row is not None else None

    def list(self, limit: int = 50) -> list[JobRecord]:
        """Newest jobs first."""
        with self._database.reading() as session:
            rows = session.scalars(select(JobRow).order_by(JobRow.created_at.desc()).limit(limit))
            return [_record(row) for row in rows]

    def mark_lost(self, older_than_seconds: float) -> int:
        """Mark unfinished jobs without a sign of life as lost.

        Returns:
            how many there were.
        """
        limit = (datetime.now(UTC) - timedelta(seconds=older_than_seconds)).isoformat(
            timespec="seconds"
        )
        with self._database.writing() as session:
            rows = session.scalars(
                select(JobRow).where(JobRow.state.in_(_OPEN_STATES), JobRow.heartbeat_at < limit)
            ).all()
            for row in rows:
                lost = replace(
                    _record(row),
                    state="lost",
                    error="SAIF stopped before this was finished; start it again.",
                )
                session.merge(_row(lost))
            return len(rows)


def _row(job: JobRecord) -> JobRow:
    return JobRow(
        id=job.id,
        state=job.state,
        created_at=job.created_at,
        heartbeat_at=job.heartbeat_at,
        record=to_json(job),
    )


def _record(row: JobRow) -> JobRecord:
    try:
        return from_json(JobRecord, row.record)
    except ValueError as error:
        raise StorageError(f"Job {row.id} in the database cannot be read: {error}") from error
