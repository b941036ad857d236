"""Unsteered and steered texts side by side, growing or finished; Compare and Shared draw them."""

from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from app.session_view import (
    ARMS,
    Arm,
    ArmText,
    GradeCount,
    TextPair,
    count_grades,
    grades_sentence,
    judge_text,
    judgement_line,
    text_facts,
)
from app.text_diff import changed_share, diff_html, diff_words, plain_html
from saif_core.records import Generation, Instruction, Judgement, from_json, to_json

_ICONS = {"strict": "check_circle", "loose": "check", "none": "cancel", None: "help"}


def draw_growing(pairs: Sequence[TextPair]) -> None:
    """Draw texts that are still being written."""
    for pair in pairs:
        st.text(pair.prompt)
        columns = st.columns(2, border=True)
        arms = (pair.unsteered, pair.steered)
        for column, name, arm in zip(columns, ARMS, arms, strict=True):
            column.markdown(f"**{name}**")
            column.html(plain_html(arm.text or "…"))
            column.caption(text_facts(arm))


def draw_finished(
    pairs: Sequence[TextPair], instruction: Instruction | None, *, steered: str = "steered"
) -> None:
    """Draw finished texts: differing words marked, each text judged by the instruction.

    Args:
        instruction: names the evaluator; None leaves the texts unjudged.
        steered: heading of the right column, Markdown.
    """
    judged = _judge_all(pairs, instruction) if instruction else {}
    if instruction is None:
        st.caption("Not judged: no instruction with an evaluator belongs to these texts.")
    elif len(pairs) > 1:
        st.markdown(grades_sentence(_counts(judged)))
    for at, pair in enumerate(pairs):
        st.text(pair.prompt)
        left, right = st.columns(2, border=True)
        # Every text has its own heading: on a phone the columns stand one under the other.
        with left:
            st.markdown("**unsteered**")
            st.html(plain_html(pair.unsteered.text or "(no text: the model ended at once)"))
            _draw_foot(pair.unsteered, judged.get((at, "unsteered")))
        with right:
            st.markdown(f"**{steered}**")
            _draw_steered(pair)
            _draw_foot(pair.steered, judged.get((at, "steered")))


def _draw_steered(pair: TextPair) -> None:
    if not pair.steered.text:
        st.html(plain_html("(no text: the model ended at once)"))
        return
    st.html(diff_html(pair.unsteered.text, pair.steered.text))
    share = changed_share(diff_words(pair.unsteered.text, pair.steered.text))
    same = pair.unsteered.text == pair.steered.text
    st.caption(
        "the same text as unsteered" if same else f"{share:.0%} of its words differ (underlined)"
    )


def _draw_foot(arm: ArmText, judgement: Judgement | None) -> None:
    st.caption(text_facts(arm))
    if judgement is not None:
        st.markdown(f":material/{_ICONS[judgement.grade]}: {judgement_line(judgement)}")


def _judge_all(
    pairs: Sequence[TextPair], instruction: Instruction
) -> dict[tuple[int, Arm], Judgement]:
    with st.spinner("Judging the texts …"):
        return {
            (at, arm): _judge(instruction, generation)
            for at, pair in enumerate(pairs)
            for arm, text in zip(ARMS, (pair.unsteered, pair.steered), strict=True)
            if (generation := text.generation) is not None
        }


def _judge(instruction: Instruction, generation: Generation) -> Judgement:
    # Only what decides the judgement is part of the key, so that a redrawn page judges nothing.
    plain = replace(generation, token_ids=(), perplexity=None, prompt_index=0, arm="")
    return _judge_cached(to_json(instruction), to_json(plain))


@st.cache_data(max_entries=2000, show_spinner=False)
def _judge_cached(instruction: dict[str, object], generation: dict[str, object]) -> Judgement:
    return judge_text(from_json(Instruction, instruction), from_json(Generation, generation))


def _counts(judged: dict[tuple[int, Arm], Judgement]) -> dict[Arm, GradeCount]:
    return {
        arm: count_grades([value for (_, of), value in judged.items() if of == arm]) for arm in ARMS
    }
