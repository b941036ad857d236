"""Does it work? What every arm does to the texts of many contents, counted with controls."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.dashboard.evaluate.form import (
    CPU_TOKENS_PER_SECOND,
    cost_of,
    cost_sentence,
    draw_evaluation_form,
    layers_of_request,
)
from app.dashboard.evaluate.results import draw_evaluation
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_progress
from app.dashboard.jobs.speed import speed_now
from app.dashboard.messages import shown
from app.dashboard.sae_fit import draw_broken_model
from app.dashboard.scrolling import scroll_to, want_in_view
from app.dashboard.work import publish_parameter, resume_ranking, write_url
from app.presentation.arms import arm_words
from app.presentation.escaping import escape_markdown
from saif_core.errors import JobCancelled, SaifError, UnknownNameError
from saif_core.records.evaluation import Evaluation, EvaluationRequest, EvaluationSummary

if TYPE_CHECKING:  # importing the engine imports torch, which the first paint need not wait for
    from saif_core.engine.job import Job

# The job and the evaluation that the page shows; they outlive a visit of another page.
RUN, SHOWN = "evaluation_run", "evaluation_shown"
RESULTS = "evaluation_results"
SHORTCUT = "Ctrl+Enter"
_OF_BEST = (
    "The share of texts of the best arm that uses an SAE, on the contents that did not choose it."
)
_RESUME = "Measure again with the same settings: texts that were written are taken from the cache."


def draw_page() -> None:
    """Form, then the evaluation in hand or its progress, then the earlier ones."""
    resume_ranking()
    st.title("Does it work?")
    if not engine().saes():
        st.info(
            "No SAE is offered for this model: name one in SAIF_SAES and restart.",
            icon=":material/info:",
        )
        return
    draw_broken_model()
    run, evaluation_id = _in_hand("run", RUN), _in_hand("evaluation", SHOWN)
    job = engine().job(run) if run else None
    if job is not None and job.kind == "evaluate" and job.record.state == "done":
        evaluation_id = job.result().id
        _hold(run="", evaluation=evaluation_id)
        want_in_view(RESULTS)
        run = ""
    evaluation: Evaluation | None = None
    with shown():
        evaluation = _evaluation(evaluation_id)
    # The form speaks of its own mistakes, and what is below stays where it is.
    with shown():
        _draw_form(job, evaluation)
    with st.container(key=RESULTS):
        if run:
            with shown():
                _draw_run(run, job)
        if evaluation is not None:
            st.divider()
            with shown():
                draw_evaluation(evaluation)
    scroll_to(RESULTS)
    st.divider()
    with shown():
        _draw_earlier(evaluation)


def _in_hand(parameter: str, key: str) -> str:
    """An id from the address, else from this browser session; it is in the address from then on."""
    value: str = st.query_params.get(parameter, "") or st.session_state.get(key, "")
    st.session_state[key] = value
    publish_parameter(parameter, value)
    return value


def _hold(*, run: str, evaluation: str) -> None:
    """Have the page show a job or an evaluation, and the address name it.

    At once, not as the run ends: a page that is loaded anew in between must find it.
    """
    for parameter, key, value in (("run", RUN, run), ("evaluation", SHOWN, evaluation)):
        st.session_state[key] = value
        publish_parameter(parameter, value)
    write_url()


def _evaluation(evaluation_id: str) -> Evaluation | None:
    if not evaluation_id:
        return None
    try:
        return store().evaluations.get(evaluation_id)
    except UnknownNameError as error:
        raise SaifError(
            "The evaluation that this address names is not kept here; it may have been deleted. "
            "Choose one below or measure again."
        ) from error


def _draw_form(job: "Job | None", evaluation: Evaluation | None) -> None:
    first, action = st.container(), st.container()
    request = draw_evaluation_form(first)
    running = job is not None and job.kind == "evaluate" and not job.finished()
    # Between the first fields and what may be long, so that nobody has to look for it.
    with action, st.container(horizontal=True, vertical_alignment="center"):
        clicked = st.button(
            "Measure",
            key="evaluation_measure_button",
            type="primary",
            icon=":material/play_arrow:",
            disabled=request is None or running,
            help="Writes and judges a text for every test content, arm and setting.",
            shortcut=SHORTCUT,
        )
        if running:
            said = "An evaluation is running; stop it first."
        elif request is None:
            said = "Nothing can be measured while a field cannot be used; it says below why."
        else:
            said = _cost(request, evaluation)
        st.caption(said, width="stretch")
    if clicked and request is not None:
        want_in_view(RESULTS)
        _hold(run=engine().submit(request).id, evaluation="")
        st.rerun()


def _cost(request: EvaluationRequest, evaluation: Evaluation | None) -> str:
    cost = cost_of(request, layers_of_request(request))
    speed = _speed(evaluation)
    if speed is None and (now := speed_now()) is not None:
        return cost_sentence(cost, now, source="measured just now")
    return cost_sentence(cost, speed or CPU_TOKENS_PER_SECOND, measured=speed is not None)


def _speed(evaluation: Evaluation | None) -> float | None:
    """Tokens per second, at most, of an evaluation of the same model; None where it is unknown."""
    if evaluation is None or evaluation.model != engine().model_id or evaluation.seconds <= 0:
        return None
    asked = evaluation.request
    n_texts = len(evaluation.cells) * len(asked.test_contents)
    return n_texts * asked.sampling.max_new_tokens / evaluation.seconds


def _draw_run(run: str, job: "Job | None") -> None:
    if job is not None and job.kind == "evaluate":
        if job.finished():
            _draw_unfinished(job)
        else:
            # A fragment, so that everything else on the page stays usable.
            draw_progress(job, "evaluation")
        return
    record = store().jobs.get(run)
    if record is None or record.kind != "evaluate":
        st.warning(
            "The evaluation that this address names is not known here; measure to make one.",
            icon=":material/help:",
        )
    elif record.state == "done":
        st.info(
            "This evaluation was finished before SAIF was restarted; open it below.",
            icon=":material/history:",
        )
    else:
        st.warning(
            f"“{escape_markdown(record.title)}” was {record.state} before SAIF was restarted. "
            f"{_RESUME}",
            icon=":material/history:",
        )


def _draw_unfinished(job: "Job") -> None:
    error = job.error
    if isinstance(error, JobCancelled):
        st.info(f"Stopped. {_RESUME}", icon=":material/stop_circle:")
    elif error is not None:
        # The engine has logged what is not ours; the record holds the sentence fit to show.
        said = str(error) if isinstance(error, SaifError) else job.record.error
        st.error(escape_markdown(said), icon=":material/error:")


def _draw_earlier(evaluation: Evaluation | None) -> None:
    st.subheader("Earlier evaluations", anchor=False)
    summaries = store().evaluations.list()
    if not summaries:
        running = any(job.kind == "evaluate" and not job.finished() for job in engine().jobs())
        said = "The first measurement is under way." if running else "Nothing has been measured "
        said += "" if running else "yet: measure above."
        st.info(said, icon=":material/monitoring:")
        return
    ids = [summary.id for summary in summaries]
    # Rows are known by their number, so another list of rows needs a table of its own.
    table = _summary_table(summaries)
    event: Any = st.dataframe(
        table,
        key=f"evaluation_list_{hash(tuple(ids))}",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        column_config=explained_columns(
            table,
            {
                "useful": st.column_config.NumberColumn(
                    "useful",
                    format="%.0f%%",
                    help=f"{_OF_BEST} Not known of evaluations that were made before texts were "
                    "checked for their content; of these strict is the main figure.",
                ),
                "strict": st.column_config.NumberColumn("strict", format="%.0f%%", help=_OF_BEST),
                "measured": st.column_config.DatetimeColumn("measured", format="YYYY-MM-DD HH:mm"),
            },
        ),
        placeholder="–",
        alt="Earlier evaluations, newest first",
    )
    rows = [row for row in event["selection"]["rows"] if row < len(ids)]
    if not rows:
        st.caption("Choose a row to open or delete the evaluation.")
        return
    _draw_choice(summaries[rows[0]], evaluation)


def _draw_choice(summary: EvaluationSummary, evaluation: Evaluation | None) -> None:
    is_open = evaluation is not None and evaluation.id == summary.id
    with st.container(horizontal=True):
        if st.button(
            "Open",
            key="evaluation_open",
            icon=":material/folder_open:",
            disabled=is_open,
            help="It is open above." if is_open else None,
        ):
            want_in_view(RESULTS)
            _hold(run="", evaluation=summary.id)
            st.rerun()
        with st.popover("Delete", icon=":material/delete:", key="evaluation_delete"):
            st.caption(
                f"{escape_markdown(summary.instruction)}, {summary.n_cells:,} cells: its figures "
                "and texts are lost for good."
            )
            if st.button("Delete it", key="evaluation_delete_it", icon=":material/delete:"):
                store().evaluations.delete(summary.id)
                if is_open:
                    _hold(run="", evaluation="")
                st.rerun()


def _summary_table(summaries: list[EvaluationSummary]) -> dict[str, list[Any]]:
    return {
        "instruction": [summary.instruction for summary in summaries],
        "model": [summary.model.rstrip("/").rsplit("/", 1)[-1] for summary in summaries],
        "cells": [summary.n_cells for summary in summaries],
        "n": [summary.n for summary in summaries],
        "best arm": [arm_words(one.best_sae_arm) for one in summaries],
        "useful": [_percent(one.best_useful) for one in summaries],
        "strict": [_percent(one.best_strict) for one in summaries],
        "measured": [datetime.fromisoformat(summary.created_at) for summary in summaries],
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


draw_page()
