"""Search by words and figures: every latent of an index, filtered and sorted in the database."""

from collections.abc import Sequence
from typing import get_args

import streamlit as st

from app.dashboard.fields.url_fields import publish, seed_choice, seed_flag
from app.dashboard.handles import engine, store
from app.dashboard.search.table import draw_latents, summary_columns, whole_rows
from app.dashboard.work import publish_parameter
from app.presentation.escaping import escape_markdown, visible
from app.presentation.figures import too_long
from app.presentation.glossary import explain
from saif_core.records.corpus import (
    LatentFilter,
    LatentIndex,
    LatentPage,
    LatentSort,
    LatentSummary,
)
from storage.note_store import folded_words

PAGE_SIZE = 50
MAX_QUERY = 200
MOST_SHOWN = 3
_BEST = "best match"
_FIRST = "search_first"
# These are parameters of the URL too.
_WORDS, _SORT, _PAGE = "search_words", "search_sort", "search_page"
_STARRED, _LABELLED = "search_starred", "search_labelled"
_NUMBERS = {
    "search_min_density": ("Density from (%)", 100.0, 0.01),
    "search_max_density": ("Density up to (%)", 100.0, 0.01),
    "search_min_s_in": ("S_in from", 1.0, 0.05),
    "search_min_s_out": ("S_out from", 1.0, 0.01),
}
_SORTS: dict[str, tuple[LatentSort | None, bool]] = {_BEST: (None, False)} | {
    f"{sort}, {'high' if descending else 'low'} first": (sort, descending)
    for sort in get_args(LatentSort)
    for descending in (True, False)
}


def draw_words(index: LatentIndex) -> None:
    """Form and table; what is asked for stands in the URL."""
    _draw_form()
    if said := too_long("The search", st.session_state[_WORDS], MAX_QUERY):
        st.error(said, icon=":material/error:")
        return
    filters, sort = _filters(), str(st.session_state[_SORT])
    # Another search has another list of pages, which begins at its first.
    key = f"{_PAGE}_{hash((index.id, sort, filters))}"
    number = _page_number(key)
    page = _read_page(index, filters, sort, number)
    n_pages = max(1, -(-page.n_total // PAGE_SIZE))
    if number > n_pages:
        number = n_pages
        page = _read_page(index, filters, sort, number)
    publish_parameter(_PAGE, "" if number == 1 else str(number))
    if not page.rows:
        st.info(
            "No latent fits all that is asked for; use fewer words or wider bounds.",
            icon=":material/search_off:",
        )
        return
    first = PAGE_SIZE * (number - 1) + 1
    st.markdown(
        f"**{page.n_total:,}** of {index.d_sae:,} latents, {first:,} to "
        f"{first + len(page.rows) - 1:,} shown · n = {index.n_tokens:,} tokens of "
        f"{escape_markdown(index.name)}"
    )
    columns = summary_columns(index, whole_rows(index, page.rows))
    if filters.text.strip():
        columns["found in"] = [_found_words(index, filters.text, row) for row in page.rows]
    draw_latents("words", index, columns, alt="Latents that fit the search")
    st.pagination(n_pages, default=number, key=key, persist_state="session")


def _found_words(index: LatentIndex, query: str, row: LatentSummary) -> str:
    """Where the words of a query were found, with the tokens that hold them."""
    shown = []
    for place in row.found_in:
        tokens = _tokens_with(index, query, row) if place == "tokens" else []
        shown.append(f"{place}: {', '.join(map(visible, tokens))}" if tokens else place)
    return ", ".join(shown)


def _tokens_with(index: LatentIndex, query: str, row: LatentSummary) -> list[str]:
    """Tokens that a latent promotes or fires on most which hold a word of the query."""
    profile = store().profiles.get(index.id, row.latent)
    promoted = [token for token, _ in profile.promoted]
    best = [example for example in profile.examples if example.kind == 0]
    contexts = store().profiles.contexts(index.id, [example.context for example in best])
    fired = [
        int(contexts[example.context][example.position])
        for example in best
        if example.context in contexts
    ]
    return matching_tokens(query, engine().token_texts(list(dict.fromkeys([*promoted, *fired]))))


def matching_tokens(query: str, tokens: Sequence[str]) -> list[str]:
    """Tokens in which a word of a query is found as the search finds it, at most three."""
    words = folded_words(query).split()
    found = [
        token
        for token in tokens
        if any(
            word == mine or (len(word) > 1 and mine.startswith(word))
            for mine in folded_words(token).split()
            for word in words
        )
    ]
    return found[:MOST_SHOWN]


def _draw_form() -> None:
    state, query = st.session_state, st.query_params
    state.setdefault(_WORDS, query.get(_WORDS, "")[:MAX_QUERY])
    for key, (_, high, _) in _NUMBERS.items():
        state.setdefault(key, _number(query.get(key, ""), high))
    seed_choice(_SORT, _BEST, list(_SORTS))
    seed_flag(_STARRED, False)
    seed_flag(_LABELLED, False)
    with st.form("search_words_form"):
        left, right = st.columns([3, 1])
        left.text_input(
            "Words in labels, tokens and examples",
            key=_WORDS,
            persist_state="session",
            icon=":material/search:",
            help=explain("tokens", "All words have to be found; the beginnings of words will do."),
        )
        right.selectbox(
            "Order",
            list(_SORTS),
            key=_SORT,
            persist_state="session",
            help=explain(
                "density, S_in, S_out",
                "All latents that are found are put in order, not only those on this page.",
            ),
        )
        fields = st.container(horizontal=True, vertical_alignment="bottom")
        for key, (label, high, step) in _NUMBERS.items():
            fields.number_input(
                label,
                0.0,
                high,
                value=None,
                step=step,
                # As many digits as were typed: a rounded bound would not be the one searched by.
                format="%.6g",
                key=key,
                persist_state="session",
                placeholder="any",
                width=150,
                help=explain(label),
            )
        fields.toggle("Starred", key=_STARRED, persist_state="session")
        fields.toggle(
            "Labelled",
            key=_LABELLED,
            persist_state="session",
            help="Only latents that a person gave a label.",
        )
        with st.container(horizontal=True):
            st.form_submit_button("Search", type="primary", icon=":material/search:")
            st.form_submit_button("Clear", icon=":material/backspace:", on_click=_clear)
    publish(_WORDS, "")
    publish(_SORT, _BEST)
    publish(_STARRED, False)
    publish(_LABELLED, False)
    for key in _NUMBERS:
        publish(key, None)


def _filters() -> LatentFilter:
    state = st.session_state
    low, high, s_in, s_out = (state[key] for key in _NUMBERS)
    return LatentFilter(
        min_density=None if low is None else low / 100,
        max_density=None if high is None else high / 100,
        min_s_in=s_in,
        min_s_out=s_out,
        starred=state[_STARRED],
        labelled=state[_LABELLED],
        text=state[_WORDS],
    )


def _page_number(key: str) -> int:
    """The page chosen in the search of that key; the first search may take it from the URL."""
    state = st.session_state
    text = st.query_params.get(_PAGE, "")
    is_number = text.isascii() and text.isdigit() and len(text) < 10
    asked = max(int(text), 1) if is_number and state.setdefault(_FIRST, key) == key else 1
    return int(state.get(key, asked))


def _read_page(index: LatentIndex, filters: LatentFilter, order: str, number: int) -> LatentPage:
    sort, descending = _SORTS[order]
    return store().profiles.page(
        index.id,
        sort=sort,
        descending=descending,
        filters=filters,
        offset=PAGE_SIZE * (number - 1),
        limit=PAGE_SIZE,
    )


def _clear() -> None:
    state = st.session_state
    state[_WORDS], state[_SORT] = "", _BEST
    state[_STARRED] = state[_LABELLED] = False
    for key in _NUMBERS:
        state[key] = None


def _number(text: str, high: float) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= high else None
