"""Jobs in every kind of database."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import update

from saif_core.errors import StorageError
from saif_core.records.as_json import utc_now
from saif_core.records.jobs import JobRecord, JobState
from saif_core.records.ports import JobLog
from storage import Store
from storage.tables import JobRow
from tests.storage_samples import KEPT_TEXT, ODD_TEXT

pytest_plugins = ["tests.storage_fixtures"]


def seconds_ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def test_a_job_is_updated_in_place(store: Store) -> None:
    log: JobLog = store.jobs
    queued = JobRecord("a", "rank", "Find", created_at=seconds_ago(9))
    log.save_job(queued)
    assert store.jobs.get("a") == queued
    done = replace(queued, state="done", done=3, total=3, message="m", result={"x": [1.5, None]})
    log.save_job(done)
    assert store.jobs.get("a") == done
    assert store.jobs.list() == [done]
    log.save_job(replace(done, result=None))
    assert store.jobs.get("a") == replace(done, result=None)


def test_an_unknown_job_is_none(store: Store) -> None:
    assert store.jobs.get("missing") is None
    assert store.jobs.get(ODD_TEXT) is None


def test_jobs_of_the_same_second_are_listed_newest_first(store: Store) -> None:
    now = utc_now()
    for name in "abc":
        store.jobs.save_job(JobRecord(name, "rank", "t", created_at=now))
    store.jobs.save_job(JobRecord("a", "rank", "t", state="running", created_at=now))
    assert [job.id for job in store.jobs.list()] == ["c", "b", "a"]
    assert [job.id for job in store.jobs.list(limit=2)] == ["c", "b"]
    assert store.jobs.list(limit=0) == store.jobs.list(limit=-1) == []


def test_odd_text_is_kept_as_far_as_databases_can(store: Store) -> None:
    job = JobRecord("a", "rank", ODD_TEXT, error=ODD_TEXT, result={ODD_TEXT: ODD_TEXT})
    store.jobs.save_job(job)
    shown = ODD_TEXT.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
    kept = replace(job, title=shown, error=shown, result={KEPT_TEXT: KEPT_TEXT})
    assert store.jobs.get("a") == kept


def test_only_silent_unfinished_jobs_are_lost(store: Store) -> None:
    states: tuple[JobState, ...] = ("queued", "running", "done", "failed", "cancelled")
    for state in states:
        for age in (120, 0):
            job = JobRecord(f"{state}-{age}", "rank", "t", state=state)
            store.jobs.save_job(replace(job, heartbeat_at=seconds_ago(age)))
    assert store.jobs.mark_lost(60) == 2
    lost = {job.id: job for job in store.jobs.list() if job.state == "lost"}
    assert set(lost) == {"queued-120", "running-120"}
    assert all("start the job again" in job.error for job in lost.values())
    assert store.jobs.mark_lost(60) == 0


def test_a_heartbeat_in_another_time_zone_counts(store: Store) -> None:
    zone = timezone(timedelta(hours=-9))
    now = datetime.now(zone).isoformat()
    store.jobs.save_job(JobRecord("a", "rank", "t", state="running", heartbeat_at=now))
    assert store.jobs.mark_lost(60) == 0


def test_a_job_thought_lost_goes_on_when_it_speaks_again(store: Store) -> None:
    job = JobRecord("a", "rank", "t", state="running", heartbeat_at=seconds_ago(120))
    store.jobs.save_job(job)
    store.jobs.mark_lost(60)
    job = replace(job, heartbeat_at=utc_now())
    store.jobs.save_job(job)
    assert store.jobs.get("a") == job


@pytest.mark.parametrize(
    "job",
    [
        JobRecord("a", "rank", "t", result={"x": float("nan")}),
        JobRecord("a", "rank", "t", heartbeat_at="yesterday"),
    ],
)
def test_a_job_that_cannot_be_stored_is_refused(job: JobRecord, store: Store) -> None:
    with pytest.raises(StorageError, match="'t'"):
        store.jobs.save_job(job)
    assert store.jobs.list() == []


@pytest.mark.parametrize("change", [{"state": "paused"}, {"result": "{"}])
def test_a_damaged_row_is_one_error(change: dict[str, str], store: Store) -> None:
    store.jobs.save_job(JobRecord("a", "rank", "t"))
    with store._database.transaction("Changing a row", write=True) as db:
        db.execute(update(JobRow).values(**change))
    with pytest.raises(StorageError, match="'a'"):
        store.jobs.get("a")
