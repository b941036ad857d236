"""A shared session, read-only, as a story in order; needs neither model nor SAE."""

import streamlit as st

from app.dashboard.compare.open_session import open_in_compare
from app.dashboard.compare.text_columns import draw_finished
from app.dashboard.handles import store
from app.presentation.escaping import escape_markdown
from app.presentation.sessions import chosen_table, manifest
from app.presentation.texts import size_sentence
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import ChosenLatent, Ranking
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import SteeringRecipe
from saif_core.records.texts import GenerationResult


def draw_page() -> None:
    """Instruction, latents, texts, notes and manifest of the session that the link names."""
    share_id = st.query_params.get("session", "")
    session = store().sessions.get_shared(share_id) if share_id else None
    if session is None:
        st.title("This link opens no session")
        st.info(
            "The session was never shared, is no longer shared, or the link is incomplete; ask "
            "whoever sent it for a new one.",
            icon=":material/link_off:",
        )
        st.page_link(
            "views/instructions.py", label="Start with an instruction", icon=":material/edit_note:"
        )
        return
    head = st.container(horizontal=True, vertical_alignment="center")
    head.title(escape_markdown(session.name), width="stretch")
    with head:
        if st.button(
            "Open a copy",
            key="shared_copy",
            type="primary",
            icon=":material/content_copy:",
            help="Makes a session of your own to go on with; this one stays as it is.",
        ):
            open_in_compare(store().sessions.duplicate(session.id))
    st.caption(f"Saved {escape_markdown(session.updated_at)} · read-only")
    _draw_instruction(session.instruction, session.recipe)
    _draw_latents(session.recipe, session.ranking)
    _draw_texts(session)
    st.subheader("Notes", anchor=False)
    if session.notes:
        st.text(session.notes)
    else:
        st.caption("No notes were written.")
    _draw_manifest(session)


def _draw_instruction(instruction: Instruction | None, recipe: SteeringRecipe | None) -> None:
    st.subheader("1. The instruction", anchor=False)
    if instruction is None:
        name = recipe.instruction if recipe else ""
        st.text(name or "No instruction was saved with this session.")
        return
    st.text(f"{instruction.name}: {instruction.description}")
    n = len(instruction.wordings)
    with st.expander(f"{n} wording{'' if n == 1 else 's'}", key="shared_wordings"):
        for wording in instruction.wordings:
            st.text(f"{wording.text} ({wording.language})")


def _draw_latents(recipe: SteeringRecipe | None, ranking: Ranking | None) -> None:
    st.subheader("2. The latents", anchor=False)
    chosen = recipe.latents if recipe else ()
    if ranking is not None:
        st.markdown(
            f"Of {ranking.d_sae:,} latents at {escape_markdown(ranking.hook_point)}, "
            f"**{ranking.n_selective}** fire on at least 80% of the instructed prompts and on at "
            f"most 5% of the others (n = {ranking.n_pairs:,} pairs)."
        )
    if not chosen and ranking is not None:
        best = ranking.latents[: ranking.top]
        chosen = tuple(ChosenLatent(score.index, score.mean) for score in best)
    if not chosen:
        st.caption("No latents were chosen.")
        return
    column = st.column_config
    st.dataframe(
        chosen_table(chosen, ranking),
        key="shared_latents",
        hide_index=True,
        column_config={
            "latent": column.NumberColumn("latent", format="%d"),
            "coefficient": column.NumberColumn("coefficient", format="%.3f"),
            "score": column.NumberColumn("score", format="%.3f"),
            "with": column.NumberColumn("fires with", format="percent"),
            "without": column.NumberColumn("fires without", format="percent"),
        },
        alt="The latents steered with",
    )


def _draw_texts(session: SteeringSession) -> None:
    st.subheader("3. The texts", anchor=False)
    result: GenerationResult | None = session.result
    if result is None:
        st.caption("No texts were generated; these are the prompts.")
        for prompt in session.prompts:
            st.text(prompt)
        return
    recipe = result.recipe
    n = len(recipe.latents)
    st.markdown(
        f"{n} latent{'' if n == 1 else 's'} at strength {recipe.strength:g}: "
        f"{size_sentence(result.vector_norm, result.resid_share)}."
    )
    draw_finished(result, session.instruction)


def _draw_manifest(session: SteeringSession) -> None:
    rows = manifest(session)
    with st.expander("Manifest: what this was made with", key="shared_manifest"):
        st.dataframe(
            {"what": [what for what, _ in rows], "value": [value for _, value in rows]},
            key="shared_manifest_table",
            hide_index=True,
            alt="Models, versions and settings",
        )


draw_page()
