"""What the theme cannot say: letters that Streamlit draws too faint to be read by everyone.

Every text has a contrast of at least 4.5 to what it stands on, in both themes.
"""

import streamlit as st

_FAINT = "light-dark(rgb(28 37 48 / .78), rgb(228 233 238 / .78))"
_CHOSEN = "light-dark(#0b63a5, #7dbdf0)"
_STYLE = f"""<style>
[data-testid="stCaptionContainer"] {{ opacity: .8 }}
button:disabled, button:disabled :is(p, span), label:has(:disabled) p,
[aria-disabled="true"] :is(p, span),
[data-testid="stPaginationEllipsis"],
:is([data-testid="stSidebarNav"], [data-testid="stTextInput"]) [data-testid="stIconMaterial"] {{
 color: {_FAINT} !important }}
[data-testid="stVegaLiteChart"] :is(.role-axis, .role-legend) text {{ fill: {_FAINT} !important }}
button:disabled, button:disabled *, [aria-disabled="true"] *, button kbd, button :has(> kbd) {{
 opacity: 1 !important }}
button[data-variant]:is([aria-checked="true"], [aria-pressed="true"]) :is(p, span) {{
 color: {_CHOSEN} !important }}
</style>"""


def draw_style() -> None:
    """Put it on the page; it takes no room. Pages that no browser shows need none."""
    if dict(st.context.headers):
        st.html(_STYLE)
