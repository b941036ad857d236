"""What an evaluation steers with, as fields drawn from the registries: sources and methods."""

from collections.abc import Collection, Sequence
from typing import Any

import streamlit as st

from app.dashboard.compare.compare_arms import LATENTS, TENSORS
from app.dashboard.compare.method_fields import method_words
from app.dashboard.fields.grid_fields import Grid, draw_grid
from app.dashboard.messages import shown
from app.dashboard.work import work
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted
from app.presentation.glossary import explain
from saif_core.errors import EvaluatorError
from saif_core.inputs.latent_lists import format_latents, parse_latents
from saif_core.records.evaluation import DEFAULT_CANDIDATES, Candidate
from saif_core.records.ranking import ChosenLatent
from saif_core.registry import SOURCES, STEERING_METHODS, Registered

# The index of a latent means something in one SAE alone.
_INDICES = ("latent", LATENTS)
_OWN, _BASKET = "", "basket"
SOURCE_KEY = "evaluation_sources"


def draw_source_choice() -> list[str]:
    """Draw the choice of sources; their names, in their own order.

    The order of choosing decides nothing.
    """
    offered = _offered()
    if SOURCE_KEY not in st.session_state:
        st.session_state[SOURCE_KEY] = _usual(offered)
    chosen = st.multiselect(
        "Sources to steer with",
        list(offered),
        format_func=_words,
        key=SOURCE_KEY,
        persist_state="session",
        help=explain(
            "Sources",
            "  \n".join(
                f"{_words(name)}: {escape_markdown(one.help)}" for name, one in offered.items()
            ),
        ),
    )
    if _BASKET in offered and _BASKET not in chosen and work().basket:
        with st.container(horizontal=True, vertical_alignment="center"):
            n_latents = counted(len(work().basket), "latent")
            st.caption(f"The basket in hand ({n_latents}) is not measured.", width="content")
            st.button(
                "Measure it too",
                key="evaluation_add_basket",
                icon=":material/shopping_basket:",
                type="tertiary",
                on_click=measure_basket,
            )
    return [name for name in offered if name in chosen]


def measure_basket() -> None:
    """Have the form measure the basket in hand, beside what is chosen."""
    chosen = st.session_state.get(SOURCE_KEY)
    chosen = _usual(_offered()) if chosen is None else chosen
    st.session_state[SOURCE_KEY] = [*(one for one in chosen if one != _BASKET), _BASKET]
    key = f"evaluation_source/{_BASKET}/{LATENTS}"
    st.session_state[key] = st.session_state[f"{key}/filled"] = basket_text(work().sae_id)


def _usual(offered: Collection[str]) -> list[str]:
    return [one.source for one in DEFAULT_CANDIDATES if one.source in offered]


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
        owner = _owner(candidate.grid.get(LATENTS, ()), sae_ids)
        if owner:
            raise EvaluatorError(
                f"The basket in hand holds latents of the SAE {owner}, which is not the "
                f"one that is chosen; choose it, or other latents for {candidate.source!r}."
            )


def _owner(lists: Sequence[Any], sae_ids: Sequence[str]) -> str:
    """The SAE whose basket these latents are, if it is another one than is chosen; else ""."""
    baskets = {sae_id: basket_text(sae_id) for sae_id in work().baskets}
    if len(lists) != 1 or lists[0] in {baskets.get(sae_id) for sae_id in sae_ids}:
        return ""
    return next((sae_id for sae_id, text in baskets.items() if text and text == lists[0]), "")


def basket_text(sae_id: str) -> str:
    """The basket of an SAE as a field of latents holds it; "" for an empty one."""
    basket = work().baskets.get(sae_id, {})
    return format_latents([ChosenLatent(index, value) for index, value in basket.items()])


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
            prompted = _draw_prompted(source.name)
        if grid is None or methods is None:
            return None
        return [
            Candidate(source.name, grid, method, tried, told)
            for method, tried in methods.items()
            for told in prompted
        ]


def _draw_prompted(source: str) -> list[bool]:
    """Draw whether the prompt holds the instruction as well; every choice is an arm of its own."""
    chosen = st.segmented_control(
        "Steered",
        ["instead of prompting", "on top of prompting"],
        default=["instead of prompting"],
        selection_mode="multi",
        key=f"evaluation_prompted/{source}",
        persist_state="session",
        help=explain("prompted", "On top: the instruction stands in the prompt as well."),
    )
    return [one.startswith("on top") for one in chosen] or [False]


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
        help=explain(
            "Steering methods",
            f"{method_words(names)}  \nEach method is an arm of its own.",
        ),
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
    """Draw the button that fills in the basket in hand.

    A new field begins with it, and what was filled in from it follows it as it is edited.
    """
    state, filled = st.session_state, f"{key}/filled"
    in_hand = basket_text(work().sae_id)
    if in_hand and (key not in state or state.get(filled) == state[key] != in_hand):
        state[key] = state[filled] = in_hand

    def fill() -> None:
        state[key] = state[filled] = in_hand

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
