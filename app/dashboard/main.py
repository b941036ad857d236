"""Streamlit entry: the pages, the frame around them, and the guard that turns errors to sentences.

Run with ``streamlit run app/dashboard/main.py``.
"""

import streamlit as st

from app.dashboard.frame import (
    draw_engine_status,
    draw_words,
    draw_work_in_hand,
    load_ahead,
)
from app.dashboard.messages import shown
from app.dashboard.style import draw_style
from app.dashboard.work import begin_url, write_url

START = st.Page("views/start.py", title="Start", icon=":material/flag:", default=True)
SHARED = st.Page(
    "views/shared.py", title="Shared session", icon=":material/link:", visibility="hidden"
)
# The flow, in its order, and what stands beside it.
PAGES = {
    "": [
        START,
        st.Page("views/instructions.py", title="Instructions", icon=":material/edit_note:"),
        st.Page("views/latents.py", title="Latents", icon=":material/scatter_plot:"),
        st.Page("views/latent.py", title="Latent", icon=":material/search_insights:"),
        st.Page("views/compare.py", title="Compare", icon=":material/compare:"),
        st.Page("views/evaluate.py", title="Evaluate", icon=":material/monitoring:"),
        st.Page("views/sessions.py", title="Sessions", icon=":material/folder_open:"),
        SHARED,
    ],
    "Explore": [
        st.Page("views/search.py", title="Search", icon=":material/travel_explore:"),
        st.Page("views/vector.py", title="Vector", icon=":material/polyline:"),
        st.Page("views/sae_health.py", title="SAE health", icon=":material/monitor_heart:"),
        st.Page("views/corpus.py", title="Corpus", icon=":material/library_books:"),
    ],
}
# Drawn here because a Material icon would be fetched from another host.
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" fill="none" stroke="#0b63a5" '
    'stroke-width="2" stroke-linecap="round"><path d="M2 6v4M6 2v12M10 5v6M14 7v2"/></svg>'
)


def run() -> None:
    """Draw the frame and the page that was asked for."""
    st.set_page_config(page_title="SAIF", page_icon=ICON, layout="wide")
    draw_style()
    page = st.navigation(PAGES)
    if "session" in st.query_params and page == START:
        # A share link names no page, so that it stays short and survives renamed pages.
        st.switch_page(SHARED, query_params={"session": st.query_params["session"]})
    if page == SHARED:
        # A reader of a share link has no work in hand, and needs neither model nor SAE.
        with shown():
            page.run()
        return
    begin_url()
    with shown():
        if page == START:
            # It is read before the engine is there, which takes seconds to import.
            page.run()
        with st.sidebar:
            draw_words()
            draw_work_in_hand()
            draw_engine_status()
        if page == START:
            load_ahead()
        else:
            page.run()
    write_url()


run()
