"""The texts of all arms in columns, growing or finished; Compare and Shared draw them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import streamlit as st

from app.dashboard.compare.chat_turns import History, histories_of, is_shared, turns_html
from app.presentation.arms import describe_arm, gate_names
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain
from app.presentation.text_diff import changed_share, diff_html, diff_words, plain_html
from app.presentation.texts import (
    ArmText,
    GradeCount,
    PromptTexts,
    count_grades,
    disorder_sentence,
    grades_sentence,
    group_events,
    group_texts,
    judgement_line,
    plain_name,
    text_facts,
)
from app.presentation.token_change_html import MAX_TEXTS_WITH_CHANGES, changes_html, legend_html
from app.presentation.token_figures_html import figures_html
from saif_core.judging.judgements import judge_generations
from saif_core.records.as_json import from_json, to_json
from saif_core.records.prompts import Instruction
from saif_core.records.steering import UNSTEERED, Arm, GenerationRequest
from saif_core.records.texts import Generation, GenerationResult, Judgement, TokenEvent

Mark = Literal["words", "change", "kl", "gates"]
_MARKS: dict[Mark, str] = {
    "words": "words that differ",
    "change": "change of log-probability",
    "kl": "KL divergence",
    "gates": "open gates",
}
_ALL_GATES = "all gates"
MOST_COLUMNS = 4
_ICONS = {"strict": "check_circle", "loose": "check", "none": "cancel", None: "help"}
_EMPTY = "(no text: the model ended at once)"


def draw_growing(request: GenerationRequest, events: Iterable[TokenEvent]) -> None:
    """Draw texts that are still being written."""
    arms, histories = request.arms, histories_of(request)

    def draw(text: ArmText, _plain: ArmText, _plain_arm: str) -> None:
        st.html(plain_html(text.text or "…"))
        st.caption(text_facts(text))

    samples = request.sampling.samples
    grouped = group_events(request.prompts, [arm.name for arm in arms], samples, events)
    for texts in grouped:
        _draw_columns(texts, arms, histories, draw)


def draw_finished(result: GenerationResult, instruction: Instruction | None) -> None:
    """Draw finished texts: each marked as chosen, and judged by the instruction.

    Args:
        instruction: names the evaluator; None leaves the texts unjudged.
    """
    arms, histories = result.request.arms, histories_of(result.request)
    if instruction is not None and not instruction.evaluator:
        instruction = None
    prompts = group_texts([arm.name for arm in arms], result.generations)
    judged = _judge_all(result.generations, arms, instruction) if instruction else {}
    if instruction is None:
        st.caption("Not judged: no instruction with an evaluator belongs to these texts.")
    elif len(prompts) > 1 or result.request.sampling.samples > 1:
        st.markdown(grades_sentence(_counts(judged)))
    # A text may follow the instruction and be broken: the one count never stands without the other.
    st.markdown(disorder_sentence(result))
    mark = _draw_mark(result.generations)
    gates = {arm.name: gate_names(arm) for arm in arms}
    gate = _draw_gate(gates, result.generations) if mark == "gates" else _ALL_GATES

    def draw(text: ArmText, plain: ArmText, plain_arm: str) -> None:
        arm = text.generation.arm if text.generation else ""
        _draw_text(text, plain, plain_arm, mark, gate, gates.get(arm, []))
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(text_facts(text), width="stretch")
            if text.text:
                with st.popover("Copy", icon=":material/content_copy:", type="tertiary"):
                    st.code(text.text, language=None, wrap_lines=True)
        judgement = judged.get(text.generation) if text.generation else None
        if judgement is not None:
            icon = _ICONS[judgement.grade]
            st.markdown(f":material/{icon}: {judgement_line(judgement)}")

    for texts in prompts:
        _draw_columns(texts, arms, histories, draw)


def _draw_gate(gates: Mapping[str, Sequence[str]], generations: Sequence[Generation]) -> str:
    """Draw which gate is shown; its name."""
    gated = {g.arm for g in generations if any(change.gates for change in g.changes)}
    names = list(dict.fromkeys(name for arm in sorted(gated) for name in gates.get(arm, ())))
    return st.selectbox(
        "Gate",
        [_ALL_GATES, *names],
        key="texts_gate",
        width=240,
        help=explain("gate", "All: how far the gates were open together."),
    )


def _draw_mark(generations: Sequence[Generation]) -> Mark:
    has_gates = any(change.gates for g in generations for change in g.changes)
    offered = [mark for mark in _MARKS if mark != "gates" or has_gates]
    mark: Mark = (
        st.segmented_control(
            "Mark",
            offered,
            format_func=_MARKS.__getitem__,
            default="words",
            required=True,
            key="texts_mark",
            persist_state="session",
            help=explain(
                ", ".join(_MARKS[mark] for mark in offered),
                "Tokens are tinted by what the arm did to their probability, against the unsteered "
                "model at the same place.",
            ),
        )
        or "words"
    )
    if mark == "words" or mark not in offered:
        return "words"
    if not any(generation.changes for generation in generations):
        st.info(
            "These texts carry no token probabilities, which are read only when at most "
            f"{MAX_TEXTS_WITH_CHANGES} texts are written at once; take fewer prompts, arms or "
            "samples and generate again.",
            icon=":material/info:",
        )
        return "words"
    st.html(legend_html(mark))
    return mark


def _draw_columns(
    texts: PromptTexts,
    arms: Sequence[Arm],
    histories: Mapping[str, History],
    draw: Callable[[ArmText, ArmText, str], None],
) -> None:
    """The prompt, then each arm's texts beside each other in rows of equal length.

    Args:
        draw: draws a text, given the same sample of the arm that it is compared with, and that
            arm's name.
    """
    about = {arm.name: describe_arm(arm) for arm in arms}
    if is_shared(histories):
        st.caption(":material/forum: shared history: all arms go on with the unsteered chat")
    st.text(texts.prompt)
    names = list(texts.arms)
    plain_arm = plain_name(arms, names)
    plain = texts.arms[plain_arm]
    n_rows = math.ceil(len(names) / MOST_COLUMNS)
    per_row = math.ceil(len(names) / n_rows)
    for start in range(0, len(names), per_row):
        columns = st.columns(per_row)
        for column, name in zip(columns, names[start : start + per_row], strict=False):
            # Every text has its own heading: on a phone the columns stand one under the other.
            with column, st.container(border=True, height="stretch"):
                st.markdown(f"**{escape_markdown(name)}**")
                st.caption(escape_markdown(about.get(name, "")))
                if histories.get(name):
                    st.html(turns_html(histories[name]))
                samples = texts.arms[name]
                for sample, text in enumerate(samples):
                    if len(samples) > 1:
                        st.caption(f"sample {sample + 1} of {len(samples)}")
                    draw(text, plain[min(sample, len(plain) - 1)], plain_arm)


def _draw_text(
    text: ArmText, plain: ArmText, plain_arm: str, mark: Mark, gate: str, names: Sequence[str]
) -> None:
    if not text.text:
        st.html(plain_html(_EMPTY))
        return
    changes = text.generation.changes if text.generation else ()
    if mark != "words" and changes:
        number = names.index(gate) if gate in names else None
        shown = changes_html(changes, mark, gate=number, names=names)
        st.html(shown + figures_html(changes))
        return
    if text is plain:
        st.html(plain_html(text.text))
        return
    st.html(diff_html(plain.text, text.text))
    share = changed_share(diff_words(plain.text, text.text))
    same = plain.text == text.text
    st.caption(
        f"the same text as {escape_markdown(plain_arm)}"
        if same
        else f"{share:.0%} of its words differ (underlined)"
    )


def _judge_all(
    generations: Sequence[Generation], arms: Sequence[Arm], instruction: Instruction
) -> dict[Generation, Judgement]:
    by_name = {arm.name: arm for arm in arms}
    with st.spinner("Judging the texts …"):
        return {
            generation: _judge(instruction, by_name.get(generation.arm), generation)
            for generation in generations
        }


def _judge(instruction: Instruction, arm: Arm | None, generation: Generation) -> Judgement:
    # Only what decides the judgement is part of the key, so that a redrawn page judges nothing.
    prompted = arm if arm is not None and arm.is_told else UNSTEERED
    told = replace(prompted, name="")
    plain = Generation(0, generation.prompt, "", generation.text, (), generation.stopped)
    try:
        return _judge_cached(to_json(instruction), to_json(told), to_json(plain))
    except _NotJudgedError as error:
        return error.judgement


class _NotJudgedError(Exception):
    """Carries a judgement without a grade past the cache: a judge that is down may come back."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.reason)
        self.judgement = judgement


@st.cache_data(max_entries=2000, show_spinner=False)
def _judge_cached(
    instruction: dict[str, object], told: dict[str, object], generation: dict[str, object]
) -> Judgement:
    (judgement,) = judge_generations(
        from_json(Instruction, instruction),
        [from_json(Arm, told)],
        [from_json(Generation, generation)],
    )
    if judgement.grade is None:
        raise _NotJudgedError(judgement)
    return judgement


def _counts(judged: Mapping[Generation, Judgement]) -> dict[str, GradeCount]:
    return {
        arm: count_grades([value for generation, value in judged.items() if generation.arm == arm])
        for arm in dict.fromkeys(generation.arm for generation in judged)
    }
