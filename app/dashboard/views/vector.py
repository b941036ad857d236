"""What a vector of the residual stream is made of: from an instruction, a file or the basket."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from app.dashboard.compare.open_session import INCOMING
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_progress, result_of
from app.dashboard.messages import shown
from app.dashboard.work import Work, open_page, resume_ranking, work
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted
from app.presentation.glossary import explain
from app.presentation.texts import size_sentence
from saif_core.errors import JobCancelled
from saif_core.records.questions import (
    ModelAnswer,
    ModelQuestion,
    SaeAnswer,
    SaeQuestion,
    VectorQuestion,
)
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import Arm, Edit
from saif_core.records.vectors import VectorReport

if TYPE_CHECKING:
    from saif_core.engine.job import Job

Source = Literal["instruction", "file", "basket"]
_SOURCES: dict[Source, str] = {
    "instruction": "Instruction in hand",
    "file": "File",
    "basket": "Basket",
}
MOST_UPLOAD_MB = 5
DEFAULT_ATOMS = 15
# Address and session remember the job that took a vector apart under this name.
_PARAMETER, _REMEMBERED = "vector", "vector_job"


def draw_page() -> None:
    """Where the vector comes from, then what is in it."""
    resume_ranking()
    in_hand = work()
    st.title("What is in this vector?")
    st.caption(f"In latents of {escape_markdown(in_hand.sae_id)}")
    source = st.segmented_control(
        "Where the vector comes from",
        list(_SOURCES),
        format_func=_SOURCES.__getitem__,
        default="instruction",
        required=True,
        key="vector_source",
        persist_state="session",
        help=explain("steering vector, instruction, basket"),
    )
    with shown():
        {"instruction": _draw_instruction, "file": _draw_file, "basket": _draw_basket}[
            source or "instruction"
        ](in_hand)
    with shown():
        _draw_job(in_hand)


def _draw_instruction(in_hand: Work) -> None:
    request = in_hand.ranking_request
    if request is None:
        st.info(
            "No ranking is in hand, so there are no pairs to take a difference of: find latents "
            "for an instruction first.",
            icon=":material/scatter_plot:",
        )
        st.page_link(
            "views/instructions.py", label="Choose an instruction", icon=":material/edit_note:"
        )
        return
    st.markdown(
        f"The mean residual stream at {_read_at(request)}, with minus without "
        f"**{escape_markdown(request.instruction)}** (n = {counted(len(request.pairs), 'pair')})."
    )
    if st.button(
        "Take it apart", key="vector_from_pairs", type="primary", icon=":material/polyline:"
    ):
        _start(VectorQuestion(in_hand.sae_id, request))


def _read_at(request: RankingRequest) -> str:
    if request.read == "last-token":
        return "the last prompt token"
    n = request.response_tokens
    return f"the first {'token' if n == 1 else f'{n} tokens'} of the model's own answer"


def _draw_file(in_hand: Work) -> None:
    with st.form("vector_file_form"):
        file = st.file_uploader(
            "Vector file",
            type=["npy", "safetensors"],
            max_upload_size=MOST_UPLOAD_MB,
            key="vector_file",
            help="One vector of the model's residual stream; in a .safetensors file with several, "
            "the one called vector.",
        )
        asked = st.form_submit_button("Take it apart", type="primary", icon=":material/polyline:")
    if not asked:
        return
    if file is None:
        st.info("Choose a .npy or .safetensors file first.", icon=":material/upload_file:")
        return
    tensors = _keep_uploaded(file)
    _start(VectorQuestion(in_hand.sae_id, in_hand.ranking_request, tensors=tensors))


def _keep_uploaded(file: UploadedFile) -> str:
    """The hash that the vector in a file is kept under.

    Raises:
        SteeringError: the file holds no vector of this model.
    """
    from saif_core.finding.vector_files import read_vector_array

    with st.spinner("Reading the vector; the first time, the model is loaded …"):
        model: ModelAnswer = engine().ask(ModelQuestion())
    vector = read_vector_array(file.name, file.getvalue(), model.d_model)
    return store().tensors.put({"vector": vector}, note=f"uploaded as {file.name}")


def _draw_basket(in_hand: Work) -> None:
    latents = in_hand.basket_latents()
    if not latents:
        st.info(
            "The basket is empty: choose latents first.",
            icon=":material/scatter_plot:",
        )
        st.page_link("views/latents.py", label="Choose latents", icon=":material/scatter_plot:")
        return
    st.markdown(
        "The sum of coefficient × decoder direction over the "
        f"{counted(len(latents), 'latent')} in the basket."
    )
    if st.button(
        "Take it apart", key="vector_from_basket", type="primary", icon=":material/polyline:"
    ):
        _start(VectorQuestion(in_hand.sae_id, in_hand.ranking_request, latents=latents))


def _start(asked: VectorQuestion) -> None:
    _remember(engine().submit(asked).id)
    st.rerun()


def _remember(job_id: str) -> None:
    st.session_state[_REMEMBERED] = job_id
    if st.query_params.get(_PARAMETER) != job_id:
        st.query_params[_PARAMETER] = job_id


def _draw_job(in_hand: Work) -> None:
    job_id = st.query_params.get(_PARAMETER, "") or st.session_state.get(_REMEMBERED, "")
    if not job_id:
        return
    job = engine().job(job_id)
    if job is None or job.kind != "vector":
        st.warning(
            "The vector that this address names is not known here; take it apart again.",
            icon=":material/help:",
        )
        return
    _remember(job_id)
    asked: VectorQuestion = job.request
    if asked.sae_id != in_hand.sae_id:
        st.info(
            f"The last vector was taken apart with {escape_markdown(asked.sae_id)}; choose that "
            "SAE in the sidebar to see it, or take it apart again with this one.",
            icon=":material/info:",
        )
    elif not job.finished():
        draw_progress(job, "vector")
    else:
        _draw_outcome(in_hand, job)


def _draw_outcome(in_hand: Work, job: "Job") -> None:
    try:
        report: VectorReport = result_of(job)
    except JobCancelled as error:
        st.info(escape_markdown(str(error)), icon=":material/stop_circle:")
        return
    st.divider()
    name = vector_name(job.request)
    st.caption(f"The vector of {escape_markdown(name)}")
    st.markdown(
        f"**{size_sentence(report.norm, report.naive.norm_share)}** (median over the last token "
        f"of n = {counted(report.n_prompts, 'prompt')})"
    )
    if st.button(
        "Steer with it",
        key="vector_steer",
        type="primary",
        icon=":material/compare:",
        help="Hands the whole vector to Compare as an arm of its own, written after the block "
        "that this SAE reads.",
    ):
        _steer(in_hand.sae_id, report, name)
    _draw_pursuit(in_hand, job.id, report)
    _draw_changes(job.id, report)
    _draw_naive(report)


def vector_name(asked: VectorQuestion) -> str:
    """Where a vector came from, in a few words."""
    if asked.tensors:
        return "a file"
    if asked.latents:
        return counted(len(asked.latents), "latent")
    return asked.ranking.instruction if asked.ranking else "nothing"


def _steer(sae_id: str, report: VectorReport, name: str) -> None:
    """Hand a vector to the Compare page, in the residual stream's own scale."""
    vector = np.asarray(report.vector, dtype=np.float32)
    tensors = store().tensors.put({"vector": vector}, note=f"vector of {name}")
    sae: SaeAnswer = engine().ask(SaeQuestion(sae_id))
    arm = Arm("vector", edits=(Edit(sae.layer, tensors=tensors),))
    st.session_state.setdefault(INCOMING, []).append(arm)
    open_page("views/compare.py")


def _draw_pursuit(in_hand: Work, job_id: str, report: VectorReport) -> None:
    from app.charts.vector import explained_chart
    from app.presentation.vector import atom_table, explained_sentence
    from saif_core.finding.vector_files import vector_file

    st.subheader(
        "The latents it is a sum of", anchor=False, help=explain("latents, decoder direction")
    )
    st.caption(
        "Signed pursuit: each step takes the decoder direction nearest to what is left and fits "
        "all coefficients anew. A negative coefficient takes away what the latent promotes."
    )
    n_atoms = len(report.pursuit.atoms)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        k = int(
            st.number_input(
                "First k atoms",
                1,
                n_atoms,
                min(DEFAULT_ATOMS, n_atoms),
                step=1,
                key=f"vector_k_{job_id}",
                width=140,
                help=explain("atoms", "The sum is cut here: at the dashed line in the chart."),
            )
        )
        st.button(
            f"Put the first {k} in the basket",
            key="vector_to_basket",
            icon=":material/add_shopping_cart:",
            help="Replaces the basket by these latents with these coefficients.",
            on_click=_fill_basket,
            args=(in_hand, report, f"vector_k_{job_id}"),
        )
        st.download_button(
            "Download the vector",
            vector_file(report.vector),
            file_name="vector.safetensors",
            mime="application/octet-stream",
            on_click="ignore",
            key="vector_download",
            icon=":material/download:",
            help="The whole vector, float32, in the residual stream's own scale.",
        )
    sentence = explained_sentence(report, k)
    st.markdown(sentence)
    left, right = st.columns([4, 5], gap="large")
    left.altair_chart(explained_chart(report, k), key="vector_explained", alt=sentence)
    with right:
        _draw_latents(
            f"vector_atoms_{job_id}_{k}",
            atom_table(report, k),
            {
                "coefficient": st.column_config.NumberColumn(
                    "coefficient", format="%+.3g", help="It is fitted to these atoms alone."
                ),
                "explained": st.column_config.NumberColumn(
                    "explained", format="%.1f%%", help="Of the squared norm, up to this atom"
                ),
            },
            alt=f"The first {counted(k, 'atom')}",
        )


def _fill_basket(in_hand: Work, report: VectorReport, key: str) -> None:
    in_hand.clear()
    for atom in report.first_atoms(int(st.session_state[key])):
        in_hand.add_latent(atom.index, atom.coefficient)


def _draw_changes(job_id: str, report: VectorReport) -> None:
    from app.presentation.vector import change_table

    st.subheader("What adding it changes", anchor=False)
    st.caption(
        "f(h + v) − f(h): the mean change of latent activations when the whole vector is added to "
        f"the residual stream at the last token of n = {counted(report.n_prompts, 'prompt')}."
    )
    if not report.changes:
        st.info(
            "Adding the vector changes no latent; it is too small, or the SAE cannot see it.",
            icon=":material/info:",
        )
        return
    _draw_latents(
        f"vector_changes_{job_id}",
        change_table(report),
        {
            "change": st.column_config.NumberColumn(
                "mean change", format="%+.3g", help=explain("latent activation")
            )
        },
        alt=f"The {counted(len(report.changes), 'latent')} that change most",
    )


def _draw_naive(report: VectorReport) -> None:
    from app.presentation.vector import naive_sentence

    st.subheader("What encoding it would say", anchor=False)
    st.warning(naive_sentence(report.naive), icon=":material/warning:")


def _draw_latents(
    key: str, rows: dict[str, list[Any]], columns: dict[str, Any], *, alt: str
) -> None:
    cells = st.session_state.get(key, {}).get("selection", {}).get("cells", [])
    if cells:
        open_page("views/latent.py", latent=str(rows["latent"][cells[0][0]]))
    st.dataframe(
        rows,
        key=key,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-cell",
        column_config=explained_columns(
            rows,
            {
                "latent": st.column_config.NumberColumn("latent", format="%d", width=60),
                **columns,
            },
        ),
        alt=alt,
    )
    st.caption("Click a row to open the latent's page.")


draw_page()
