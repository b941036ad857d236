"""Progress of the ranking in hand, with a way to stop it; any page may show it."""

from typing import TYPE_CHECKING

import streamlit as st

from app.messages import shown
from app.session_view import escape_markdown
from app.state import engine, store, work
from saif_core.errors import JobCancelled, SaifError
from saif_core.records import Ranking

if TYPE_CHECKING:
    from saif_core.jobs import Job

POLL_SECONDS = 1.0


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
        st.fragment(_draw_progress, run_every=POLL_SECONDS)(job)
    else:
        _draw_outcome(job)


def _draw_progress(job: "Job") -> None:
    with shown():
        if job.finished():
            st.rerun()
        record = job.record
        share = min(1.0, record.done / record.total) if record.total else 0.0
        count = f" · {record.done:,} of {record.total:,}" if record.total else ""
        doing = f"{job.title}: {record.message or 'waiting for its turn'}{count}"
        st.progress(share, text=escape_markdown(doing))
        if st.button("Stop", key="rank_stop", icon=":material/stop_circle:"):
            job.cancel()
            st.caption("It stops after its current batch.")


def _draw_outcome(job: "Job") -> None:
    try:
        ranking: Ranking = job.result()
    except JobCancelled as error:
        st.info(escape_markdown(str(error)), icon=":material/stop_circle:")
        return
    except SaifError:
        raise
    except Exception as error:
        # The engine has logged it; the record holds the sentence that is fit to show.
        raise SaifError(job.record.error) from error
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
