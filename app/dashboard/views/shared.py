"""A shared session, read-only, as a story in order; needs neither model nor SAE."""

import streamlit as st

from app.dashboard.compare.open_session import open_in_compare
from app.dashboard.compare.text_columns import draw_finished
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.handles import store
from app.presentation.arms import describe_arm
from app.presentation.escaping import escape_markdown
from app.presentation.evaluation_files import evaluation_sentence
from app.presentation.figures import counted, moment_words
from app.presentation.sessions import (
    chosen_table,
    made_words,
    manifest,
    pair_of,
    selective_sentence,
    writing_words,
)
from app.presentation.texts import arm_size_sentence
from saif_core.records.evaluation import Evaluation
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import ChosenLatent, Ranking
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import Edit, GenerationRequest
from saif_core.records.texts import GenerationResult

# Evaluations that are looked at for one that fits.
MOST_TRIED = 5


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
    st.caption(f"{escape_markdown(made_words(session))} Read-only.")
    _draw_instruction(session)
    _draw_latents(session.request, session.ranking)
    _draw_texts(session)
    _draw_measurement(session)
    st.subheader("Notes", anchor=False)
    if session.notes:
        st.text(session.notes)
    else:
        st.caption("No notes were written.")
    _draw_manifest(session)


def _draw_instruction(session: SteeringSession) -> None:
    st.subheader("1. The instruction", anchor=False)
    instruction, request = session.instruction, session.request
    if instruction is None:
        name = request.instruction if request else ""
        st.text(name or "No instruction was saved with this session.")
    else:
        st.text(f"{instruction.name}: {instruction.description}")
        _draw_wordings(instruction)
    pair = pair_of(session)
    if pair is not None:
        st.caption("A prompt with the instruction, and the same without it:")
        for column, prompt in zip(st.columns(2), pair, strict=True):
            column.text(prompt)
    st.caption(
        "SAIF compares what goes on inside the model with the instruction and without it, finds "
        "the directions (latents) that tell the two apart, and adds them while the model answers "
        "prompts that hold no instruction."
    )


def _draw_wordings(instruction: Instruction) -> None:
    first, *others = instruction.wordings or (None,)
    if first is None:
        return
    st.text(f"In words: “{first.text}”")
    if others:
        with st.expander(f"{counted(len(others), 'other wording')}", key="shared_wordings"):
            for wording in others:
                st.text(f"{wording.text} ({wording.language})")


def _draw_latents(request: GenerationRequest | None, ranking: Ranking | None) -> None:
    st.subheader("2. The latents", anchor=False)
    if ranking is not None:
        st.markdown(selective_sentence(ranking))
    chosen = _chosen_latents(request)
    if len(chosen) > 1:
        for number, (name, edit) in enumerate(chosen):
            st.markdown(f"**{escape_markdown(name)}**, after block {edit.layer}")
            _draw_chosen(edit.latents, _if_of(edit, ranking), f"shared_latents_{number}")
    elif chosen:
        ((_, edit),) = chosen
        _draw_chosen(edit.latents, _if_of(edit, ranking), "shared_latents")
    elif ranking is not None and ranking.latents:
        best = ranking.latents[: ranking.top]
        latents = tuple(ChosenLatent(score.index, score.mean) for score in best)
        _draw_chosen(latents, ranking, "shared_latents")
    else:
        st.caption("No latents were chosen.")


def _chosen_latents(request: GenerationRequest | None) -> list[tuple[str, Edit]]:
    """Every edit by latents, with the name of the first arm that writes it."""
    found: dict[str, tuple[str, Edit]] = {}
    for arm in request.steered if request else ():
        for edit in arm.edits:
            if edit.latents:
                found.setdefault(f"{edit.sae_id} {edit.latents}", (arm.name, edit))
    return list(found.values())


def _if_of(edit: Edit, ranking: Ranking | None) -> Ranking | None:
    """The ranking, if it is of the edit's SAE."""
    return ranking if ranking is not None and ranking.sae == edit.sae_id else None


def _draw_chosen(latents: tuple[ChosenLatent, ...], ranking: Ranking | None, key: str) -> None:
    column = st.column_config
    table = chosen_table(latents, ranking)
    st.dataframe(
        table,
        key=key,
        hide_index=True,
        column_config=explained_columns(
            table,
            {
                "latent": column.NumberColumn("latent", format="%d"),
                "coefficient": column.NumberColumn("coefficient", format="%.6g"),
                "score": column.NumberColumn("score", format="%.3f"),
                "with": column.NumberColumn("fires with", format="percent"),
                "without": column.NumberColumn("fires without", format="percent"),
            },
        ),
        alt="The latents steered with",
    )


def _draw_texts(session: SteeringSession) -> None:
    st.subheader("3. The texts", anchor=False)
    if session.recipe is not None:
        st.markdown(escape_markdown(writing_words(session.recipe)))
    result: GenerationResult | None = session.result
    if result is None:
        st.caption("No texts were generated; these are the prompts.")
        for prompt in session.request.prompts if session.request else ():
            st.text(prompt)
        return
    for arm, size in zip(result.request.arms, result.sizes, strict=False):
        if size is not None:
            st.markdown(
                f"**{escape_markdown(arm.name)}**, {escape_markdown(describe_arm(arm))}: "
                f"{arm_size_sentence(size)}."
            )
    draw_finished(result, session.instruction)


def _draw_measurement(session: SteeringSession) -> None:
    st.subheader("4. The measurement", anchor=False)
    evaluation = _measured(session)
    if evaluation is None:
        st.caption(
            "How often it works was not measured here with this instruction and model; the texts "
            "above are examples."
        )
        return
    st.markdown(escape_markdown(evaluation_sentence(evaluation)))
    n = counted(len(evaluation.request.test_contents), "test content")
    st.caption(
        f"An evaluation of the same instruction on the same model, on {n}, finished "
        f"{moment_words(evaluation.created_at)}. Its settings need not be those of the texts above."
    )


def _measured(session: SteeringSession) -> Evaluation | None:
    """The newest evaluation here of the session's own instruction on its own model."""
    if session.instruction is None or session.recipe is None:
        return None
    model = session.recipe.model_sha256
    for summary in store().evaluations.list(instruction=session.instruction.name, limit=MOST_TRIED):
        evaluation = store().evaluations.get(summary.id)
        asked = evaluation.request.instruction
        if asked == session.instruction and model and evaluation.model_sha256 == model:
            return evaluation
    return None


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
