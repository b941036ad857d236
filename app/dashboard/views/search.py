"""Search: latents by words and figures, by meaning, by a text, or by two sets of texts."""

from typing import Literal, get_args

import streamlit as st

from app.dashboard.corpus.indexes import choose_index, indexes_of
from app.dashboard.fields.url_fields import publish, seed_choice
from app.dashboard.messages import shown
from app.dashboard.search.contrast import draw_contrast
from app.dashboard.search.meaning import draw_meaning
from app.dashboard.search.text import draw_text
from app.dashboard.search.words import draw_words
from app.dashboard.work import open_page, work

By = Literal["words", "meaning", "text", "contrast"]
_BY: dict[str, str] = {
    "words": "Words and figures",
    "meaning": "Meaning",
    "text": "A text it fires on",
    "contrast": "Two sets of texts",
}


def draw_page() -> None:
    """Choice of a way to search, and that way."""
    head = st.container(horizontal=True, vertical_alignment="center")
    head.title("Which latent do you look for?", width="stretch")
    n_chosen = len(work().basket)
    if n_chosen and head.button(
        f"Steer with the basket ({n_chosen})",
        key="search_steer",
        icon=":material/compare:",
    ):
        open_page("views/compare.py")
    seed_choice("by", "words", get_args(By))
    by = st.segmented_control(
        "Search by",
        get_args(By),
        required=True,
        format_func=_BY.__getitem__,
        key="by",
        persist_state="session",
    )
    publish("by", "words")
    indexes = indexes_of(work().sae_id)
    index = choose_index(indexes) if indexes else None
    with shown():
        if by == "text":
            draw_text(index)
        elif by == "contrast":
            draw_contrast(index)
        elif index is None:
            _draw_empty()
        elif by == "meaning":
            draw_meaning(index)
        else:
            draw_words(index)


def _draw_empty() -> None:
    st.info(
        "No corpus was read through this SAE yet, so nothing is known of its latents as a whole. "
        "Read one, or search by a text or by two sets of texts, which need none.",
        icon=":material/library_books:",
    )
    st.page_link("views/corpus.py", label="Read a corpus", icon=":material/library_books:")


draw_page()
