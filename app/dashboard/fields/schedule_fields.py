"""Which tokens an arm steers and how its strength goes along the text, as fields to set."""

from dataclasses import dataclass
from typing import get_args

import streamlit as st

from app.presentation.arms import SCOPES
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.steering import Arm, GenerationRequest, SteeringScope

MAX_FIRST, MAX_DECAY, MAX_POWER = 2048, 10.0, 5.0


@dataclass(frozen=True)
class Schedule:
    """See ``Arm`` for what the fields mean."""

    scope: SteeringScope = "generated"
    first: int = 1
    decay: float = 0.0
    decay_power: float = 1.0
    keep_norm: bool = False

    @classmethod
    def of(cls, asked: Arm | GenerationRequest | EvaluationRequest) -> "Schedule":
        """The schedule of an arm, within what the fields can show."""
        return cls(
            asked.scope,
            min(max(asked.first, 1), MAX_FIRST),
            min(max(asked.decay, 0.0), MAX_DECAY),
            min(max(asked.decay_power, 0.0), MAX_POWER),
            asked.keep_norm,
        )


def draw_schedule(schedule: Schedule, *, key: str) -> Schedule:
    """Draw the fields; what is set in them.

    Args:
        key: begins the widget keys.
    """
    scope = st.selectbox(
        "Steer",
        get_args(SteeringScope),
        index=get_args(SteeringScope).index(schedule.scope),
        format_func=lambda option: SCOPES[option],
        key=f"{key}_scope",
        help="Tokens whose residual stream is edited.",
    )
    first = schedule.first
    if scope == "first":
        first = int(st.number_input("How many tokens", 1, MAX_FIRST, first, key=f"{key}_first"))
    decay = float(
        st.number_input(
            "Decay of the strength",
            0.0,
            MAX_DECAY,
            schedule.decay,
            0.05,
            key=f"{key}_decay",
            help="0 keeps it; else strength at token t is divided by (1 + decay × t) ^ power. At "
            "0.2 texts of the default model stand a strength of 2 to 3 better.",
        )
    )
    power = schedule.decay_power
    if decay:
        power = float(
            st.number_input("Power of the decay", 0.0, MAX_POWER, power, 0.5, key=f"{key}_power")
        )
    keep_norm = st.toggle(
        "Keep the norm",
        schedule.keep_norm,
        key=f"{key}_keep_norm",
        help="Rescale the edited residual stream to the norm it had.",
    )
    return Schedule(scope, first, decay, power, keep_norm)
