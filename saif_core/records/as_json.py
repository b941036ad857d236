"""Records to JSON-ready data and back; ids and times, which are made with a record."""

import json
import math
import types
import typing
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

R = TypeVar("R")


def new_id() -> str:
    """A fresh record id."""
    return str(uuid.uuid4())


def utc_now() -> str:
    """Now, as an ISO 8601 string in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def to_json(record: Any) -> dict[str, Any]:
    """A record as JSON-ready data.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    data = asdict(record)
    json.dumps(data, allow_nan=False)
    return data


def from_json(kind: type[R], data: Mapping[str, Any]) -> R:
    """The record that ``to_json`` turned into data; unknown keys are refused.

    Raises:
        ValueError: the data does not fit the record.
    """
    try:
        return typing.cast(R, _build(kind, data))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"This is not a {kind.__name__}: {error}.") from error


def _build(kind: Any, data: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return _build(next(a for a in args if a is not type(None)), data)
    if is_dataclass(kind):
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object for {kind}, found {type(data).__name__}")
        hints = typing.get_type_hints(kind)
        unknown = set(data) - {f.name for f in fields(kind)}
        if unknown:
            raise ValueError(f"unknown fields {', '.join(sorted(map(str, unknown)))}")
        return typing.cast(Any, kind)(**{k: _build(hints[k], v) for k, v in data.items()})
    if origin is tuple:
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise ValueError(f"expected a list, found {type(data).__name__}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_build(args[0], item) for item in data)
        return tuple(_build(arg, item) for arg, item in zip(args, data, strict=True))
    if origin is Literal:
        if data not in args:
            raise ValueError(f"{data!r} is not one of {', '.join(map(repr, args))}")
        return data
    if origin is dict:
        if not isinstance(data, Mapping):
            raise ValueError(f"expected an object, found {type(data).__name__}")
        kept = not args or args[1] is Any
        return {key: value if kept else _build(args[1], value) for key, value in data.items()}
    return _scalar(kind, data)


def _scalar(kind: Any, data: Any) -> Any:
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        # An integer beyond every float is as unusable as infinity.
        number = float(data) if abs(data) < 1e308 else math.inf
        if not math.isfinite(number):
            raise ValueError(f"{data!r} is not a finite number")
        return number
    if isinstance(kind, type) and (
        not isinstance(data, kind) or (kind is int and isinstance(data, bool))
    ):
        raise ValueError(f"expected {kind.__name__}, found {type(data).__name__}")
    return data
