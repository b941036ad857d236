"""Progress of the ranking in hand, with a way to stop it; any page may show it."""

from typing import TYPE_CHECKING

import streamlit as st

from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_progress, result_of
from app.dashboard.work import work
from app.presentation.escaping import escape_markdown
from saif_core.errors import JobCancelled
from saif_core.records.ranking import Ranking

if TYPE_CHECKING:
    from saif_core.engine.job import Job


def ranking_is_running() -> bool:
    """Whether the ranking job in hand is queued or running."""
    job = engine().job(work().job_id)
    return job is not None and not job.finished()


def draw_ranking_job() -> None:
    """Progress while the job in hand runs, and what came of it; keeps a finished ranking."""
    job_id = work().job_id
    if not job_id:
        return
    job = engine().job(job_id)
    if job is None or job.kind != "rank":
        _draw_gone(job_id)
    elif not job.finished():
        draw_progress(job, "rank")
    else:
        _draw_outcome(job)


def _draw_outcome(job: "Job") -> None:
    try:
        ranking: Ranking = result_of(job)
    except JobCancelled as error:
        st.info(escape_markdown(str(error)), icon=":material/stop_circle:")
        return
    if work().ranking is not ranking:
        work().keep_ranking(job.id, job.request, ranking)


def _draw_gone(job_id: str) -> None:
    record = store().jobs.get(job_id)
    if record is None:
        st.warning(
            "The ranking that this address names is not known here; find latents to make one.",
            icon=":material/help:",
        )
        return
    st.warning(
        f"“{escape_markdown(record.title)}” was {record.state} before SAIF was restarted; find "
        "latents again, which takes what was computed from the cache.",
        icon=":material/history:",
    )
