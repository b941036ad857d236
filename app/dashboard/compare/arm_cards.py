"""Cards of the further arms on the Compare page, and the button that adds one."""

import textwrap
from dataclasses import replace
from typing import NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.dashboard.compare.compare_arms import (
    MAX_ARMS,
    MAX_INSTRUCTION,
    MAX_NAME,
    CompareArm,
    control_arm,
    prompted_arm,
    source_arm,
)
from app.dashboard.compare.method_fields import draw_method
from app.dashboard.compare.source_fields import draw_source, make, take_made
from app.dashboard.compare.steering_form import DIAL_STEP, SteeringForm
from app.dashboard.fields.schedule_fields import draw_keep_norm, draw_schedule
from app.dashboard.messages import shown
from app.dashboard.work import Work
from app.presentation.arms import CONTROL_HELP, CONTROL_WORDS, describe_arm
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain
from saif_core.records.evaluation import CONTROLS
from saif_core.records.prompts import InstructionPosition
from saif_core.records.steering import MAX_STRENGTH, Arm
from saif_core.registry import SOURCES

CARDS_PER_ROW = 3
SOURCE = "source:"
_LONGEST_SEED = 2**31 - 1
_POSITIONS: dict[InstructionPosition, str] = {"after": "after it", "before": "before it"}


class PlaceOfSize(NamedTuple):
    """Where the size of an arm is to stand, once the engine has measured it."""

    place: DeltaGenerator
    arm: Arm


def draw_arms(work: Work, form: SteeringForm, layer: int) -> list[PlaceOfSize]:
    """Draw the further arms, three beside each other, and the button for one more.

    Args:
        layer: block of the SAE in hand.
    """
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader("Arms", anchor=False, width="stretch", help=explain("Arms"))
        offered = _offered()
        full = len(form.arms) + 2 >= MAX_ARMS
        # A callback, as what a page does with a click late in its run is lost when another follows.
        st.menu_button(
            "Arm",
            list(offered),
            format_func=lambda choice: escape_markdown(offered[choice]),
            icon=":material/add:",
            key="compare_add_arm",
            disabled=full,
            help=f"At most {MAX_ARMS} arms stand beside each other; remove one to add another."
            if full
            else "One more way to answer the same prompts.",
            on_click=_add,
            args=(work, form, layer),
        )
    st.caption(
        "The prompts are answered **unsteered** and **steered** (the latents above at the dial's "
        "strength)" + (", and by these arms:" if form.arms else "; add arms to compare with.")
    )
    steered = form.steered(work, layer)
    places: list[PlaceOfSize] = []
    for start in range(0, len(form.arms), CARDS_PER_ROW):
        columns = st.columns(CARDS_PER_ROW)
        row = form.arms[start : start + CARDS_PER_ROW]
        for column, one in zip(columns, row, strict=False):
            with column, st.container(border=True, height="stretch"), shown():
                places += _draw_card(one, work, form, steered)
    return places


def _offered() -> dict[str, str]:
    """What can be added, with the words for it."""
    offered = {"prompted": "Prompted: the instruction in the text"}
    for one in SOURCES:
        name, about = one.name.replace("_", " ").capitalize(), one.help.rstrip(".")
        about = textwrap.shorten(about[:1].lower() + about[1:], 60, placeholder=" …")
        offered[f"{SOURCE}{one.name}"] = f"{name}: {about}"
    return offered | {str(kind): f"Control: {CONTROL_WORDS[kind]}" for kind in CONTROLS}


def _add(work: Work, form: SteeringForm, layer: int) -> None:
    choice: str = st.session_state["compare_add_arm"]
    taken = form.arm_names()
    with shown():
        if choice.startswith(SOURCE):
            source = choice.removeprefix(SOURCE)
            one = source_arm(source, work, form.schedule, taken, layer)
            if one.choice and not (one.choice.lacks or one.choice.waits):
                make(one, work)
        elif choice == "prompted":
            one = prompted_arm(work, taken)
        else:
            (kind,) = (control for control in CONTROLS if control == choice)
            one = control_arm(kind, form.schedule, taken)
        form.arms.append(one)


def _draw_card(one: CompareArm, work: Work, form: SteeringForm, steered: Arm) -> list[PlaceOfSize]:
    _draw_head(one, form)
    if one.arm.kind == "prompted":
        _draw_prompted(one)
        return []
    if one.arm.kind in CONTROLS:
        (kind,) = (control for control in CONTROLS if control == one.arm.kind)
        st.caption(escape_markdown(f"{CONTROL_WORDS[kind]}: {CONTROL_HELP[kind]}"))
    take_made(one)
    if one.choice is not None:
        draw_source(one, work)
    elif one.arm.kind == "steered":
        _draw_own_method(one)
    _draw_told(one, form)
    _draw_strength(one, work)
    place = st.container()
    _draw_schedule(one, work, steered)
    now = one.now(work, steered)
    place.caption(escape_markdown(describe_arm(now)))
    return [PlaceOfSize(place.empty(), now)] if now.edits else []


def _draw_head(one: CompareArm, form: SteeringForm) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", wrap=False):
        name = st.text_input(
            "Name", one.arm.name, max_chars=MAX_NAME, key=f"arm_{one.uid}_name", width="stretch"
        )
        one.arm = replace(one.arm, name=" ".join((name or "").split()))
        st.button(
            "",
            icon=":material/content_copy:",
            key=f"arm_{one.uid}_copy",
            help="Duplicate this arm, to change one thing in it",
            type="tertiary",
            disabled=len(form.arms) + 2 >= MAX_ARMS,
            on_click=_duplicate,
            args=(one, form),
        )
        st.button(
            "",
            icon=":material/close:",
            key=f"arm_{one.uid}_remove",
            help="Remove this arm",
            type="tertiary",
            on_click=form.arms.remove,
            args=(one,),
        )


def _duplicate(one: CompareArm, form: SteeringForm) -> None:
    at = form.arms.index(one) + 1
    form.arms.insert(at, one.copy(form.arm_names()))


def _draw_told(one: CompareArm, form: SteeringForm) -> None:
    """Draw whether a steered arm is prompted as well, and with what."""
    known = next((a.arm.instruction for a in form.arms if a.arm.kind == "prompted"), "")
    told = st.toggle(
        "The instruction stands in the prompt as well",
        one.arm.is_told,
        key=f"arm_{one.uid}_told",
        help=explain("instruction", "Shows what steering adds to prompting."),
    )
    if told:
        if not one.arm.instruction:
            one.arm = replace(one.arm, instruction=known)
        _draw_prompted(one)
    else:
        one.arm = replace(one.arm, instruction="")


def _draw_prompted(one: CompareArm) -> None:
    instruction = st.text_area(
        "Instruction",
        one.arm.instruction,
        height=80,
        max_chars=max(MAX_INSTRUCTION, len(one.arm.instruction)),
        key=f"arm_{one.uid}_instruction",
        help=explain("Instruction", "It is put to every prompt in these words."),
    )
    position = st.segmented_control(
        "Stands by the prompt",
        list(_POSITIONS),
        format_func=_POSITIONS.__getitem__,
        default=one.arm.position,
        required=True,
        key=f"arm_{one.uid}_position",
    )
    one.arm = replace(one.arm, instruction=instruction or "", position=position or "after")


def _draw_own_method(one: CompareArm) -> None:
    """Draw how the edits of an arm that no source here can make again are written."""
    edits = one.arm.edits
    if len(edits) != 1:
        return
    method, parameters = draw_method(
        edits[0].method,
        edits[0].method_parameters,
        key=f"arm_{one.uid}",
        with_latents=bool(edits[0].latents),
    )
    edit = replace(edits[0], method=method, method_parameters=parameters)
    one.arm = replace(one.arm, edits=(edit,))


def _draw_strength(one: CompareArm, work: Work) -> None:
    one.on_dial = st.toggle(
        "Strength follows the dial",
        one.on_dial,
        key=f"arm_{one.uid}_on_dial",
        help=explain("Strength", "Off: this arm has a strength of its own."),
    )
    if one.on_dial:
        one.arm = replace(one.arm, strength=work.strength)
        return
    strength = st.number_input(
        "Strength",
        -MAX_STRENGTH,
        MAX_STRENGTH,
        one.arm.strength,
        DIAL_STEP,
        key=f"arm_{one.uid}_strength",
        help=explain("Strength", "Below 0 it steers the other way."),
    )
    one.arm = replace(one.arm, strength=float(strength))


def _draw_schedule(one: CompareArm, work: Work, steered: Arm) -> None:
    if one.arm.kind in ("logit-bias", "cue-token"):
        return
    key = f"arm_{one.uid}"
    title = "Scope and schedule"
    with st.popover(title, icon=":material/schedule:", key=f"{key}_pop", help=explain(title)):
        one.arm = replace(one.arm, schedule=draw_schedule(one.arm.schedule, key=key))
        keeps = any(edit.keep_norm for edit in one.now(work, steered).edits)
        shown_now = keeps if one.keep_norm is None else one.keep_norm
        keep_norm = draw_keep_norm(shown_now, key=key)
        if keep_norm != shown_now:
            one.keep_norm = keep_norm
        if one.arm.kind == "random":
            seed = st.number_input(
                "Seed of the draw",
                0,
                max(_LONGEST_SEED, one.arm.seed),
                one.arm.seed,
                key=f"{key}_seed",
                help=explain("Seed", "It chooses what this control adds."),
            )
            one.arm = replace(one.arm, seed=int(seed))
