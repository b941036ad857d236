"""How an evaluation reads latents, and how it steers and writes texts, as fields."""

from dataclasses import replace
from typing import Any, get_args

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_field, draw_parameters
from app.dashboard.fields.record_fields import read_lines, write_lines
from app.dashboard.fields.schedule_fields import SCHEDULE_LABELS, is_unused
from app.dashboard.messages import shown
from app.presentation.arms import READ_WORDS, SCOPES
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain
from saif_core.parameters import Parameter, record_parameters
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.prompts import InstructionPosition
from saif_core.records.ranking import RankingRequest, ReadPosition
from saif_core.records.steering import Edit, Sampling, Schedule
from saif_core.registry import SELECTORS

_LABELS = {
    "response_tokens": "Answer tokens to read",
    **SCHEDULE_LABELS,
    "keep_norm": "Keep the norm",
    "chat": "Chat template",
    "system": "System prompt",
    "max_new_tokens": "Tokens at most",
    "temperature": "Temperature (0: greedy)",
    "top_p": "Top p",
    "stop": "Stop before",
}
# Every content has one text.
_NOT_ASKED = "samples"


def draw_reading() -> dict[str, Any]:
    """Draw where activations are read and how latents are ranked; the fields of a request."""
    with st.expander(
        "How latents are ranked", key="evaluation_reading", icon=":material/visibility:"
    ):
        left, right = st.columns(2)
        read = left.segmented_control(
            "Read activations at",
            get_args(ReadPosition)[::-1],
            default="response",
            required=True,
            format_func=lambda option: READ_WORDS[option],
            key="evaluation_read",
            persist_state="session",
            help=explain("reading position"),
        )
        with left:
            n_tokens = _draw(
                _parameter(RankingRequest, "response_tokens"),
                EvaluationRequest.response_tokens,
                disabled=read == "last-token",
            )
        position = right.segmented_control(
            "Instruction comes",
            get_args(InstructionPosition),
            default="after",
            required=True,
            key="evaluation_position",
            persist_state="session",
            help=explain("instruction, content", "After or before the content."),
        )
        with right:
            selector, parameters = _draw_selector()
    return {
        "read": read or "response",
        "position": position or "after",
        "response_tokens": n_tokens,
        "selector": selector,
        "selector_parameters": parameters,
    }


def draw_writing() -> dict[str, Any]:
    """Draw which tokens are steered and how texts are written; the fields of a request."""
    with st.expander(
        "How texts are steered and written", key="evaluation_writing", icon=":material/edit:"
    ):
        left, right = st.columns(2)
        with left:
            schedule = _draw_schedule()
            keep_norm = _draw(_parameter(Edit, "keep_norm"), EvaluationRequest.keep_norm)
        with right:
            sampling = _draw_sampling()
        st.caption("Every content has random draws of its own, which all arms share.")
    return {"schedule": schedule, "keep_norm": keep_norm, "sampling": sampling}


def _parameter(record: type[Any], name: str) -> Parameter:
    return next(one for one in record_parameters(record) if one.name == name)


def _draw(parameter: Parameter, value: Any, **options: Any) -> Any:
    """Draw a field of a record under its own name."""
    return draw_field(
        parameter,
        value,
        key=f"evaluation_{parameter.name}",
        label=_LABELS.get(parameter.name, parameter.name.replace("_", " ").capitalize()),
        words=SCOPES if parameter.name == "scope" else None,
        persist_state="session",
        **options,
    )


def _draw_selector() -> tuple[str, dict[str, Any] | None]:
    """Draw the selector and its parameters; None for these while they do not fit."""
    names, usual = SELECTORS.names(), EvaluationRequest.selector
    name = st.selectbox(
        "Score latents by",
        names,
        index=names.index(usual) if usual in names else 0,
        format_func=lambda name: name.replace("_", " "),
        key="evaluation_selector",
        persist_state="session",
        help=explain(
            "selector, score, latents",
            "  \n".join(
                f"{one.name.replace('_', ' ')}: {escape_markdown(one.help)}" for one in SELECTORS
            ),
        ),
    )
    values = draw_parameters(SELECTORS.get(name).parameters, key=f"evaluation_selector_{name}")
    checked: dict[str, Any] | None = None
    with shown():
        checked = SELECTORS.check(name, values)
    return name, checked


def _draw_schedule() -> Schedule:
    drawn: dict[str, Any] = {}
    for parameter in record_parameters(Schedule):
        # Greyed out where it changes nothing; those that it depends on are drawn before it.
        usual = EvaluationRequest.schedule
        idle = is_unused(parameter.name, replace(usual, **drawn))
        value = getattr(usual, parameter.name)
        drawn[parameter.name] = _draw(parameter, value, disabled=idle)
    return Schedule(**drawn)


def _draw_sampling() -> Sampling:
    drawn: dict[str, Any] = {}
    for parameter in record_parameters(Sampling):
        if parameter.name != _NOT_ASKED:
            idle = parameter.name == "system" and not drawn.get("chat")
            value = getattr(EvaluationRequest.sampling, parameter.name)
            drawn[parameter.name] = _draw(parameter, value, disabled=idle)
    typed = st.text_area(
        _LABELS["stop"],
        write_lines(EvaluationRequest.sampling.stop),
        height=68,
        key="evaluation_stop_before",
        persist_state="session",
        help="A text ends before the first of these. One a line; \\n stands for a line break.",
    )
    return Sampling(**drawn, stop=read_lines(typed or ""))
