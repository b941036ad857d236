"""Records to JSON-ready data and back; ids and times, which are made with a record.

Every record is a frozen dataclass of plain values that derives from ``Record``. Reading checks it
whole: types, choices and ranges, and that no field is unknown.
"""

import json
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from saif_core.characters import encodable_text

R = TypeVar("R")
# Making one takes milliseconds, so each is made once, when it is first needed.
_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


class Record:
    """What every record derives from, so that reading one refuses what does not belong in it."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)


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
    """The record that ``to_json`` turned into data; unknown fields are refused.

    Half a surrogate pair, which no encoding knows, becomes "�".

    Raises:
        ValueError: the data does not fit the record; the message names the field.
    """
    try:
        text = encodable_text(json.dumps(data, allow_nan=False, ensure_ascii=False))
        found: R = _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(f"This is not a {kind.__name__}: {_reason(error)}.") from error
    except TypeError as error:
        raise ValueError(f"This is not a {kind.__name__}: {error}.") from error
    return found


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema of a record, for those who send one from elsewhere."""
    return _adapter(kind).json_schema()


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, with its field."""
    found = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in found["loc"]) or "the whole"
    if found["type"] == "unexpected_keyword_argument":
        return f"the field {field} is unknown"
    if found["type"] in ("missing", "missing_argument"):
        return f"the field {field} is missing"
    said = found["msg"]
    return f"{field}: {said[:1].lower()}{said[1:]}"
