"""Why an SAE cannot be used with the model, as a sentence instead of a failed page."""

import streamlit as st

from app.dashboard.handles import engine
from saif_core.errors import HookPointError, SaeMismatchError
from saif_core.records.questions import SaeQuestion


def misfit(sae_id: str) -> str | None:
    """The reason why the engine refuses an SAE, "" for none; None while no model is loaded."""
    return _reason(sae_id) if engine().status().model_loaded else None


@st.cache_resource(show_spinner="Checking that the SAE fits the model …")
def _reason(sae_id: str) -> str:
    try:
        engine().ask(SaeQuestion(sae_id))
    except (SaeMismatchError, HookPointError) as error:
        return str(error)
    return ""
