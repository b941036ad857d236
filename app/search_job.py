"""Jobs of the search and corpus pages: progress with a stop, and what came of them.

Work that needs no model runs in a thread of its own, so that it neither waits for the engine nor
keeps it from answering.
"""

import atexit
import logging
import threading
from collections.abc import Callable
from typing import Any

import streamlit as st

from app.messages import shown
from app.session_view import escape_markdown
from saif_core.errors import JobCancelled, SaifError
from saif_core.jobs import Job

POLL_SECONDS = 1.0
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


def draw_progress(job: Job, key: str, facts: Callable[[], str] = lambda: "") -> None:
    """Progress of a job until it ends, which redraws the page.

    Args:
        facts: Markdown under the bar, asked for at every look.
    """
    st.fragment(_draw_progress, run_every=POLL_SECONDS)(job, key, facts)


def _draw_progress(job: Job, key: str, facts: Callable[[], str]) -> None:
    with shown():
        if job.finished():
            st.rerun()
        record = job.record
        share = min(1.0, record.done / record.total) if record.total else 0.0
        count = f" · {record.done:,} of {record.total:,}" if record.total else ""
        doing = f"{job.title}: {record.message or 'waiting for its turn'}{count}"
        st.progress(share, text=escape_markdown(doing))
        if told := facts():
            st.caption(told)
        if st.button("Stop", key=f"{key}_stop", icon=":material/stop_circle:"):
            job.cancel()
            st.caption("It stops after its current step.")


def draw_failure(job: Job) -> None:
    """What ended a job early, as a sentence; nothing if it is done."""
    if isinstance(job.error, JobCancelled):
        st.info(escape_markdown(str(job.error)), icon=":material/stop_circle:")
    elif job.error is not None:
        # The record holds a sentence that is fit to show, whatever was raised.
        st.error(escape_markdown(job.record.error), icon=":material/error:")
