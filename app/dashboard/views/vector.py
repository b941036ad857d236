"""What a vector of the residual stream is made of: from an instruction, a file or the basket."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_progress, result_of
from app.dashboard.messages import shown
from app.dashboard.work import Work, open_page, resume_ranking, work
from app.presentation.escaping import escape_markdown
from app.presentation.texts import size_sentence
from saif_core.errors import JobCancelled

if TYPE_CHECKING:  # these import torch, which the first paint need not wait for
    from saif_core.engine.job import Job
    from saif_core.explaining.vectors import VectorReport
    from saif_core.models.loaded_model import LoadedModel
    from saif_core.records.jobs import Step
    from saif_core.saes.loaded_sae import LoadedSae

    MakeVector = Callable[[LoadedModel, LoadedSae, Any, Step], Any]

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
    at = (
        f"the first {request.response_tokens} tokens of the model's own answer"
        if request.read == "response"
        else "the last prompt token"
    )
    st.markdown(
        f"The mean residual stream at {at}, with minus without "
        f"**{escape_markdown(request.instruction)}** (n = {len(request.pairs):,} pairs)."
    )
    if st.button(
        "Take it apart", key="vector_from_pairs", type="primary", icon=":material/polyline:"
    ):
        from saif_core.explaining.vectors import mean_difference

        cache = store().cache
        _start(
            in_hand,
            f"Take apart the vector of {request.instruction}",
            lambda model, sae, _resid, step: mean_difference(
                model, sae.layer, request, cache=cache, step=step
            ),
        )


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
    from saif_core.finding.vector_files import read_vector

    name, data = file.name, file.getvalue()
    _start(
        in_hand,
        "Take apart an uploaded vector",
        lambda _model, _sae, resid, _step: read_vector(name, data, resid.shape[-1]),
    )


def _draw_basket(in_hand: Work) -> None:
    latents = in_hand.basket_latents()
    if not latents:
        st.info(
            "The basket is empty: choose latents first.",
            icon=":material/scatter_plot:",
        )
        st.page_link("views/latents.py", label="Choose latents", icon=":material/scatter_plot:")
        return
    n = len(latents)
    st.markdown(
        f"The sum of coefficient × decoder direction over the {n} latent{'' if n == 1 else 's'} "
        "in the basket."
    )
    if st.button(
        "Take it apart", key="vector_from_basket", type="primary", icon=":material/polyline:"
    ):
        from saif_core.explaining.vectors import steering_vector_at

        _start(
            in_hand,
            f"Take apart the vector of {n} latent{'' if n == 1 else 's'}",
            lambda _model, sae, resid, _step: steering_vector_at(sae, latents, resid),
        )


def _start(in_hand: Work, title: str, make_vector: "MakeVector") -> None:
    from saif_core.explaining.vectors import comparison_prompts, explain_vector, read_prompt_ends

    request = in_hand.ranking_request
    prompts, chat = comparison_prompts(request), request.chat if request else True

    def run(model: "LoadedModel", saes: "Sequence[LoadedSae]", step: "Step") -> "VectorReport":
        (sae,) = saes
        resid = read_prompt_ends(model, sae.layer, prompts, chat=chat)
        return explain_vector(model, sae, make_vector(model, sae, resid, step), resid)

    job = engine().work("vector", title, (in_hand.sae_id,), run, request=in_hand.sae_id)
    _remember(job.id)
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
    if job.request != in_hand.sae_id:
        st.info(
            f"The last vector was taken apart with {escape_markdown(job.request)}; choose that "
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
    st.caption(escape_markdown(job.title))
    n = report.n_prompts
    st.markdown(
        f"**{size_sentence(report.norm, report.naive.norm_share)}** (median over the last token "
        f"of n = {n} prompt{'' if n == 1 else 's'})"
    )
    _draw_pursuit(in_hand, job.id, report)
    _draw_changes(job.id, report)
    _draw_naive(report)


def _draw_pursuit(in_hand: Work, job_id: str, report: "VectorReport") -> None:
    from app.charts.vector import explained_chart
    from app.presentation.vector import atom_table, explained_sentence
    from saif_core.finding.vector_files import vector_file

    st.subheader("The latents it is a sum of", anchor=False)
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
                help="Where the sum is cut: the dashed line in the chart.",
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
                    "coefficient", format="%+.3g", help="When only these atoms are taken"
                ),
                "explained": st.column_config.NumberColumn(
                    "explained", format="%.1f%%", help="Of the squared norm, up to this atom"
                ),
            },
            alt=f"The first {k} atoms",
        )


def _fill_basket(in_hand: Work, report: "VectorReport", key: str) -> None:
    in_hand.clear()
    for atom in report.first_atoms(int(st.session_state[key])):
        in_hand.add_latent(atom.index, atom.coefficient)


def _draw_changes(job_id: str, report: "VectorReport") -> None:
    from app.presentation.vector import change_table

    st.subheader("What adding it changes", anchor=False)
    n = report.n_prompts
    st.caption(
        "f(h + v) − f(h): the mean change of latent activations when the whole vector is added to "
        f"the residual stream at the last token of n = {n} prompt{'' if n == 1 else 's'}."
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
        {"change": st.column_config.NumberColumn("mean change", format="%+.3g")},
        alt=f"The {len(report.changes)} latents that change most",
    )


def _draw_naive(report: "VectorReport") -> None:
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
        column_config={
            "latent": st.column_config.NumberColumn("latent", format="%d", width=60),
            "promotes": st.column_config.TextColumn(
                "promotes", help="Tokens whose logits its decoder direction raises most"
            ),
            **columns,
        },
        alt=alt,
    )
    st.caption("Click a row to open the latent's page.")


draw_page()
