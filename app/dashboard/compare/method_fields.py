"""How an edit is written, as fields: the steering method and its parameters."""

from collections.abc import Collection, Mapping
from typing import Any

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_parameters
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain
from saif_core.errors import UnknownNameError
from saif_core.registry import STEERING_METHODS, find_writer


def method_words(names: Collection[str]) -> str:
    """What each of the steering methods does, a line each, for the help of a choice of them."""
    return "  \n".join(
        f"{one.name.replace('_', ' ')}: {escape_markdown(one.help)}"
        for one in STEERING_METHODS
        if one.name in names
    )


def draw_method(
    method: str,
    values: Mapping[str, Any],
    *,
    key: str,
    with_latents: bool,
    left_to: str = "",
) -> tuple[str, dict[str, Any]]:
    """Draw the choice of a steering method and its parameters; both as set.

    Args:
        method: the one in use, shown whatever it is.
        values: of its parameters.
        key: begins the widget keys.
        with_latents: offer methods that need an SAE too.
        left_to: the source that a method is left to unless one is chosen; "" for none.
    """
    names = [one.name for one in STEERING_METHODS if with_latents or not one.needs_sae]
    names += [] if method in names or not method else [method]
    if left_to:
        names.insert(0, "")
    chosen = st.selectbox(
        "Steering method",
        names,
        index=names.index(method) if method in names else 0,
        format_func=lambda name: name.replace("_", " ") or f"as {left_to} writes it",
        key=f"{key}_method",
        help=explain("Steering method", method_words(names)),
    )
    if not chosen:
        return "", {}
    try:
        registered = find_writer(chosen)
    except UnknownNameError as error:
        st.caption(escape_markdown(str(error)))
        return chosen, dict(values)
    st.caption(escape_markdown(registered.help))
    kept = values if chosen == method else {}
    return chosen, draw_parameters(
        registered.parameters, key=f"{key}_parameter_{chosen}", values=kept
    )
