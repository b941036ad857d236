"""Take up a saved session as the work in hand."""

import streamlit as st

from app.dashboard.compare.lab_arms import saved_arms
from app.dashboard.compare.steering_form import SteeringForm, steering_form
from app.dashboard.work import Work, work
from app.presentation.sessions import request_of_recipe
from saif_core.records.sessions import SteeringSession

# Where Compare finds the session that was opened, and the job whose texts it shows.
OPENED, RUN = "compare_opened", "compare_run"


def open_in_compare(session: SteeringSession) -> None:
    """Go to the Compare page with the session as the work in hand."""
    hold(session)
    st.switch_page("views/compare.py", query_params={"open": session.id})


def hold(session: SteeringSession) -> None:
    """Make the session the work in hand of this browser session."""
    take_up(session, work(), steering_form())
    st.session_state[OPENED] = session
    st.session_state[RUN] = ""


def take_up(session: SteeringSession, in_hand: Work, form: SteeringForm) -> None:
    """Set the work in hand and the form as the session has them.

    Its ranking comes without pairs, which sessions do not keep.
    """
    recipe, ranking = session.recipe, session.ranking
    sae_id = recipe.sae if recipe else ranking.sae if ranking else ""
    if sae_id:
        in_hand.choose_sae(sae_id)
    if session.instruction is not None:
        in_hand.instruction = session.instruction.name
        if in_hand.instruction_record() != session.instruction:
            in_hand.uploaded[session.instruction.name] = session.instruction
    elif recipe and recipe.instruction:
        in_hand.instruction = recipe.instruction
    if ranking is not None:
        in_hand.job_id = ""
        in_hand.ranking, in_hand.ranking_request = ranking, None
    form.set_prompts(session.prompts)
    if recipe is None:
        return
    in_hand.clear()
    for latent in recipe.latents:
        in_hand.add_latent(latent.index, latent.coefficient)
    in_hand.strength = recipe.strength
    form.take(request_of_recipe(recipe, session.prompts), saved_arms(recipe))
