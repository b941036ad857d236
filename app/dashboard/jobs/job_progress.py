"""A job as every page starts and shows it: progress with a stop, its result, or what ended it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.dashboard.handles import engine
from app.dashboard.messages import shown
from app.presentation.escaping import escape_markdown
from saif_core.errors import JobCancelled, SaifError
from saif_core.records.jobs import JobRecord, Step

if TYPE_CHECKING:
    from saif_core.engine.job import Job

POLL_SECONDS = 1.0
MOST_SHOWN = 0.99


def submit_once(request: Any, is_same: Callable[[Any], bool]) -> "Job":
    """Queue work, unless a request that is the same is under way: that job then."""
    job = engine().newest(engine().task_of(request).name, is_same)
    return engine().submit(request) if job is None or job.finished() else job


def draw_progress(
    job: "Job",
    key: str,
    facts: Callable[[], str] = lambda: "",
    *,
    stops: str = "It stops after its current step.",
) -> None:
    """Progress of a job until it ends, which redraws the page.

    Args:
        facts: Markdown under the bar, asked for at every look.
        stops: said once the stop was pressed.
    """
    st.fragment(_draw_progress, run_every=POLL_SECONDS)(job, key, facts, stops)


def _draw_progress(job: "Job", key: str, facts: Callable[[], str], stops: str) -> None:
    with shown():
        if job.finished():
            st.rerun()
        record = job.record
        st.progress(shown_share(record), text=escape_markdown(progress_words(record)))
        if told := facts():
            st.caption(told)
        if st.button("Stop", key=f"{key}_stop", icon=":material/stop_circle:"):
            job.cancel()
            st.caption(stops)


@contextmanager
def page_progress(title: str) -> Iterator[Step]:
    """Progress of work that the page does itself, told by a step; the bar goes when it ends.

    A person who moves on stops the work, as each look at the bar is where a page may be left.
    """
    bar = st.progress(0.0, text=escape_markdown(title))

    def step(done: int, total: int, message: str) -> None:
        told = f"{title}: {message} · leaving this page stops it"
        bar.progress(share_of(done, total), text=escape_markdown(told))

    try:
        yield step
    finally:
        bar.empty()


def share_of(done: int, total: int) -> float:
    """How much of some work is done, from 0; never all of it, as it still runs."""
    return min(done / total, MOST_SHOWN) if total else 0.0


def shown_share(record: JobRecord) -> float:
    """How much of the work is done; never all of it, as it still runs."""
    return share_of(record.done, record.total)


def progress_words(record: JobRecord) -> str:
    """What a job is doing, and what it has counted."""
    doing = f"{record.title}: {record.message or 'waiting for its turn'}"
    if not record.total:
        return doing
    if record.done >= record.total:
        return f"{doing} · finishing"
    return f"{doing} · {record.done:,} of {record.total:,}"


def result_of(job: "Job") -> Any:
    """What a finished job found.

    Raises:
        SaifError: it was cancelled or failed, with a sentence that is fit to show.
    """
    try:
        return job.result()
    except SaifError:
        raise
    except Exception as error:
        # The engine has logged it.
        raise SaifError(job.record.error) from error


def draw_failure(job: "Job") -> None:
    """What ended a job early, as a sentence; nothing if it is done."""
    if isinstance(job.error, JobCancelled):
        st.info(escape_markdown(str(job.error)), icon=":material/stop_circle:")
    elif job.error is not None:
        # The record holds a sentence that is fit to show, whatever was raised.
        st.error(escape_markdown(job.record.error), icon=":material/error:")
