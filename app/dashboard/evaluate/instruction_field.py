"""Which instruction is measured: the one in hand, a person's own pairs, or another of the list."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_parameters
from app.dashboard.instructions.pair_form import draw_instruction_choice, uploaded_contents
from app.dashboard.messages import shown
from app.dashboard.work import Work, work
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain, meaning
from saif_core.inputs.shipped import shipped_contents
from saif_core.records.prompts import Instruction, PromptPair, Wording
from saif_core.registry import EVALUATORS

Measured = Literal["pairs", "list"]


class Asked(NamedTuple):
    """What is measured.

    Attributes:
        instruction: None while there is none to measure, which the field has then said why.
        contents: that are ranked and tested on, each once.
        kind: whose contents these are.
    """

    instruction: Instruction | None
    contents: list[str]
    kind: str


def draw_instruction() -> Asked:
    """Draw the choice."""
    pairs = pairs_in_hand(work())
    if pairs is None:
        if work().instruction_record() is None:
            name = escape_markdown(work().instruction)
            st.warning(
                f"The pairs of “{name}” are not loaded any more, so they cannot be measured; "
                "upload them again on the Instructions page, or choose an instruction here.",
                icon=":material/upload_file:",
            )
        return _from_list()
    name = escape_markdown(work().instruction)
    measured: Measured | None = st.segmented_control(
        "Measure",
        ["pairs", "list"],
        default="pairs",
        required=True,
        format_func=lambda one: f"your pairs “{name}”" if one == "pairs" else "an instruction",
        key="evaluation_measured",
        persist_state="session",
    )
    return _from_list() if measured == "list" else _from_pairs(work().instruction, pairs)


def pairs_in_hand(in_hand: Work) -> tuple[PromptPair, ...] | None:
    """A person's own pairs, where these were ranked; None where an instruction was."""
    if in_hand.instruction_record() is not None or in_hand.ranking_request is None:
        return None
    return in_hand.ranking_request.pairs or None


def why_not_measured(name: str, pairs: Sequence[PromptPair]) -> str:
    """Why own pairs cannot be measured, as a sentence; "" if they can."""
    whole = sum(bool(pair.content and pair.instruction) for pair in pairs)
    if whole < len(pairs):
        return (
            f"The pairs “{name}” cannot be measured: {len(pairs) - whole:,} of {len(pairs):,} do "
            "not say which part is the content and which the instruction; upload them with the "
            "columns content and instruction, or choose an instruction."
        )
    n_contents = len({pair.content for pair in pairs})
    if n_contents < 3:
        return (
            f"The pairs “{name}” cannot be measured: they have {n_contents} different contents, "
            "but one is needed to learn from and two to test on; upload more."
        )
    return ""


def _from_list() -> Asked:
    instruction: Instruction | None = draw_instruction_choice(
        "evaluation_instruction",
        about=explain("instruction", "Upload or edit your own on the Instructions page.") or "",
    )
    own = uploaded_contents()
    known = list(dict.fromkeys(shipped_contents() if own is None else own))
    if instruction is not None and not instruction.evaluator:
        # A choice for one instruction is none for the next.
        instruction = _judged(instruction, f"evaluation_judge_{short_hash([instruction.name])}")
    return Asked(instruction, known, "shipped" if own is None else "your own")


def _from_pairs(name: str, pairs: Sequence[PromptPair]) -> Asked:
    contents = list(dict.fromkeys(pair.content for pair in pairs if pair.content))
    kind = "in your pairs"
    if problem := why_not_measured(name, pairs):
        st.error(escape_markdown(problem), icon=":material/error:")
        return Asked(None, contents, kind)
    wordings = dict.fromkeys(pair.instruction for pair in pairs)
    own = Instruction(name, "", "", {}, tuple(Wording(text) for text in wordings))
    return Asked(_judged(own, "evaluation_own"), contents, kind)


def _judged(instruction: Instruction, key: str) -> Instruction | None:
    """Draw how answers to an instruction that names no evaluator are judged; None until chosen."""
    evaluator = st.selectbox(
        "An answer follows it if",
        EVALUATORS.names(),
        index=None,
        format_func=lambda one: f"{one}: {EVALUATORS.get(one).help}",
        placeholder="Choose how an answer is judged",
        key=f"{key}_evaluator",
        persist_state="session",
        help=f"{meaning('evaluator')} This instruction does not say which.",
    )
    if not evaluator:
        st.caption(":material/info: Choose how an answer is judged, so that it can be measured.")
        return None
    values = draw_parameters(EVALUATORS.get(evaluator).parameters, key=f"{key}_{evaluator}")
    checked: dict[str, Any] | None = None
    with shown():
        checked = EVALUATORS.check(evaluator, values)
    if checked is None:
        return None
    return replace(instruction, evaluator=evaluator, evaluator_parameters=checked)


def short_hash(texts: Sequence[str]) -> str:
    """A short name for these texts, the same in every process."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
