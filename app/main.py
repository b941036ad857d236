"""Streamlit entry: the pages, the frame around them, and the guard that turns errors to sentences.

Run with ``streamlit run app/main.py``.
"""

import streamlit as st

from app.frame import draw_engine_status, draw_work_in_hand
from app.messages import shown
from app.state import work, write_url

INSTRUCTIONS = st.Page(
    "views/instructions.py", title="Instructions", icon=":material/edit_note:", default=True
)
SHARED = st.Page(
    "views/shared.py", title="Shared session", icon=":material/link:", visibility="hidden"
)
PAGES = [
    INSTRUCTIONS,
    st.Page("views/latents.py", title="Latents", icon=":material/scatter_plot:"),
    st.Page("views/latent.py", title="Latent", icon=":material/search_insights:"),
    st.Page("views/compare.py", title="Compare", icon=":material/compare:"),
    st.Page("views/sessions.py", title="Sessions", icon=":material/folder_open:"),
    SHARED,
]


def run() -> None:
    """Draw the frame and the page that was asked for."""
    st.set_page_config(page_title="SAIF", page_icon=":material/graphic_eq:", layout="wide")
    page = st.navigation(PAGES)
    if "session" in st.query_params and page == INSTRUCTIONS:
        # A share link names no page, so that it stays short and survives renamed pages.
        st.switch_page(SHARED, query_params={"session": st.query_params["session"]})
    with shown():
        if page == SHARED:
            # A reader of a share link has no work in hand, and needs neither model nor SAE.
            page.run()
            return
        work()
        with st.sidebar:
            draw_work_in_hand()
            draw_engine_status()
        write_url()
        page.run()
        write_url()


run()
