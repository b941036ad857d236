"""A table of latents, however they were found: a click opens a page, a tick fills the basket."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.dashboard.corpus.indexes import summaries_of
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.handles import engine, store
from app.dashboard.work import open_page, work
from app.presentation.figures import shown_at
from app.presentation.glossary import explain
from app.presentation.latents import with_whole_tokens
from saif_core.records.corpus import LatentIndex, LatentSummary
from saif_core.records.questions import PromotedAnswer, PromotedQuestion

N_PROMOTED = 8
_HOW = "Tick a latent to put it in the basket, click a row to open its page."


def draw_latents(
    name: str, index: LatentIndex | None, columns: dict[str, list[Any]], *, alt: str
) -> None:
    """Draw a table whose column "latent" holds latents of the SAE in hand.

    Args:
        name: tells the tables of a page apart.
        index: says how strongly a latent fires, which becomes its coefficient.
    """
    latents: list[int] = columns["latent"]
    st.caption(_HOW)
    # Rows are known by their number, so another list of rows needs a table of its own.
    key = f"search_{name}_{hash((work().sae_id, tuple(latents)))}"
    _apply_selection(f"search_{name}_seen", key, latents, index)
    st.dataframe(
        columns,
        key=key,
        hide_index=True,
        on_select="rerun",
        selection_mode=["multi-row", "single-cell"],
        column_config=explained_columns(columns, _COLUMNS),
        alt=alt,
    )


def summary_columns(index: LatentIndex, rows: Sequence[LatentSummary]) -> dict[str, list[Any]]:
    """Lines of a list of latents as columns of a table."""
    return {
        "latent": [row.latent for row in rows],
        "label": [row.label or "" for row in rows],
        "promotes": [row.promotes for row in rows],
        "density": [100 * row.density for row in rows],
        "maximum": [row.maximum for row in rows],
        "S_in": [row.s_in for row in rows],
        "S_out": [None if row.s_out is None else shown_at(row.s_out, 3) for row in rows],
        "verdict": [_verdict(index, row) for row in rows],
        "starred": [row.starred for row in rows],
    }


def whole_rows(index: LatentIndex, rows: Sequence[LatentSummary]) -> list[LatentSummary]:
    """Lines of a list with their promoted tokens as they are, see ``with_whole_tokens``."""
    return [with_whole_tokens(store(), index, row, engine().token_texts) for row in rows]


def meaning_columns(index: LatentIndex | None, latents: Sequence[int]) -> dict[str, list[Any]]:
    """What latents promote and, where a corpus was read, their labels; as columns."""
    if index is None:
        known = dict(zip(latents, _promoted(work().sae_id, tuple(latents)), strict=True))
        return {"promotes": [known[latent] for latent in latents]}
    rows = summaries_of(index, latents)
    return {
        "label": [(rows[latent].label or "") if latent in rows else "" for latent in latents],
        "promotes": [rows[latent].promotes if latent in rows else "" for latent in latents],
    }


@st.cache_data(show_spinner=False, max_entries=256)
def _promoted(sae_id: str, latents: tuple[int, ...]) -> list[str]:
    found: PromotedAnswer = engine().ask(PromotedQuestion(sae_id, latents, N_PROMOTED))
    return [" ".join(tokens) for tokens in found.tokens]


def _verdict(index: LatentIndex, row: LatentSummary) -> str:
    from saif_core.explaining.latent_scores import verdict_on

    return verdict_on(index.n_tokens, row.s_in, row.s_out) or ""


def _apply_selection(
    seen_key: str, key: str, latents: Sequence[int], index: LatentIndex | None
) -> None:
    """Bring basket and ticked rows in line: what was clicked wins, then the basket does."""
    state, basket = st.session_state, work().basket
    selection = state[key]["selection"] if key in state else {}
    if cells := selection.get("cells", []):
        open_page("views/latent.py", latent=str(latents[cells[0][0]]))
    ticked = set(selection.get("rows", []))
    known, seen = state.get(seen_key, ("", set()))
    if key in state and known == key and ticked != seen:
        for row in sorted(ticked - seen):
            work().add_latent(latents[row], _coefficient(index, latents[row]))
        for row in seen - ticked:
            work().remove_latent(latents[row])
        state[seen_key] = (key, ticked)
        # The sidebar, drawn before, still lists the basket as it was.
        st.rerun()
    wanted = {row for row, latent in enumerate(latents) if latent in basket}
    if wanted != ticked or key not in state:
        state[key] = {"selection": {"rows": sorted(wanted), "columns": [], "cells": []}}
    state[seen_key] = (key, wanted)


def _coefficient(index: LatentIndex | None, latent: int) -> float:
    """The mean activation where it fires; 1 where no corpus says how strongly it does."""
    if index is None:
        return 1.0
    return store().profiles.get(index.id, latent).mean or 1.0


_COLUMNS: Any = {
    "latent": st.column_config.NumberColumn("latent", format="%d", width=70),
    "label": st.column_config.TextColumn("label", help="The newest that people gave it"),
    "promotes": st.column_config.TextColumn("promotes", width="medium"),
    "density": st.column_config.NumberColumn("density", format="%.3f%%"),
    "maximum": st.column_config.NumberColumn(
        "maximum",
        format="%.3g",
        help=explain("latent activation", "The largest in the corpus."),
    ),
    "S_in": st.column_config.NumberColumn("S_in", format="%.2f"),
    "S_out": st.column_config.NumberColumn(
        "S_out", format="%.3f", help="It is measured at a neutral prompt."
    ),
    "verdict": st.column_config.TextColumn(
        "verdict",
        help="Reads from S_in 0.1 on, writes from S_out 0.01 on; empty: not measured, or on a "
        "corpus of too few tokens to tell",
    ),
    "starred": st.column_config.CheckboxColumn("starred", help="A person marked it."),
    "found in": st.column_config.TextColumn(
        "found in", help="Where the search words stand, and the tokens that hold them"
    ),
    "cosine": st.column_config.NumberColumn(
        "cosine", format="%.3f", help="Between the embeddings of the query and of the latent"
    ),
    "activation": st.column_config.NumberColumn(
        "activation", format="%.3g", help=explain("latent activation")
    ),
    "largest activation": st.column_config.NumberColumn(
        "largest activation", format="%.3g", help=explain("latent activation")
    ),
    "d": st.column_config.NumberColumn(
        "d", format="%.2f", help="Of the mean activations, first set less second."
    ),
    "AUC": st.column_config.NumberColumn(
        "AUC",
        format="%.3f",
        help="On texts that were held out: chance that it is more active on a text of the first "
        "set than on one of the second; 0.5 is chance",
    ),
    "p": st.column_config.NumberColumn(
        "p", format="%.3f", help="Of the AUC, two-sided, by permutation; not corrected"
    ),
}
