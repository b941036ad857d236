"""What a source makes the edits of an arm from, as fields, and the making of them."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.dashboard.compare.compare_arms import LATENTS, TENSORS, CompareArm, SourceChoice, sae_at
from app.dashboard.compare.method_fields import draw_method
from app.dashboard.fields.parameter_fields import draw_parameters
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_failure, draw_progress
from app.dashboard.messages import shown
from app.dashboard.work import Work
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain
from saif_core.errors import PromptPairError, SteeringError
from saif_core.records.questions import LearnResult, SaeQuestion
from saif_core.records.saes import layers_of
from saif_core.registry import SOURCES, Registered

if TYPE_CHECKING:
    from saif_core.engine.job import Job

MOST_UPLOAD_MB = 5
_MOST_LAYERS = 1000


def make(one: CompareArm, work: Work) -> None:
    """Have the engine make what the arm's source was set to.

    Raises:
        SaifError: it cannot be asked for.
    """
    if one.choice is None:
        return
    # Ids come from files too: only what this installation offers is ever loaded.
    if one.choice.sae_id and one.choice.sae_id not in {info.id for info in engine().saes()}:
        raise SteeringError(
            f"The SAE {one.choice.sae_id} was to be steered with, but it is not offered here; "
            "write after a block that an SAE is offered for."
        )
    one.job_id = engine().submit(one.choice.request(work)).id
    one.asked = one.choice


def take_made(one: CompareArm) -> None:
    """Give the arm what its job has made, once there is something."""
    job = engine().job(one.job_id) if one.job_id else None
    if job is None or job.record.state != "done" or not job.finished():
        return
    made: LearnResult = job.result()
    one.arm = replace(one.arm, edits=made.edits, origin=made.origin)
    one.made, one.job_id = one.asked, ""


def draw_source(one: CompareArm, work: Work) -> None:
    """Draw what the source is asked for, and the button that makes it again."""
    assert one.choice is not None
    registered = SOURCES.get(one.choice.source)
    st.caption(escape_markdown(registered.help))
    uploaded = one.choice.parameters.get(TENSORS)
    one.choice = replace(one.choice, parameters=_draw_parameters(one, registered, work))
    with st.container(horizontal=True):
        with st.popover(
            "Method and layer",
            icon=":material/tune:",
            key=f"arm_{one.uid}_how",
            help=explain("Steering method, layer"),
        ):
            one.choice = _draw_how(one, one.choice, registered, work)
        asked = st.button(
            "Make it again" if one.arm.edits or one.job_id else "Make it",
            key=f"arm_{one.uid}_make",
            icon=":material/refresh:",
            disabled=one.choice.lacks or _is_running(one),
        )
    if asked or (one.choice.parameters.get(TENSORS) != uploaded and not one.choice.lacks):
        with shown():
            make(one, work)
    job = engine().job(one.job_id) if one.job_id else None
    if job is not None and not job.finished():
        draw_progress(job, f"arm_{one.uid}")
    elif one.job_id:
        _draw_unmade(job, work)
    elif one.arm.edits and one.choice != one.made:
        st.caption(":material/sync_problem: What is set has changed since it was made.")


def _is_running(one: CompareArm) -> bool:
    job = engine().job(one.job_id) if one.job_id else None
    return job is not None and not job.finished()


def _draw_parameters(one: CompareArm, registered: Registered[Any], work: Work) -> dict[str, Any]:
    assert one.choice is not None
    values = dict(one.choice.parameters)
    typed = [parameter for parameter in registered.parameters if parameter.name != TENSORS]
    if len(typed) < len(registered.parameters):
        _draw_upload(one, values, work)
    return values | draw_parameters(typed, key=f"arm_{one.uid}_{registered.name}", values=values)


def _draw_upload(one: CompareArm, values: dict[str, Any], work: Work) -> None:
    file = st.file_uploader(
        "Vector file",
        type=["npy", "safetensors"],
        max_upload_size=MOST_UPLOAD_MB,
        key=f"arm_{one.uid}_vector",
        help="One vector of the model's residual stream; in a .safetensors file with several, the "
        "one called vector.",
    )
    if file is not None and file.file_id != one.upload_id:
        with shown():
            values[TENSORS] = _keep_vector(file.name, file.getvalue(), work)
            one.upload_id = file.file_id
    if values.get(TENSORS):
        st.caption(f"The vector is kept as {escape_markdown(str(values[TENSORS])[:12])}.")


def _keep_vector(name: str, data: bytes, work: Work) -> str:
    """The hash that an uploaded vector is kept under."""
    from saif_core.finding.vector_files import read_vector_array

    d_model = engine().ask(SaeQuestion(work.sae_id)).d_model
    return store().tensors.put({"vector": read_vector_array(name, data, d_model)}, note=name)


def _draw_how(
    one: CompareArm, choice: SourceChoice, registered: Registered[Any], work: Work
) -> SourceChoice:
    edits = one.arm.edits
    method, parameters = draw_method(
        choice.method,
        choice.method_parameters,
        key=f"arm_{one.uid}",
        # What it is made of is known once it was made.
        with_latents=not edits or any(edit.latents for edit in edits),
        left_to="the source",
    )
    choice = replace(choice, method=method, method_parameters=parameters)
    if any(parameter.name in ("latent", LATENTS) for parameter in registered.parameters):
        return choice  # an index means nothing in the SAE of another layer
    layer = int(
        st.number_input(
            "After block",
            0,
            max(_MOST_LAYERS, choice.layer),
            choice.layer,
            key=f"arm_{one.uid}_layer",
            help=explain(
                "layer",
                "What is steered with is written after it. Latents need an SAE that is offered for "
                "the block.",
            ),
        )
    )
    if layer == choice.layer:
        return choice
    return replace(choice, layer=layer, sae_id=sae_at(layer, work, layers_of(engine().saes())))


def _draw_unmade(job: "Job | None", work: Work) -> None:
    """What became of a job that left nothing."""
    if job is None:
        st.warning(
            "What it was to be made of is not known here any more; make it again.",
            icon=":material/history:",
        )
        return
    if job.error is None:
        st.rerun()  # it was done while the card was drawn
    draw_failure(job)
    if isinstance(job.error, PromptPairError) and work.ranking_request is None:
        st.caption(
            ":material/info: Find the latents of an instruction first: this source reads the same "
            "prompt pairs, which a saved session does not keep."
        )
