"""Where the gate of a latent opened, in the texts that Compare wrote last."""

from collections.abc import Iterator

import streamlit as st

from app.dashboard.compare.open_session import RUN
from app.dashboard.handles import engine
from app.presentation.arms import gate_names
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain
from app.presentation.token_change_html import changes_html, legend_html, opened
from saif_core.records.steering import Arm
from saif_core.records.texts import Generation, GenerationResult

MOST_TEXTS = 4


def draw_gate(sae_id: str, latent: int) -> None:
    """Draw the texts of arms that gate this latent, tinted by its own gate; nothing without any."""
    found = list(_gated(sae_id, latent))[:MOST_TEXTS]
    if not found:
        return
    st.subheader("Where its gate opened", anchor=False, help=explain("gate"))
    st.caption("In the texts that Compare wrote last.")
    st.html(legend_html("gates"))
    for arm, text, number in found:
        widest = max(opened(change, number) for change in text.changes)
        st.markdown(f"**{escape_markdown(arm.name)}**: {escape_markdown(text.prompt)}")
        st.html(changes_html(text.changes, "gates", gate=number, names=gate_names(arm)))
        st.caption(f"at the widest {widest:.2f}" if widest else "closed at every token")


def _gated(sae_id: str, latent: int) -> Iterator[tuple[Arm, Generation, int]]:
    """Arms with a gate for the latent, their texts, and which of their gates it is."""
    job = engine().job(st.session_state.get(RUN) or "")
    if job is None or not job.finished() or job.error is not None:
        return
    result: GenerationResult = job.result()
    for arm in result.request.arms:
        number = _number(arm, sae_id, latent)
        for text in result.generations:
            if text.arm == arm.name and number is not None and _has_gates(text):
                yield arm, text, number


def _has_gates(text: Generation) -> bool:
    return any(change.gates for change in text.changes)


def _number(arm: Arm, sae_id: str, latent: int) -> int | None:
    """Which of an arm's gates belongs to a latent."""
    first = 0
    for edit in arm.edits:
        indices = [chosen.index for chosen in edit.latents]
        if edit.sae_id == sae_id and latent in indices:
            return first + indices.index(latent)
        first += len(indices) or 1
    return None
