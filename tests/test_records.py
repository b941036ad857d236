"""Every record survives JSON unchanged, and what is not a record is refused."""

import dataclasses
import inspect
import json
import pkgutil
import subprocess
import sys
import types
import typing
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Any, Literal

import pytest

from saif_core import records
from saif_core.records.as_json import from_json, new_id, to_json, utc_now
from saif_core.records.jobs import JobRecord
from saif_core.records.prompts import Wording
from saif_core.records.ranking import ChosenLatent, LatentDetail, LatentScore, Ranking
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SteeringSession
from saif_core.records.steering import GenerationRequest, SteeringRecipe
from saif_core.records.texts import Judgement

KINDS = [
    kind
    for name in sorted(module.name for module in pkgutil.iter_modules(records.__path__))
    for _, kind in inspect.getmembers(import_module(f"saif_core.records.{name}"), inspect.isclass)
    if is_dataclass(kind)
    and kind.__module__ == f"saif_core.records.{name}"
    # These hold arrays, and are packed rather than written as JSON.
    and name not in ("corpus", "packing")
]
ODD_TEXT = "Übersetze – 漢字 🙂 \u202e \x00 </script> '; DROP TABLE"


def sample(kind: Any, *, full: bool) -> Any:
    """A value of a record or field type that differs from every default.

    ``full`` fills optional fields and gives tuples two items; otherwise None and none.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast(Any, kind)(
            **{f.name: sample(hints[f.name], full=full) for f in fields(kind)}
        )
    if origin in (typing.Union, types.UnionType):
        return sample(args[0], full=full) if full else None
    if origin is Literal:
        return args[-1]
    if origin is tuple:
        if args[1:] == (...,):
            return (sample(args[0], full=full),) * (2 if full else 0)
        return tuple(sample(arg, full=full) for arg in args)
    if origin is dict and args[1] is not Any:
        return {"a key": sample(args[1], full=full)}
    if origin is dict:
        return {"depth": {"list": [1, 2.5, None, "x"]}, "ß": True} if full else {}
    return {str: ODD_TEXT, int: -3, float: 0.1 + 0.2, bool: True}[kind]


def through_json(record: Any) -> Any:
    return from_json(type(record), json.loads(json.dumps(to_json(record))))


def test_the_records_are_found() -> None:
    assert {Ranking, SteeringSession, JobRecord, ChosenLatent} <= set(KINDS)


@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_survives_json(kind: type[Any], full: bool) -> None:
    record = sample(kind, full=full)
    again = through_json(record)
    assert again == record
    assert type(again) is kind
    assert to_json(again) == to_json(record)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_defaults_fill_what_older_data_lacks(kind: type[Any]) -> None:
    needed = {
        f.name
        for f in fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    data = to_json(sample(kind, full=True))
    record = from_json(kind, {name: data[name] for name in needed})
    assert {name: to_json(record)[name] for name in needed} == {n: data[n] for n in needed}
    for name in needed:
        with pytest.raises(ValueError, match=f"not a {kind.__name__}.*{name}"):
            from_json(kind, {other: data[other] for other in needed - {name}})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_records_cannot_be_changed(kind: type[Any]) -> None:
    record = sample(kind, full=True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, fields(kind)[0].name, None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_unknown_keys_are_refused(kind: type[Any]) -> None:
    data = to_json(sample(kind, full=True))
    with pytest.raises(ValueError, match="unknown fields colour, zeal"):
        from_json(kind, {**data, "zeal": 1, "colour": 2})


def test_unknown_keys_inside_are_refused() -> None:
    data = to_json(sample(SteeringSession, full=True))
    data["ranking"]["latents"][1]["weight"] = 1.0
    with pytest.raises(ValueError, match="unknown fields weight"):
        from_json(SteeringSession, data)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    latent = replace(sample(LatentScore, full=True), std=number)
    session = replace(
        sample(SteeringSession, full=True),
        ranking=replace(sample(Ranking, full=True), latents=(latent,)),
    )
    job = replace(sample(JobRecord, full=True), result={"rates": [0.5, number]})
    for record in (latent, session, job):
        with pytest.raises(ValueError, match="JSON"):
            to_json(record)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (ChosenLatent, {"index": "7"}),
        (ChosenLatent, {"index": 7.0}),
        (ChosenLatent, {"index": True}),
        (ChosenLatent, {"coefficient": "strong"}),
        (ChosenLatent, {"coefficient": True}),
        (ChosenLatent, {"coefficient": None}),
        (Wording, {"text": 3}),
        (Wording, {"text": None}),
        (Ranking, {"cached": 1}),
        (Ranking, {"read": "everywhere"}),
        (Ranking, {"latents": {}}),
        (Ranking, {"latents": [3]}),
        (Ranking, {"selector_parameters": [1]}),
        (GenerationRequest, {"prompts": "one text"}),
        (GenerationRequest, {"prompts": ["a", 1]}),
        (LatentDetail, {"promoted": [["a", 1.0, 2.0]]}),
        (LatentDetail, {"promoted": [["a"]]}),
        (LatentDetail, {"neighbours": [[1.5, 1.0]]}),
        (Judgement, {"grade": "excellent"}),
        (Judgement, {"grade": ["strict"]}),
        (JobRecord, {"state": "asleep"}),
        (SteeringSession, {"recipe": "none"}),
    ],
)
def test_values_of_the_wrong_type_are_refused(kind: type[Any], change: dict[str, Any]) -> None:
    data = to_json(sample(kind, full=True))
    assert from_json(kind, data) == sample(kind, full=True)
    with pytest.raises(ValueError, match=r".+"):
        from_json(kind, {**data, **change})


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="expected an object"):
        from_json(Wording, data)


def test_whole_numbers_become_floats_where_a_float_belongs() -> None:
    latent = from_json(ChosenLatent, {"index": 7, "coefficient": 3})
    assert type(latent.coefficient) is float


def test_names_of_fields_that_are_not_text_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown fields 1"):
        from_json(Wording, typing.cast(Any, {1: "x", "text": "y"}))


def test_json_data_is_a_copy() -> None:
    recipe = replace(sample(SteeringRecipe, full=True), versions={"torch": "2"})
    to_json(recipe)["versions"]["torch"] = "3"
    assert recipe.versions == {"torch": "2"}
    data = to_json(recipe)
    again = from_json(SteeringRecipe, data)
    data["versions"]["torch"] = "3"
    assert again.versions == {"torch": "2"}


def test_ids_and_times_are_made_with_the_record() -> None:
    one, two = SteeringSession("one"), SteeringSession("one")
    assert one.id != two.id
    assert len({new_id() for _ in range(100)}) == 100
    age = datetime.now(UTC) - datetime.fromisoformat(one.created_at)
    assert 0 <= age.total_seconds() < 5
    assert datetime.fromisoformat(utc_now()).utcoffset() is not None
    assert one.schema_version == SESSION_SCHEMA_VERSION


def test_mutable_defaults_are_not_shared() -> None:
    one = JobRecord("1", "rank", "t")
    assert one.result is None
    first = GenerationRequest("sae", (), ())
    first.method_parameters["x"] = 1
    assert GenerationRequest("sae", (), ()).method_parameters == {}


def test_records_import_nothing_heavy() -> None:
    code = "import sys, saif_core.records, saif_core.errors; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "sqlalchemy", "streamlit"} & set(done.stdout.split())
