"""How fast this machine writes texts, measured beside the pages while nothing else runs."""

from typing import TYPE_CHECKING

import streamlit as st

from app.dashboard.handles import engine
from saif_core.errors import SaifError
from saif_core.records.questions import SpeedAnswer, SpeedQuestion

if TYPE_CHECKING:
    from saif_core.engine.job import Job

_KEY = "measured_speed"


def speed_now() -> float | None:
    """Tokens per second; None until it is measured, which begins once the model is free.

    Nobody waits for it: a busy machine may take long, and the page is drawn meanwhile.
    """
    job: Job | None = st.session_state.get(_KEY)
    if job is None:
        status = engine().status()
        if status.model_loaded and not status.running:
            st.session_state[_KEY] = engine().submit(SpeedQuestion())
        return None
    if not job.finished():
        return None
    try:
        answer: SpeedAnswer = job.result()
    except SaifError:
        return None
    return answer.tokens_per_second
