"""Jobs in every kind of database."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text, update

from saif_core.errors import StorageError
from saif_core.records.as_json import utc_now
from saif_core.records.jobs import JobRecord, JobState
from saif_core.records.ports import JobLog
from storage import Store, job_store, open_store, processes
from storage.migrations import _config
from storage.processes import has_ended, process_name
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


CRASHED = """
import sys
from saif_core.records.jobs import JobRecord
from storage import open_store
store = open_store(sys.argv[1])
for state in ("queued", "running", "done"):
    store.jobs.save_job(JobRecord(state, "rank", "Find", state=state, done=2, total=5))
print("ready", flush=True)
sys.stdin.readline()
"""


@contextmanager
def other_process(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has saved a queued, a running and a finished job."""
    arguments = [sys.executable, "-c", CRASHED, url]
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        arguments, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def states(store: Store) -> dict[str, str]:
    return {job.id: job.state for job in store.jobs.list()}


@pytest.mark.skipif(not process_name(), reason="processes have no names here")
def test_jobs_of_a_killed_process_are_lost_at_once_and_those_of_a_live_one_are_not(
    shared_url: str,
) -> None:
    store = open_store(shared_url)
    store.jobs.save_job(JobRecord("mine", "rank", "t", state="running"))
    with other_process(shared_url) as process:
        assert states(store)["running"] == "running"
        assert store.jobs.mark_lost() == 0
        process.kill()
        # Not yet waited for, it is still listed among the processes.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        lost = {"mine": "running", "queued": "lost", "running": "lost", "done": "done"}
        assert states(store) == lost
        process.wait()
    assert states(store) == lost
    found = store.jobs.get("running")
    assert found is not None
    assert (found.done, found.total) == (2, 5)
    assert "start the job again" in found.error
    again = open_store(shared_url)
    assert again.jobs.mark_lost() == 2
    assert again.jobs.mark_lost() == 0
    assert states(again) == lost
    again.close()
    store.close()


def test_a_silent_job_is_told_as_lost_whenever_it_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "process_name", lambda: "")  # as of another machine
    job = JobRecord("a", "index", "t", state="running", heartbeat_at=seconds_ago(61))
    store.jobs.save_job(job)
    for found in (store.jobs.get("a"), *store.jobs.list()):
        assert found is not None
        assert (found.state, found.error) == ("lost", job_store.LOST_MESSAGE)
    store.jobs.save_job(replace(job, heartbeat_at=utc_now()))
    assert states(store) == {"a": "running"}
    store.jobs.save_job(replace(job, state="done"))
    assert states(store) == {"a": "done"}


@pytest.mark.skipif(not process_name(), reason="processes have no names here")
def test_nothing_is_said_of_a_process_that_cannot_be_known() -> None:
    place, number, began = process_name().split("|")
    assert not has_ended(process_name())
    assert not has_ended(f"{place}|1|{processes._began(1)}")
    assert has_ended(f"{place}|{number}|{int(began) + 1}")  # the number is used again
    assert has_ended(f"{place}|{1 << 22}|{began}")  # larger than any
    for elsewhere in ("", "x", f"another boot|{1 << 22}|{began}", f"{place}|x|{began}"):
        assert not has_ended(elsewhere)
    assert not has_ended(f"{place}|{number}|")


def test_a_job_of_the_schema_before_has_no_process(shared_url: str) -> None:
    store = open_store(shared_url)
    config = _config()
    with store._database.transaction("Going back", write=True) as db:
        config.attributes["connection"] = db.connection()
        command.downgrade(config, "0007")
        values = "'a', 'rank', 't', 'running', 0, 0, '', '', :at, :at"
        columns = "id, kind, title, state, done, total, message, error, created_at, heartbeat_at"
        db.execute(text(f"INSERT INTO jobs ({columns}) VALUES ({values})"), {"at": utc_now()})
    store.close()
    again = open_store(shared_url)
    assert states(again) == {"a": "running"}
    assert again.jobs.mark_lost() == 0
    assert again.jobs.mark_lost(-5) == 1
    again.close()
