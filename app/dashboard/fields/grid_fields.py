"""Fields for several values of each parameter, to try one after the other."""

from collections.abc import Collection, Sequence
from typing import Any

import streamlit as st

from app.dashboard.fields.parameter_fields import help_words, parameter_help
from app.dashboard.messages import shown
from app.presentation.evaluation import value_words
from app.presentation.glossary import explain
from saif_core.errors import EvaluatorError
from saif_core.parameters import Parameter
from saif_core.records.evaluation import MOST_VALUES

Grid = dict[str, tuple[Any, ...]]
NOTHING = "none"
# What a list of so many numbers may take.
_LONGEST_LIST = 400


def draw_grid(
    parameters: Sequence[Parameter], *, key: str, needed: Collection[str] = ()
) -> Grid | None:
    """Draw one field per parameter; the values to try of those that are not left as they are.

    A mistake is told under its field.

    Args:
        key: begins the widget keys; the parameter's name ends them, after a slash.
        needed: parameters that cannot be left as they are, besides those without a default.

    Returns:
        None while a field holds what cannot be used.
    """
    drawn = {
        parameter.name: _draw(parameter, f"{key}/{parameter.name}", parameter.name in needed)
        for parameter in parameters
    }
    found: Grid = {}
    for parameter in parameters:
        values = drawn[parameter.name]
        if values is None:
            return None
        if parameter.required or values != (parameter.default,):
            found[parameter.name] = values
    return found


def draw_values(
    parameter: Parameter, text: str, *, key: str, label: str, about: str = ""
) -> tuple[Any, ...] | None:
    """Draw a list of numbers, with commas between them; None while it cannot be used.

    Args:
        text: what stands in the field at first.
        about: what is to say of the field, instead of what the parameter says.
    """
    typed = st.text_input(
        label,
        text,
        max_chars=_LONGEST_LIST,
        key=key,
        persist_state="session",
        help=explain(label, about) if about else parameter_help(parameter, label),
    )
    values: tuple[Any, ...] | None = None
    with shown():
        values = read_values(parameter, typed or "", label)
    return values


def read_values(parameter: Parameter, text: str, what: str) -> tuple[Any, ...]:
    """The different values of a list typed with commas, in rising order.

    Args:
        parameter: a number; "none" stands for no value where it may have none.
        what: name of the field in messages, such as "Strengths".

    Raises:
        EvaluatorError: there is no value, one does not fit, or there are too many.
    """
    parts = [part.strip() for part in text.replace(";", ",").split(",") if part.strip()]
    values = {_read(parameter, part, what) for part in parts}
    if not values and parameter.default is None:
        values = {None}
    if not 1 <= len(values) <= MOST_VALUES:
        raise EvaluatorError(
            f"{what} holds {len(values)} values; give 1 to {MOST_VALUES}, with commas between them."
        )
    return tuple(sorted(values, key=lambda value: (value is not None, value or 0)))


def _read(parameter: Parameter, part: str, what: str) -> Any:
    if parameter.optional and part.lower() == NOTHING:
        return None
    for kind in (int, float):
        try:
            return parameter.accept(kind(part))
        except (ValueError, OverflowError):
            continue
    raise EvaluatorError(
        f"{what} holds {part[:40]!r}, but a value has to be {parameter.expects}; give values with "
        "commas between them."
    )


def _draw(parameter: Parameter, key: str, is_needed: bool) -> tuple[Any, ...] | None:
    label = parameter.name.replace("_", " ")
    if parameter.choices or parameter.kind is bool:
        return _draw_choices(parameter, key, label)
    if parameter.kind is str:
        return _draw_text(parameter, key, label, is_needed or parameter.required)
    default = "" if parameter.required or parameter.default is None else parameter.default
    about = f"{help_words(parameter.help)} Several values: with commas between them.".strip()
    return draw_values(
        parameter, value_words(default) if default != "" else "", key=key, label=label, about=about
    )


def _draw_choices(parameter: Parameter, key: str, label: str) -> tuple[Any, ...] | None:
    options = [*(parameter.choices or (False, True)), *([None] if parameter.optional else [])]
    chosen = st.multiselect(
        label,
        options,
        default=[] if parameter.required else [parameter.default],
        format_func=value_words,
        key=key,
        persist_state="session",
        help=parameter_help(parameter, label),
    )
    if chosen:
        return tuple(option for option in options if option in chosen)
    with shown():
        raise EvaluatorError(f"No value is chosen for “{label}”; choose one or more.")
    return None


def _draw_text(
    parameter: Parameter, key: str, label: str, is_needed: bool
) -> tuple[Any, ...] | None:
    default = "" if parameter.required or parameter.default is None else parameter.default
    # Not as the widget's default, as a form may have put a text of its own here.
    st.session_state.setdefault(key, default)
    typed = st.text_input(
        label, key=key, persist_state="session", help=parameter_help(parameter, label)
    )
    if typed:
        return (typed,)
    if is_needed:
        with shown():
            raise EvaluatorError(f"“{label}” is empty; fill it in.")
        return None
    return (None,) if parameter.optional else ("",)
