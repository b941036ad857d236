"""Cards of the further arms on the Compare page, and the button that adds one."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import streamlit as st

from app.dashboard.compare.lab_arms import (
    ARM_CHOICES,
    MAX_ARMS,
    MAX_INSTRUCTION,
    MAX_NAME,
    ArmChoice,
    LabArm,
    denoised_edit,
    new_arm,
)
from app.dashboard.compare.steering_form import DIAL_STEP, SteeringForm
from app.dashboard.fields.schedule_fields import Schedule, draw_schedule
from app.dashboard.handles import engine
from app.dashboard.jobs.job_progress import draw_progress, result_of
from app.dashboard.messages import shown
from app.dashboard.work import MAX_STRENGTH, Work
from app.presentation.arms import ARM_NAMES, describe_arm
from app.presentation.escaping import escape_markdown
from saif_core.records.prompts import InstructionPosition
from saif_core.records.ranking import ChosenLatent, Ranking
from saif_core.records.saes import layers_of
from saif_core.records.steering import Arm, SteeringEdit

if TYPE_CHECKING:
    from saif_core.engine.job import Job

CARDS_PER_ROW = 3
_CHOICES: dict[ArmChoice, str] = {
    "prompted": "Prompted: the instruction in the text",
    "one-latent": "One latent of the basket",
    "clamp": "Clamp the basket's latents",
    "ablate": "Ablate the basket's latents",
    "denoised": "Denoised mean difference",
    "mean-difference": "Mean difference of the residual stream",
    "random": "Control: random latents of equal norm",
    "flipped": "Control: flipped sign",
    "logit-bias": "Control: logit bias",
}
_POSITIONS: dict[InstructionPosition, str] = {"after": "after it", "before": "before it"}


def draw_arms(work: Work, form: SteeringForm) -> None:
    """Draw the further arms, three beside each other, and the button for one more."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Arms", anchor=False, width="stretch")
        full = len(form.arms) + 2 >= MAX_ARMS
        # A callback, as what a page does with a click late in its run is lost when another follows.
        st.menu_button(
            "Arm",
            ARM_CHOICES,
            format_func=_CHOICES.__getitem__,
            icon=":material/add:",
            key="compare_add_arm",
            disabled=full,
            help=f"At most {MAX_ARMS} arms stand beside each other; remove one to add another."
            if full
            else "One more way to answer the same prompts.",
            on_click=_add,
            args=(work, form),
        )
    if needs := st.session_state.pop("compare_arm_needs", ""):
        st.warning(needs, icon=":material/info:")
    st.caption(
        "The prompts are answered **unsteered** and **steered** (the latents above at the dial's "
        "strength)" + (", and by these arms:" if form.arms else "; add arms to compare with.")
    )
    steered = form.request(work).all_arms[1]
    for start in range(0, len(form.arms), CARDS_PER_ROW):
        columns = st.columns(CARDS_PER_ROW)
        row = form.arms[start : start + CARDS_PER_ROW]
        for column, lab in zip(columns, row, strict=False):
            with column, st.container(border=True, height="stretch"), shown():
                _draw_card(lab, work, form, steered)


def _add(work: Work, form: SteeringForm) -> None:
    choice: ArmChoice = st.session_state["compare_add_arm"]
    if needs := _missing(choice, work):
        st.session_state["compare_arm_needs"] = needs
        return
    with shown():
        layer = layers_of(engine().saes()).get(work.sae_id, 0)
        lab = new_arm(choice, work, form.schedule, form.arm_names(), layer=layer)
        if choice == "mean-difference" and work.ranking_request is not None:
            lab.job_id = engine().mean_difference(work.ranking_request, [layer]).id
        form.arms.append(lab)


def _missing(choice: ArmChoice, work: Work) -> str:
    name = ARM_NAMES[choice]
    if choice == "one-latent" and not work.basket:
        return f"For the arm “{name}”, put a latent in the basket first."
    if choice == "denoised" and work.ranking is None:
        return f"For the arm “{name}”, find the latents of an instruction first."
    if choice == "mean-difference" and work.ranking_request is None:
        return (
            f"For the arm “{name}”, find the latents of an instruction first: it reads the same "
            "prompt pairs, which a saved session does not keep."
        )
    return ""


def _draw_card(lab: LabArm, work: Work, form: SteeringForm, steered: Arm) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", wrap=False):
        name = st.text_input(
            "Name", lab.arm.name, max_chars=MAX_NAME, key=f"arm_{lab.uid}_name", width="stretch"
        )
        lab.arm = replace(lab.arm, name=" ".join((name or "").split()))
        st.button(
            "",
            icon=":material/content_copy:",
            key=f"arm_{lab.uid}_copy",
            help="Duplicate this arm, to change one thing in it",
            type="tertiary",
            disabled=len(form.arms) + 2 >= MAX_ARMS,
            on_click=_duplicate,
            args=(lab, form),
        )
        st.button(
            "",
            icon=":material/close:",
            key=f"arm_{lab.uid}_remove",
            help="Remove this arm",
            type="tertiary",
            on_click=form.arms.remove,
            args=(lab,),
        )
    if lab.job_id:
        _draw_vector_job(lab)
    elif lab.arm.kind == "prompted":
        _draw_prompted(lab)
        return
    elif lab.choice == "one-latent":
        _draw_one_latent(lab, work)
    elif lab.choice == "denoised" and work.ranking is not None:
        _draw_denoised(lab, work.ranking)
    _draw_strength(lab, work)
    place = st.container()
    if lab.arm.kind != "logit-bias":
        with st.popover("Scope and schedule", icon=":material/schedule:", key=f"arm_{lab.uid}_pop"):
            schedule = draw_schedule(Schedule.of(lab.arm), key=f"arm_{lab.uid}")
            lab.arm = replace(lab.arm, **asdict(schedule))
            if lab.arm.kind == "random":
                seed = st.number_input(
                    "Seed of the draw", 0, 2**31 - 1, lab.arm.seed, key=f"arm_{lab.uid}_seed"
                )
                lab.arm = replace(lab.arm, seed=int(seed))
    place.caption(escape_markdown(describe_arm(lab.now(work, steered))))


def _duplicate(lab: LabArm, form: SteeringForm) -> None:
    at = form.arms.index(lab) + 1
    form.arms.insert(at, lab.copy(form.arm_names()))


def _draw_prompted(lab: LabArm) -> None:
    instruction = st.text_area(
        "Instruction",
        lab.arm.instruction,
        height=80,
        max_chars=MAX_INSTRUCTION,
        key=f"arm_{lab.uid}_instruction",
    )
    position = st.segmented_control(
        "Stands by the prompt",
        list(_POSITIONS),
        format_func=_POSITIONS.__getitem__,
        default=lab.arm.position,
        required=True,
        key=f"arm_{lab.uid}_position",
    )
    lab.arm = replace(lab.arm, instruction=instruction or "", position=position or "after")


def _draw_one_latent(lab: LabArm, work: Work) -> None:
    (edit,) = lab.arm.edits
    (latent,) = edit.latents
    offered = {latent.index: latent.coefficient}
    if edit.sae_id == work.sae_id:
        offered |= work.basket
    chosen = st.selectbox(
        "Latent",
        list(offered),
        index=list(offered).index(latent.index),
        key=f"arm_{lab.uid}_latent",
        help="Latents of the basket, with their coefficients there.",
    )
    if chosen in offered:
        found = ChosenLatent(chosen, offered[chosen])
        lab.arm = replace(lab.arm, edits=(replace(edit, latents=(found,)),))


def _draw_denoised(lab: LabArm, ranking: Ranking) -> None:
    n = len(lab.arm.edits[0].latents)
    top = st.number_input(
        "Latents",
        1,
        max(n, len(ranking.latents)),
        n,
        key=f"arm_{lab.uid}_top",
        help="So many with the largest mean difference of their activation, which is their "
        "coefficient.",
    )
    if int(top) != n:
        lab.arm = replace(lab.arm, edits=(denoised_edit(ranking, int(top)),))


def _draw_strength(lab: LabArm, work: Work) -> None:
    lab.on_dial = st.toggle("Strength follows the dial", lab.on_dial, key=f"arm_{lab.uid}_on_dial")
    if lab.on_dial:
        lab.arm = replace(lab.arm, strength=work.strength)
        return
    strength = st.number_input(
        "Strength",
        -MAX_STRENGTH,
        MAX_STRENGTH,
        lab.arm.strength,
        DIAL_STEP,
        key=f"arm_{lab.uid}_strength",
    )
    lab.arm = replace(lab.arm, strength=float(strength))


def _draw_vector_job(lab: LabArm) -> None:
    job = engine().job(lab.job_id)
    if job is None:
        st.warning(
            "Its vector is not known here any more; remove the arm and add it again.",
            icon=":material/history:",
        )
    elif job.finished():
        _take_vector(lab, job)
    else:
        draw_progress(job, f"arm_{lab.uid}")


def _take_vector(lab: LabArm, job: "Job") -> None:
    found: dict[int, tuple[float, ...]] = result_of(job)
    ((layer, vector),) = found.items()
    lab.arm = replace(lab.arm, edits=(SteeringEdit(vector=vector, layer=layer),))
    lab.job_id = ""
