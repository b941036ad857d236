"""Search by contrast: latents that tell two sets of texts apart, checked on texts held out."""

from math import comb
from typing import Any

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from app.dashboard.handles import engine
from app.dashboard.jobs.job_progress import draw_failure, draw_progress
from app.dashboard.messages import shown
from app.dashboard.search.table import draw_latents
from app.dashboard.work import publish_parameter, work
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted, shown_at, too_long
from app.presentation.glossary import explain
from saif_core.errors import PromptPairError
from saif_core.inputs.prompt_pairs import load_contents
from saif_core.inputs.text_files import MAX_MB
from saif_core.records.corpus import LatentIndex
from saif_core.records.questions import ContrastReport, ContrastRequest

MAX_CHARACTERS = 100_000
SIGNIFICANCE = 0.05
_JOB = "contrast"
_SETS = ("first", "second")


def draw_contrast(index: LatentIndex | None) -> None:
    """Form, then the progress or the result of the contrast in hand."""
    with st.form("contrast_form"):
        sets = [_draw_set(name, place) for name, place in zip(_SETS, st.columns(2), strict=True)]
        chat = st.toggle(
            "As chat messages",
            key="contrast_chat",
            persist_state="session",
            help=explain("chat template", "Every text is put through that of the model."),
        )
        submitted = st.form_submit_button(
            "Compare the sets", type="primary", icon=":material/compare_arrows:"
        )
    if submitted:
        with shown():
            first, second = (_texts(name, *given) for name, given in zip(_SETS, sets, strict=True))
            request = ContrastRequest(work().sae_id, first, second, chat)
            st.session_state[_JOB] = engine().submit(request).id
    job_id = st.session_state.setdefault(_JOB, st.query_params.get(_JOB, ""))
    publish_parameter(_JOB, job_id)
    if not job_id:
        st.caption("Nothing was compared yet: give at least 4 texts of each kind.")
        return
    job = engine().job(job_id)
    if job is None or not isinstance(job.request, ContrastRequest):
        st.warning(
            "The comparison that this address names is not known here; compare the sets again.",
            icon=":material/help:",
        )
    elif not job.finished():
        draw_progress(job, "contrast")
    elif job.error is not None:
        draw_failure(job)
    elif job.request.sae_id != work().sae_id:
        st.info(
            f"The comparison in hand was made with {escape_markdown(job.request.sae_id)}: choose "
            "that SAE in the sidebar to see it, or compare the sets again.",
            icon=":material/info:",
        )
    else:
        _draw_result(index, job.request, job.result())


def _draw_set(name: str, place: Any) -> tuple[str, UploadedFile | None]:
    with place:
        text = st.text_area(
            f"The {name} set, one text a line",
            key=f"contrast_{name}",
            persist_state="session",
            height=160,
        )
        file = st.file_uploader(
            f"Or the {name} set as a file",
            ["txt", "csv", "jsonl"],
            key=f"contrast_{name}_file",
            max_upload_size=MAX_MB,
            help="TXT: one text a line; CSV and JSONL: a column text or content. A file goes "
            "before what is typed.",
        )
    return text or "", file


def _texts(name: str, typed: str, file: UploadedFile | None) -> tuple[str, ...]:
    if file is not None:
        return tuple(load_contents(file.getvalue(), filename=file.name))
    if said := too_long(f"The {name} set", typed, MAX_CHARACTERS):
        raise PromptPairError(f"{said} A file may be longer.")
    return tuple(load_contents(typed.encode(), filename=f"the {name} set.txt"))


def _draw_result(
    index: LatentIndex | None, request: ContrastRequest, report: ContrastReport
) -> None:
    best, n_best = report.best, len(report.best)
    st.subheader("What tells the sets apart", anchor=False)
    if not n_best:
        st.info(
            "No latent fires on any of these texts; give longer ones.", icon=":material/search_off:"
        )
        return
    threshold = SIGNIFICANCE / n_best
    n_passing = sum(latent.p <= threshold for latent in best)
    st.markdown(
        f"The **{counted(n_best, 'latent')}** of the largest effect |d|, chosen on "
        f"{counted(report.n_ranking, 'text')} (mean activation per text) and measured on the "
        f"{report.n_held_out:,} others. **{n_passing}** of them "
        f"{'has' if n_passing == 1 else 'have'} p ≤ {threshold:.2g}."
    )
    st.caption(
        f"{counted(len(request.first), 'text')} in the first set, {len(request.second):,} in the "
        f"second. p is not corrected for {counted(n_best, 'test')}: the Bonferroni threshold is "
        f"{SIGNIFICANCE} / {n_best} = {threshold:.2g}."
    )
    n_ways = comb(report.n_held_out, len(request.first) // 2)
    if 1 / n_ways > threshold:
        st.caption(
            f"No p can be that small here: {report.n_held_out} texts can be parted in {n_ways:,} "
            "ways only. Give more texts."
        )
    columns: dict[str, list[Any]] = {
        "latent": [latent.latent for latent in best],
        "d": [shown_at(latent.effect, 2) for latent in best],
        "AUC": [latent.auc for latent in best],
        "p": [latent.p for latent in best],
        "promotes": [" ".join(latent.promotes) for latent in best],
    }
    draw_latents("contrast", index, columns, alt="Latents that tell the two sets apart")
