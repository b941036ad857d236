"""Which tokens an arm steers, how its strength goes along the text, and how texts are sampled."""

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_field
from app.dashboard.fields.record_fields import draw_record
from app.presentation.arms import SCOPES
from saif_core.parameters import record_parameters
from saif_core.records.steering import Edit, Sampling, Schedule

SCHEDULE_LABELS = {
    "scope": "Steer",
    "first": "How many tokens",
    "prompt_first": "First prompt tokens",
    "prompt_last": "Last prompt tokens",
    "decay": "Decay of the strength (0: none)",
    "decay_power": "Power of the decay",
}
_SAMPLING = {
    "chat": "Prompts go through the chat template",
    "system": "System prompt",
    "max_new_tokens": "Tokens at most",
    "temperature": "Temperature (0: greedy)",
    "top_p": "Top p",
    "stop": "Stop at",
    "samples": "Samples of each text",
}


def draw_schedule(schedule: Schedule, *, key: str) -> Schedule:
    """Draw the fields of a schedule; what is set in them.

    Args:
        key: begins the widget keys.
    """
    return draw_record(
        schedule, key=key, labels=SCHEDULE_LABELS, words={"scope": SCOPES}, idle=is_unused
    )


def draw_sampling(sampling: Sampling, *, key: str) -> Sampling:
    """Draw the fields of a sampling; what is set in them.

    Args:
        key: begins the widget keys.
    """
    drawn = draw_record(sampling, key=key, labels=_SAMPLING, idle=_is_undrawn)
    st.caption("All arms share their random draws, so they differ by steering alone.")
    return drawn


def draw_keep_norm(keep_norm: bool, *, key: str) -> bool:
    """Draw whether edits keep the norm of the residual stream; what is set.

    Args:
        key: begins the widget key.
    """
    (parameter,) = (one for one in record_parameters(Edit) if one.name == "keep_norm")
    kept: bool = draw_field(parameter, keep_norm, key=f"{key}_keep_norm", label="Keep the norm")
    return kept


def is_unused(name: str, schedule: Schedule) -> bool:
    """Whether a field of a schedule changes nothing as the others stand."""
    at_ends = name in ("prompt_first", "prompt_last")
    return (
        (name == "first" and schedule.scope != "first")
        or (at_ends and schedule.scope != "prompt-ends")
        or (name == "decay_power" and schedule.decay == 0)
    )


def _is_undrawn(name: str, sampling: Sampling) -> bool:
    """Nothing is drawn by chance at temperature 0, and only a chat has a system turn."""
    if name == "system":
        return not sampling.chat
    return name in ("top_p", "seed", "samples") and sampling.temperature == 0
