"""Why an SAE or the model cannot be used, as a sentence instead of a failed page."""

import streamlit as st

from app.dashboard.handles import engine
from app.presentation.escaping import escape_markdown
from saif_core.errors import HookPointError, ModelError, SaeMismatchError
from saif_core.records.questions import SaeQuestion


def misfit(sae_id: str) -> str | None:
    """The reason why the engine refuses an SAE, "" for none; None while no model is loaded."""
    return _reason(sae_id) if engine().status().model_loaded else None


def draw_broken_model() -> None:
    """Say that the model could not be loaded when last tried, and what can be done without it."""
    if engine().status().model_loaded:
        return
    last = next((job for job in engine().jobs() if job.finished() and job.error is not None), None)
    if last is not None and isinstance(last.error, ModelError):
        st.warning(
            f"{escape_markdown(str(last.error))} Saved sessions, finished evaluations and what is "
            "known of latents can still be read; what has to be written or measured cannot.",
            icon=":material/warning:",
        )


@st.cache_resource(show_spinner="Checking that the SAE fits the model …")
def _reason(sae_id: str) -> str:
    try:
        engine().ask(SaeQuestion(sae_id))
    except (SaeMismatchError, HookPointError) as error:
        return str(error)
    return ""
