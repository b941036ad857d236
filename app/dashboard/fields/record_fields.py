"""Fields for a record, drawn from its types, its bounds and its docstring."""

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_field, help_words, most_items
from app.presentation.glossary import explain
from saif_core.parameters import read_docstring, record_parameters

R = TypeVar("R", bound=Any)
_ESCAPES = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\"}
_SIGNS = {escape: sign for sign, escape in _ESCAPES.items()}


def draw_record(
    record: R,
    *,
    key: str,
    labels: Mapping[str, str] | None = None,
    words: Mapping[str, Mapping[Any, str]] | None = None,
    idle: Callable[[str, R], bool] = lambda _name, _record: False,
) -> R:
    """Draw a field for every field of a record; the record that they make.

    Args:
        key: begins the widget keys; the field's name ends them.
        labels: instead of the fields' names, by name.
        words: what the choices of a field are called, by its name.
        idle: whether a field of this name changes nothing, as the record stands.
    """
    known = {parameter.name: parameter for parameter in record_parameters(type(record))}
    hints = typing.get_type_hints(type(record), include_extras=True)
    _, helps = read_docstring(inspect.getdoc(type(record)) or "", section="Attributes")
    for name in (field.name for field in fields(record)):
        now: Any = getattr(record, name)
        label = (labels or {}).get(name, name.replace("_", " ").capitalize())
        options: dict[str, Any] = {"key": f"{key}_{name}", "disabled": idle(name, record)}
        if name in known:
            named = (words or {}).get(name)
            now = draw_field(known[name], now, label=label, words=named, **options)
        elif _holds_texts(hints[name]):
            now = _draw_texts(now, hints[name], label, help=helps.get(name, ""), **options)
        record = replace(record, **{name: now})
    return record


def _holds_texts(annotation: Any) -> bool:
    values = typing.get_args(_plain(annotation))
    return len(values) == 2 and _plain(values[0]) is str and values[1] is Ellipsis


def _plain(annotation: Any) -> Any:
    is_annotated = typing.get_origin(annotation) is typing.Annotated
    return typing.get_args(annotation)[0] if is_annotated else annotation


def _draw_texts(
    texts: tuple[str, ...], annotation: Any, label: str, *, help: str, **options: Any
) -> tuple[str, ...]:
    """Draw texts as lines of a box."""
    most = most_items(annotation)
    longest = most_items(typing.get_args(_plain(annotation))[0])
    about = help_words(f"{help} One a line; \\n stands for a line break.".strip())
    typed = (
        st.text_area(label, write_lines(texts), height=68, help=explain(label, about), **options)
        or ""
    )
    found = read_lines(typed)
    kept = tuple(text[:longest] for text in found[:most])
    if kept != found:
        st.caption(
            f"Of {len(found)} lines the first {most} are used, each with {longest} characters at "
            "most."
        )
    return kept


def write_lines(texts: tuple[str, ...]) -> str:
    """Texts as lines, one each, with their own line breaks as escapes."""
    return "\n".join(re.sub(r"[\n\t\r\\]", lambda m: _ESCAPES[m[0]], text) for text in texts)


def read_lines(typed: str) -> tuple[str, ...]:
    """The texts that ``write_lines`` turned into lines; empty lines are none."""
    return tuple(
        re.sub(r"\\[ntr\\]", lambda m: _SIGNS[m[0]], line) for line in typed.split("\n") if line
    )
