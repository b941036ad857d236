"""Bringing what a person asked for into view, after the run that draws it."""

import json

import streamlit as st

_KEY = "scroll_wanted"
# Smoothly only for those who have not asked for stillness; a place that is seen stays where it is.
_SCRIPT = """<script data-turn="{turn}">
(() => {{
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const move = (tries) => {{
    const place = document.querySelector({selector});
    if (!place) {{ if (tries) setTimeout(move, 100, tries - 1); return; }}
    const box = place.getBoundingClientRect();
    if (box.top >= 60 && box.top <= innerHeight * 0.6) return;
    place.style.scrollMarginTop = "4.5rem";
    place.scrollIntoView({{behavior: still ? "auto" : "smooth", block: "start"}});
  }};
  setTimeout(move, 150, 20);
}})();
</script>"""


def want_in_view(key: str) -> None:
    """Have the container with this key brought into view by the next ``scroll_to`` it."""
    st.session_state[_KEY] = key


def scroll_to(key: str) -> None:
    """Bring the container with this key into view, if that was wanted; call it after drawing."""
    if st.session_state.get(_KEY) != key:
        return
    st.session_state[_KEY] = ""
    turn = st.session_state["scroll_turn"] = st.session_state.get("scroll_turn", 0) + 1
    selector = json.dumps(f".st-key-{key}")
    st.html(_SCRIPT.format(turn=turn, selector=selector), unsafe_allow_javascript=True)
