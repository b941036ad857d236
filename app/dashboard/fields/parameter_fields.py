"""Fields for parameters, drawn from what was read in a signature or a record."""

import math
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import streamlit as st
from annotated_types import MaxLen

from app.presentation.glossary import explain
from saif_core.parameters import Parameter

# Streamlit's number fields hold whole numbers as a browser does.
_LARGEST_WHOLE = 2**53 - 1
# A text that may be longer than this is typed in a box of several lines.
_ONE_LINE = 1000


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
    default = None if parameter.required else parameter.default
    if values is None:
        return draw_field(parameter, default, key=key, persist_state="session")
    if parameter.name in values:
        with suppress(ValueError):  # a saved value that no longer fits makes way for the default
            default = parameter.accept(values[parameter.name])
    return draw_field(parameter, default, key=key)


def draw_field(
    parameter: Parameter,
    value: Any,
    *,
    key: str,
    label: str = "",
    words: Mapping[Any, str] | None = None,
    **options: Any,
) -> Any:
    """Draw one field that shows a value; the value in it.

    Args:
        label: instead of the parameter's name.
        words: what choices are called, by choice.
        options: of the widget, whatever it is.
    """
    label = label or parameter.name.replace("_", " ")
    options = {"key": key, "help": parameter_help(parameter, label), **options}
    if parameter.choices:
        choices = list(parameter.choices)
        at = choices.index(value) if value in choices else 0
        named = words or {}
        return st.selectbox(
            label,
            choices,
            index=at,
            format_func=lambda choice: named.get(choice, choice),
            **options,
        )
    if parameter.kind is bool and not parameter.optional:
        return st.toggle(label, value is True, **options)
    if parameter.kind in (int, float):
        return _draw_number(parameter, value, label, options)
    return read_typed(parameter, _draw_text(parameter, value, label, options))


def parameter_help(parameter: Parameter, label: str) -> str | None:
    """What the words in a parameter's label and name mean, then what its docstring says of it."""
    return explain(f"{label}, {parameter.name.replace('_', ' ')}", help_words(parameter.help))


def help_words(text: str) -> str:
    """The help of a docstring as a sentence of Markdown."""
    return text[:1].upper() + text[1:].replace("``", "`")


def _draw_number(parameter: Parameter, value: Any, label: str, options: dict[str, Any]) -> Any:
    kind = parameter.kind
    step = 1 if kind is int else _step(None if parameter.required else parameter.default)
    low, high = _ends(parameter, 1 if kind is int else step / 10)
    if value is not None:
        value = min(value, _LARGEST_WHOLE) if kind is int else value
        low = None if low is None else min(low, value)
        high = None if high is None else max(high, value)
    for name, number in {"min_value": low, "max_value": high, "value": value}.items():
        options[name] = None if number is None else kind(number)
    options["step"] = step
    return st.number_input(label, **options)


def _ends(parameter: Parameter, inward: float) -> tuple[Any, Any]:
    """The least and the largest value; an end that is no value itself is left by ``inward``."""
    bounds = parameter.bounds
    low = bounds.ge if bounds.gt is None else bounds.gt + inward  # type: ignore[operator]
    high = bounds.le if bounds.lt is None else bounds.lt - inward  # type: ignore[operator]
    return low, high


def _draw_text(parameter: Parameter, value: Any, label: str, options: dict[str, Any]) -> str:
    shown, longest = "" if value is None else str(value), most_items(parameter.annotation)
    if longest is not None:
        options = {"max_chars": max(longest, len(shown)), **options}
    if longest is not None and longest > _ONE_LINE:
        return st.text_area(label, shown, height=68, **options) or ""
    return st.text_input(label, shown, **options) or ""


def most_items(annotation: Any) -> int | None:
    """The most characters or values that an annotated type may have; None without a limit."""
    found = (part.max_length for part in typing.get_args(annotation) if isinstance(part, MaxLen))
    return next(found, None)


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
