"""The best measured way to steer with a shipped instruction, one press away."""

from dataclasses import replace

import streamlit as st

from app.dashboard.compare.open_session import OPENED, RUN
from app.dashboard.compare.steering_form import steering_form
from app.dashboard.handles import engine, store
from app.dashboard.scrolling import want_in_view
from app.dashboard.work import open_page, work
from app.installation import take_in_recipe
from app.presentation.escaping import escape_markdown
from app.presentation.recipes import recipe_arms, recipe_sentence, usable_recipe
from saif_core.records.prompts import Instruction
from saif_core.records.recipes import Recipe

# One text alone is luck, good or bad.
N_SAMPLES = 3


def recipe_for(instruction: Instruction | None) -> Recipe | None:
    """The recipe of an instruction, if it has one that can be used here."""
    return usable_recipe(instruction, engine().model_id, [sae.id for sae in engine().saes()])


def draw_recipe(recipe: Recipe, instruction: Instruction, key: str) -> None:
    """Draw what was measured, and the button that steers so.

    Args:
        key: begins the widget key.
    """
    with st.container(horizontal=True, vertical_alignment="center", key=f"{key}_recipe"):
        st.button(
            "Steer with what measured best",
            key=f"{key}_recipe_use",
            type="primary",
            icon=":material/verified:",
            on_click=_ask,
            args=(key,),
            help="Answers the prompt of the Compare page so, and beside it as the model does by "
            "itself, told in words, and with a random control.",
        )
        st.caption(escape_markdown(recipe_sentence(recipe)), width="stretch")
    if st.session_state.pop(f"{key}_recipe_asked", False):
        steer_with(recipe, instruction)


def _ask(key: str) -> None:
    # Kept, as a press that meets a busy run of the page would be lost.
    st.session_state[f"{key}_recipe_asked"] = True


def steer_with(recipe: Recipe, instruction: Instruction) -> None:
    """Have the prompt of the Compare page answered so, and beside what it is compared with."""
    take_in_recipe(store(), recipe)
    in_hand, form = work(), steering_form()
    in_hand.instruction = instruction.name
    for edit in recipe.arm.edits:
        if edit.sae_id:
            # What its latents are about is told by the pages of their own SAE.
            in_hand.choose_sae(edit.sae_id)
    in_hand.clear(form.settings())
    form.sampling = replace(recipe.sampling, seed=form.sampling.seed, samples=N_SAMPLES)
    form.arms = []
    form.add(recipe_arms(recipe, instruction))
    st.session_state[OPENED] = None
    job = engine().submit(form.request(in_hand, recipe.arm.edits[0].layer))
    st.session_state[RUN] = job.id
    want_in_view("compare_results")
    open_page("views/compare.py", run=job.id)
