"""What counts as a step of the browser's history.

The menu leads to a page without parameters, which the page then fills in. Streamlit makes a step
of each, so that the way back would need two presses for every page.
"""

import streamlit as st

_DONE = "history_steps"
_SCRIPT = """<script>
if (!window.saifHistory) {
  window.saifHistory = true;
  const push = history.pushState.bind(history);
  history.pushState = (state, title, url) => {
    const to = new URL(url, location.href);
    const filled = to.pathname === location.pathname && !location.search;
    (filled ? history.replaceState.bind(history) : push)(state, title, url);
  };
}
</script>"""


def fill_in_place() -> None:
    """Have the parameters of a bare address filled in without a step; once in a browser session."""
    if not st.session_state.get(_DONE):
        st.session_state[_DONE] = True
        st.html(_SCRIPT, unsafe_allow_javascript=True)
