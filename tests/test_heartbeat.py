"""Jobs that take long over one step still say that they are there, and end as what they are."""

import threading
import time

import pytest

from saif_core.engine import worker
from saif_core.engine.job import Job
from saif_core.engine.worker import BATCH, Worker
from saif_core.records.jobs import JobRecord


class Log:
    """Keeps every record, slowly."""

    def __init__(self) -> None:
        self.records: list[JobRecord] = []

    def save_job(self, job: JobRecord) -> None:
        time.sleep(0.005)
        self.records.append(job)


def test_a_job_that_loads_for_long_and_one_that_waits_for_it_both_speak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "BEAT_SECONDS", 0.02)
    go_on, log = threading.Event(), Log()
    jobs = [
        Job("index", "long", None, lambda _job: go_on.wait(30), log=log),
        Job("index", "waits", None, lambda _job: None, log=log),
    ]
    working = Worker(lambda: [job for job in jobs if not job.finished()])
    for job in jobs:
        working.put(job, BATCH)

    def beats(job: Job) -> int:
        return [record.id for record in log.records].count(job.id)

    deadline = time.monotonic() + 30
    while min(map(beats, jobs)) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert min(map(beats, jobs)) >= 8
    go_on.set()
    for job in jobs:
        assert job.wait(30)
    n_at_end = len(log.records)
    time.sleep(0.1)
    for job in jobs:
        mine = [record.state for record in log.records if record.id == job.id]
        # Whatever spoke last, it said that the job is done.
        assert mine[-1] == "done"
        assert mine.index("done") == len(mine) - mine.count("done")
    assert len(log.records) <= n_at_end + 2
    working.close(5)
