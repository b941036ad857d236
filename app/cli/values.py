"""Values typed as text: numbers in lists, and parameters of plug-ins in their own types."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from saif_core.errors import SaifError, SteeringError
from saif_core.parameters import Parameter
from saif_core.registry import Registered

T = TypeVar("T")

NOTHING = "none"


def named_values(option: str, items: Sequence[str] | None) -> dict[str, str]:
    """Texts written as ``NAME=VALUE``, by name.

    Raises:
        SaifError: an item has no name, or a name was given twice.
    """
    found: dict[str, str] = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not equals or not name.isidentifier():
            raise SaifError(f"{option} is {item!r}, which is not NAME=VALUE; write it so.")
        if name in found:
            raise SaifError(f"{option} gives {name!r} twice; give each parameter once.")
        found[name] = value
    return found


def typed_values(
    registered: Registered[Any], kind: str, texts: Mapping[str, str]
) -> dict[str, Any]:
    """Parameters of a plug-in in their own types, those that were given alone.

    Args:
        kind: what the plug-in is called in messages.

    Raises:
        SaifError: a parameter is unknown, missing or does not fit.
    """
    known = {parameter.name: parameter for parameter in registered.parameters}
    raw = {name: raw_value(known.get(name), text) for name, text in texts.items()}
    checked = registered.check(kind, raw, SteeringError)
    return {name: checked[name] for name in texts}


def raw_value(parameter: Parameter | None, text: str) -> Any:
    """What a text stands for where that parameter is asked for; it may still not fit."""
    if parameter is None:
        return text
    if parameter.optional and text == NOTHING:
        return None
    if parameter.kind is str or parameter.choices:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def accepted(option: str, parameter: Parameter, text: str) -> Any:
    """A text in the type of a record's field.

    Raises:
        SaifError: it does not fit.
    """
    try:
        return parameter.accept(raw_value(parameter, text))
    except ValueError as error:
        raise SaifError(f"{option} {error}.") from error


def listed(option: str, text: str, parse: Callable[[str], T]) -> tuple[T, ...]:
    """The values of a list, each once; none of an empty text.

    Raises:
        SaifError: one of them cannot be used.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    try:
        return tuple(dict.fromkeys(parse(part) for part in parts))
    except ValueError as error:
        raise SaifError(f"{option} is {text!r}, but {error}; separate values by commas.") from error


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Finite numbers, see ``listed``."""
    return listed(option, text, _number)


def whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """Numbers of layers, see ``listed``."""
    return listed(option, text, _layer)


def chosen_names(
    option: str, kind: str, given: Sequence[str] | None, known: Sequence[T], default: Sequence[T]
) -> tuple[T, ...]:
    """The things of some names, each once; "none" alone chooses nothing.

    Raises:
        SaifError: there is none of such a name.
    """
    if given is None:
        return tuple(default)
    if list(given) == [NOTHING]:
        return ()
    by_name = {str(one): one for one in known}
    for name in given:
        if name not in by_name:
            raise SaifError(
                f"{option} is {name!r}, but there is no such {kind}; the known ones are: "
                f"{', '.join(by_name)}, or {NOTHING}."
            )
    return tuple(dict.fromkeys(by_name[name] for name in given))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def _layer(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{text!r} is not the number of a layer")
    return int(text)
