"""Keyed widgets whose values stand in the URL: seeded from it once, published on every run.

Streamlit's own binding (``bind="query-params"``) is not used: ``st.switch_page`` refuses to leave
a page while a bound value stands in the URL. Draw such a widget without a default of its own, as
the seed is its value.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.dashboard.work import publish_parameter


def seed_number(key: str, default: int, low: int, high: int) -> None:
    """Give a number field its first value, and keep it between bounds that may move."""
    text = st.query_params.get(key, "")
    given = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default
    value = st.session_state.get(key, given)
    st.session_state[key] = min(max(int(value), low), high)


def seed_choice(key: str, default: str, options: Sequence[str]) -> None:
    """Give a choice its first value; one that is not offered gives way to the default."""
    value = st.session_state.get(key, st.query_params.get(key, default))
    st.session_state[key] = value if value in options else default


def seed_flag(key: str, default: bool) -> None:
    """Give a toggle its first value."""
    if key not in st.session_state:
        text = st.query_params.get(key, "")
        st.session_state[key] = text == "true" if text in ("true", "false") else default


def publish(key: str, default: Any) -> None:
    """Put the value of a drawn widget in the URL; a default is left out."""
    value = st.session_state[key]
    text = str(value).lower() if isinstance(value, bool) else str(value)
    publish_parameter(key, "" if value == default else text)
