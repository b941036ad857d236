"""Page 2: which latents carry the instruction; fills the basket."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.charts.ranking import BRUSH, latents_in, overlap_rows, rate_scatter, score_curve
from app.dashboard.compare.recipes import draw_recipe, recipe_for
from app.dashboard.corpus.indexes import indexes_of
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.fields.url_fields import publish, seed_number
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_panel import draw_ranking_job
from app.dashboard.messages import shown
from app.dashboard.work import FinishedRanking, open_page, resume_ranking, work
from app.presentation.arms import READ_WORDS
from app.presentation.escaping import escape_markdown, promotes
from app.presentation.figures import counted, shown_at
from app.presentation.glossary import explain
from app.presentation.latents import fires_on
from app.presentation.ranking import verdict
from saif_core.records.ranking import LatentScore, Ranking
from saif_core.records.saes import layers_of

_TABLE_SEEN = "latent_table_seen"
# Each takes a look into the corpus.
MOST_FIRING = 60


def draw_page() -> None:
    """Sentence, charts and table of the ranking in hand."""
    resume_ranking()
    st.title("Which latents carry it?")
    ranking = work().ranking
    if ranking is None:
        _draw_empty()
        return
    _draw_sentence(ranking)
    top = _draw_head(ranking)
    left, right = st.columns([4, 7], gap="large")
    with left:
        inside = _draw_charts(ranking, top)
    with right:
        _draw_table(ranking, inside)
    _draw_comparison(ranking, top)


def _draw_empty() -> None:
    with shown():
        draw_ranking_job()
    if work().ranking is not None:
        st.rerun()
    st.info(
        "No ranking is in hand yet. Choose an instruction and find its latents; they appear here.",
        icon=":material/scatter_plot:",
    )
    st.page_link(
        "views/instructions.py", label="Choose an instruction", icon=":material/edit_note:"
    )


def _draw_sentence(ranking: Ranking) -> None:
    layer = layers_of(engine().saes()).get(work().sae_id)
    place = escape_markdown(ranking.hook_point) if layer is None else f"layer {layer}"
    st.markdown(f"Of {ranking.d_sae:,} latents at {place}: {escape_markdown(verdict(ranking))}")
    read = "the answer" if ranking.read == "response" else "the last prompt token"
    pairs = counted(ranking.n_pairs, "pair")
    computed = f"{counted(ranking.tokens_computed, 'token')} computed"
    cost = "taken from the cache" if ranking.cached else computed
    st.caption(
        f"{escape_markdown(ranking.instruction)} · {pairs} · read at {read} · scored by "
        f"{escape_markdown(ranking.selector.replace('_', ' '))} · {cost} · {ranking.seconds:.1f} s"
    )


def _draw_head(ranking: Ranking) -> int:
    n_listed = len(ranking.latents)
    state = st.session_state
    # A number from the URL holds for the first ranking only; each further one brings its own.
    if state.get("k_ranking", ranking.id) != ranking.id:
        state["k"] = ranking.top
    state["k_ranking"] = ranking.id
    seed_number("k", ranking.top, 1, n_listed)
    instruction = work().instruction_record()
    recipe = recipe_for(instruction)
    if recipe is not None and instruction is not None:
        with shown():
            draw_recipe(recipe, instruction, "latents")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        top = int(
            st.number_input(
                "Top k",
                1,
                n_listed,
                step=1,
                key="k",
                persist_state="session",
                width=140,
                help=explain("ranking", "It is cut here: at the dashed line in the score chart."),
            )
        )
        steer = st.button(
            f"Steer with the top {top}",
            key="steer_top",
            type="secondary" if recipe else "primary",
            icon=":material/compare:",
            help=f"Fills the basket with the best {counted(top, 'latent')}, each with its mean "
            "activation as coefficient; those that never fire with the instruction are left out.",
        )
    publish("k", ranking.top)
    if steer:
        _steer(ranking, top)
    return top


def _steer(ranking: Ranking, top: int) -> None:
    from saif_core.finding.ranking import choose_latents

    chosen = choose_latents(ranking, top=top)
    work().clear()
    for latent in chosen:
        work().add_latent(latent.index, latent.coefficient)
    open_page("views/compare.py")


def _draw_charts(ranking: Ranking, top: int) -> tuple[LatentScore, ...]:
    st.subheader("How often they fire", anchor=False)
    event = st.altair_chart(
        rate_scatter(ranking, top),
        key=f"rates_{ranking.id}",
        on_select="rerun",
        selection_mode=BRUSH,
        alt=f"Firing rate without against with the instruction of the {len(ranking.latents):,} "
        "best latents; latents that carry it are at the upper left.",
    )
    inside = latents_in(ranking.latents, event.selection.get(BRUSH, {}))
    st.caption("Drag over dots to list only those; double-click to list all.")
    st.subheader("Scores in order", anchor=False, help=explain("Scores"))
    best, last = ranking.latents[0], ranking.latents[top - 1]
    st.altair_chart(
        score_curve(ranking, top),
        key=f"scores_{ranking.id}",
        alt=f"Scores in order: the best is {best.score:z.3f}, number {top} is {last.score:z.3f}.",
    )
    return inside


def _draw_table(ranking: Ranking, inside: Sequence[LatentScore]) -> None:
    st.subheader("The latents", anchor=False, help=explain("latents"))
    n_all = len(ranking.latents)
    if not inside:
        st.info("No latent is in the area that you marked; double-click the chart to clear it.")
        return
    listed = f"{len(inside):,} of the {n_all:,} best" if len(inside) < n_all else f"{n_all:,} best"
    st.caption(f"{listed}. Tick a latent to put it in the basket, click a row to open its page.")
    # Rows are known by their number, so another list of rows needs a table of its own.
    key = f"latent_table_{ranking.id}_{hash(tuple(latent.index for latent in inside))}"
    _apply_selection(key, inside)
    table = _table(inside)
    st.dataframe(
        table,
        key=key,
        hide_index=True,
        height=640,
        on_select="rerun",
        selection_mode=["multi-row", "single-cell"],
        column_config=explained_columns(
            table,
            {
                "latent": st.column_config.NumberColumn("latent", format="%d", width=60),
                "score": st.column_config.NumberColumn("score", format="%.3f"),
                "with": st.column_config.NumberColumn(
                    "with",
                    format="%.0f%%",
                    width=60,
                    help="Share of positions with the instruction it fires at",
                ),
                "without": st.column_config.NumberColumn(
                    "without", format="%.0f%%", width=70, help="Share of positions without it"
                ),
                "mean": st.column_config.NumberColumn(
                    "mean",
                    format="%.3g",
                    help="Mean activation where it fires with the instruction",
                ),
                "fires on": st.column_config.TextColumn(
                    "fires on",
                    help="The tokens it fires on most in the corpus of the SAE; of the best "
                    f"{MOST_FIRING} latents",
                ),
                "sd": st.column_config.NumberColumn(
                    "± sd", format="%.2g", help="Standard deviation of that activation"
                ),
            },
        ),
        alt="Latents by score",
    )


def _fires_on(inside: Sequence[LatentScore]) -> dict[str, list[str]]:
    """What the first latents fire on, as a column, where a corpus was read through the SAE.

    In the middle of a model what a latent promotes says little of what it is about.
    """
    with shown():
        indexes = indexes_of(work().sae_id)
        if indexes:
            first = tuple(latent.index for latent in inside[:MOST_FIRING])
            words = _words(indexes[0].id, first)
            return {"fires on": [words.get(latent.index, "") for latent in inside]}
    return {}


@st.cache_data(show_spinner=False, max_entries=64)
def _words(index_id: str, latents: tuple[int, ...]) -> dict[int, str]:
    index = next(one for one in store().latents.indexes() if one.id == index_id)
    return fires_on(store(), index, latents, engine().token_texts)


def _table(inside: Sequence[LatentScore]) -> dict[str, list[Any]]:
    return {
        "latent": [latent.index for latent in inside],
        "score": [shown_at(latent.score, 3) for latent in inside],
        "with": [100 * latent.rate_positive for latent in inside],
        "without": [100 * latent.rate_negative for latent in inside],
        "mean": [latent.mean for latent in inside],
        "sd": [latent.std for latent in inside],
        **_fires_on(inside),
        "promotes": [promotes(latent.top_tokens) for latent in inside],
    }


def _apply_selection(key: str, inside: Sequence[LatentScore]) -> None:
    """Bring basket and ticked rows in line: what was clicked wins, then the basket does."""
    state = st.session_state
    selection = state[key]["selection"] if key in state else {}
    cells = selection.get("cells", [])
    if cells:
        open_page("views/latent.py", latent=str(inside[cells[0][0]].index))
    ticked = set(selection.get("rows", []))
    seen_key, seen = state.get(_TABLE_SEEN, ("", set()))
    if key in state and seen_key == key and ticked != seen:
        for row in sorted(ticked - seen):
            work().add_latent(inside[row].index, _coefficient(inside[row]))
        for row in seen - ticked:
            work().remove_latent(inside[row].index)
        state[_TABLE_SEEN] = (key, ticked)
        # The sidebar, drawn before, still lists the basket as it was.
        st.rerun()
    wanted = {row for row, latent in enumerate(inside) if latent.index in work().basket}
    if wanted != ticked or key not in state:
        state[key] = {"selection": {"rows": sorted(wanted), "columns": [], "cells": []}}
    state[_TABLE_SEEN] = (key, wanted)


def _coefficient(latent: LatentScore) -> float:
    """The mean activation; 1 for a latent that never fired with the instruction."""
    return latent.mean if latent.mean > 0 else 1.0


def _draw_comparison(ranking: Ranking, top: int) -> None:
    others = [
        done
        for done in work().finished
        if done.ranking.sae == ranking.sae and done.ranking.id != ranking.id
    ]
    if not others:
        return
    st.subheader(
        "Shared with other rankings of this session", anchor=False, help=explain("rankings")
    )
    names = _names(others)
    chosen = st.multiselect(
        "Compare with",
        list(names),
        default=list(names)[-1:],
        key="compare_rankings",
        persist_state="session",
        help=explain("rankings"),
    )
    tops = {_name(ranking): [latent.index for latent in ranking.latents[:top]]}
    for name in chosen:
        tops[name] = [latent.index for latent in names[name].latents[:top]]
    if len(tops) > 1:
        st.caption(f"Latents that two rankings share among their top {top}.")
        st.dataframe(
            overlap_rows(tops),
            key="overlap_table",
            hide_index=True,
            width="content",
            column_config=explained_columns(["ranking"]),
            alt="Number of shared latents between rankings",
        )


def _name(ranking: Ranking) -> str:
    pairs = counted(ranking.n_pairs, "pair")
    read, scored = READ_WORDS[ranking.read].lower(), ranking.selector.replace("_", " ")
    return f"{ranking.instruction} · {read} · {scored} · {pairs}"


def _names(others: Sequence[FinishedRanking]) -> dict[str, Ranking]:
    return {
        f"{number}: {_name(done.ranking)}": done.ranking
        for number, done in enumerate(others, start=1)
    }


draw_page()
