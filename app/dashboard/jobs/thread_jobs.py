"""Work that needs no model: it neither waits for the engine nor keeps it from answering."""

import atexit
import logging
import threading
from collections.abc import Callable
from typing import Any

import streamlit as st

from saif_core.engine.job import Job
from saif_core.errors import SaifError
from saif_core.records.jobs import JobRecord

_STOP_SECONDS = 30.0
logger = logging.getLogger("saif")


class ThreadJobs:
    """The newest job of each name, with the thread that runs it."""

    def __init__(self) -> None:
        self._started: dict[str, tuple[Job, threading.Thread]] = {}
        # A thread that is still inside a model when the interpreter goes would crash the process.
        atexit.register(self.stop)

    def get(self, name: str) -> Job | None:
        """The newest job of that name."""
        return self._started[name][0] if name in self._started else None

    def running(self) -> list[JobRecord]:
        """What is under way."""
        return [job.record for job, _ in self._started.values() if not job.finished()]

    def begin(self, name: str, kind: str, title: str, work: Callable[[Job], Any]) -> None:
        """Start work, unless work of that name is under way."""
        old = self.get(name)
        if old is not None and not old.finished():
            return
        job = Job(kind, title, None, work)
        thread = threading.Thread(target=_run, args=(job,), name=f"saif-{kind}", daemon=True)
        self._started[name] = job, thread
        thread.start()

    def stop(self) -> None:
        """End all work after its current step."""
        for job, _ in self._started.values():
            job.cancel()
        for _, thread in self._started.values():
            thread.join(timeout=_STOP_SECONDS)


@st.cache_resource(show_spinner=False)
def thread_jobs() -> ThreadJobs:
    """The jobs of this process that need no model of the engine."""
    return ThreadJobs()


def _run(job: Job) -> None:
    job.run()
    if isinstance(job.error, Exception) and not isinstance(job.error, SaifError):
        logger.error("%s failed", job.title, exc_info=job.error)
