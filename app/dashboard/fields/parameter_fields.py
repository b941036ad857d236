"""Fields for the parameters of a plug-in, drawn from what the registry read in its signature."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import streamlit as st

from saif_core.registry import Parameter


def draw_parameters(
    parameters: Sequence[Parameter], *, key: str, values: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Draw one field per parameter; the values in them, for the registry to check.

    Args:
        key: begins the widget keys; give every plug-in its own.
        values: what the caller keeps and wants shown; without them the fields keep their own.
    """
    return {
        parameter.name: _draw(parameter, f"{key}_{parameter.name}", values)
        for parameter in parameters
    }


def _draw(parameter: Parameter, key: str, values: Mapping[str, Any] | None) -> Any:
    label, about = parameter.name.replace("_", " "), parameter.help or None
    default = None if parameter.required else parameter.default
    keep: dict[str, Any] = {"key": key, "help": about}
    if values is None:
        keep["persist_state"] = "session"
    elif parameter.name in values:
        with suppress(ValueError):  # a saved value that no longer fits makes way for the default
            default = parameter.accept(values[parameter.name])
    if parameter.choices:
        options = list(parameter.choices)
        at = options.index(default) if default in options else 0
        return st.selectbox(label, options, index=at, **keep)
    if parameter.annotation is bool:
        return st.toggle(label, default is True, **keep)
    if parameter.annotation is int:
        return st.number_input(label, value=default, step=1, **keep)
    if parameter.annotation is float:
        return st.number_input(label, value=default, step=_step(default), **keep)
    typed = st.text_input(label, "" if default is None else str(default), **keep)
    return read_typed(parameter, typed or "")


def _step(value: float | None) -> float:
    """A tenth of the default's order of magnitude."""
    return 10.0 ** (math.floor(math.log10(abs(value))) - 1) if value else 0.01


def read_typed(parameter: Parameter, typed: str) -> Any:
    """What was typed, in the kind the parameter takes; what fits none is left for the check."""
    if not typed.strip() and parameter.optional:
        return None
    for read in (int, float):
        try:
            return parameter.accept(read(typed))
        except ValueError:
            continue
    return typed
