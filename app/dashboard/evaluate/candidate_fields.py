"""What an evaluation steers with, as fields drawn from the registries: sources and methods."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.dashboard.compare.compare_arms import LATENTS, TENSORS
from app.dashboard.fields.grid_fields import Grid, draw_grid
from app.dashboard.messages import shown
from app.dashboard.work import work
from app.presentation.escaping import escape_markdown
from saif_core.errors import EvaluatorError
from saif_core.inputs.latent_lists import format_latents, parse_latents
from saif_core.records.evaluation import DEFAULT_CANDIDATES, Candidate
from saif_core.registry import SOURCES, STEERING_METHODS, Registered

# The index of a latent means something in one SAE alone.
_INDICES = ("latent", LATENTS)
_OWN = ""


def draw_source_choice() -> list[str]:
    """Draw the choice of sources; their names, in their own order.

    The order of choosing decides nothing.
    """
    offered = _offered()
    chosen = st.multiselect(
        "Sources to steer with",
        list(offered),
        default=[one.source for one in DEFAULT_CANDIDATES if one.source in offered],
        format_func=_words,
        key="evaluation_sources",
        persist_state="session",
        help="  \n".join(
            f"**{_words(name)}**: {escape_markdown(one.help)}" for name, one in offered.items()
        ),
    )
    return [name for name in offered if name in chosen]


def draw_candidates(sources: Sequence[str]) -> tuple[Candidate, ...] | None:
    """Draw for each source what to try; None while a field cannot be used."""
    drawn = [_draw_source(SOURCES.get(name)) for name in sources]
    if any(one is None for one in drawn):
        return None
    return tuple(candidate for one in drawn for candidate in one or ())


def check_indices(candidates: Sequence[Candidate], sae_ids: Sequence[str], n_places: int) -> None:
    """Raise a sentence for latents that are named by their index in more than one SAE.

    Args:
        n_places: layers that are written after.

    Raises:
        EvaluatorError: see above, or the basket in hand holds latents of another SAE.
    """
    in_hand = format_latents(work().basket_latents())
    for candidate in candidates:
        named = [
            name for name in _INDICES if any(v is not None for v in candidate.grid.get(name, ()))
        ]
        if named and n_places > 1:
            raise EvaluatorError(
                f"The source {candidate.source!r} was given latents by their index, which means "
                f"something in one SAE alone, but there are {n_places} layers; choose one SAE and "
                "no further layer, or leave the source out."
            )
        is_basket = bool(in_hand) and candidate.grid.get(LATENTS) == (in_hand,)
        if is_basket and tuple(sae_ids) != (work().sae_id,):
            raise EvaluatorError(
                f"The basket in hand holds latents of the SAE {work().sae_id}, which is not the "
                f"one that is chosen; choose it, or other latents for {candidate.source!r}."
            )


def _offered() -> dict[str, Registered[Any]]:
    """The sources by name, the usual ones first."""
    usual = [candidate.source for candidate in DEFAULT_CANDIDATES]
    names = [name for name in usual if name in SOURCES]
    return {name: SOURCES.get(name) for name in dict.fromkeys([*names, *SOURCES.names()])}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _draw_source(source: Registered[Any]) -> list[Candidate] | None:
    needed = [p.name for p in source.parameters if p.required or p.name in (LATENTS, TENSORS)]
    with st.expander(
        _words(source.name),
        key=f"evaluation_expander/{source.name}",
        icon=":material/route:",
        # What has to be filled in is seen at once.
        expanded=bool(needed),
    ):
        st.caption(escape_markdown(source.help))
        key = f"evaluation_source/{source.name}"
        left, right = st.columns(2)
        with left:
            if LATENTS in needed:
                _draw_basket_button(f"{key}/{LATENTS}")
            grid = draw_grid(source.parameters, key=key, needed=needed)
            if grid is not None and LATENTS in grid:
                grid = _checked_latents(grid)
        with right:
            methods = _draw_methods(source.name)
        if grid is None or methods is None:
            return None
        return [Candidate(source.name, grid, method, tried) for method, tried in methods.items()]


def _draw_methods(source: str) -> dict[str, Grid] | None:
    """Draw the methods to write with, each with what to try; by name, as they were chosen."""
    names = [_OWN, *STEERING_METHODS.names()]
    chosen = st.multiselect(
        "Steering methods",
        names,
        default=[_OWN],
        format_func=lambda name: _words(name) or f"as {_words(source)} writes it",
        key=f"evaluation_methods/{source}",
        persist_state="session",
        help="How its latents are written; each method is an arm of its own.",
    )
    found: dict[str, Grid] = {}
    complete = bool(chosen)
    if not chosen:
        with shown():
            raise EvaluatorError(
                f"No steering method is chosen for “{_words(source)}”; choose one."
            )
    for name in (name for name in names if name in chosen):
        if name == _OWN:
            found[name] = {}
            continue
        method = STEERING_METHODS.get(name)
        st.caption(f"**{_words(name)}**: {escape_markdown(method.help)}")
        tried = draw_grid(method.parameters, key=f"evaluation_method/{source}/{name}")
        complete = complete and tried is not None
        found[name] = tried or {}
    return found if complete else None


def _draw_basket_button(key: str) -> None:
    """Draw the button that fills in the basket in hand, which a new field begins with."""
    in_hand = format_latents(work().basket_latents())
    if in_hand and key not in st.session_state:
        st.session_state[key] = in_hand

    def fill() -> None:
        st.session_state[key] = in_hand

    st.button(
        "The basket in hand",
        key=f"{key}/in_hand",
        icon=":material/shopping_basket:",
        disabled=not in_hand or st.session_state.get(key) == in_hand,
        on_click=fill,
        help="Its latents with their coefficients." if in_hand else "The basket is empty.",
    )


def _checked_latents(grid: Grid) -> Grid | None:
    checked: Grid | None = None
    with shown():
        for text in grid[LATENTS]:
            parse_latents(str(text))
        checked = grid
    return checked
