"""A job settles whatever happens around it."""

import threading
from typing import Any

import pytest

from saif_core.engine.job import Job
from saif_core.engine.worker import BATCH, Worker
from saif_core.records.jobs import JobRecord


class LostLog:
    """A store that cannot be reached."""

    def save_job(self, job: JobRecord) -> None:
        raise OSError(f"the disk with {job.id} is gone")


def fail(_job: Job) -> Any:
    raise ValueError("inside")


def test_an_explanation_that_fails_leaves_the_error_as_it_was() -> None:
    def explain(_error: BaseException) -> BaseException:
        raise RuntimeError("cannot explain")

    job = Job("rank", "Find", None, fail, explain=explain)
    job.run()
    with pytest.raises(ValueError, match="inside"):
        job.result(timeout=0)
    assert job.record.state == "failed"


@pytest.mark.parametrize(("work", "state"), [(fail, "failed"), (lambda _job: 3, "done")])
def test_work_ends_even_where_its_log_is_lost(work: Any, state: str) -> None:
    job = Job("rank", "Find", None, work, log=LostLog())
    job.run()
    assert job.finished()
    assert job.record.state == state


def test_work_that_waits_when_its_worker_stops_ends_as_cancelled() -> None:
    started, may_end = threading.Event(), threading.Event()

    def wait(_job: Job) -> bool:
        started.set()
        return may_end.wait(30)

    worker = Worker(list)
    jobs = [Job("rank", "Find", None, work) for work in (wait, lambda _job: 3)]
    for job in jobs:
        worker.put(job, BATCH)
    assert started.wait(30)
    worker.close(timeout=0.01)
    may_end.set()
    assert all(job.wait(30) for job in jobs)
    assert [job.record.state for job in jobs] == ["done", "cancelled"]
