"""Every record survives JSON unchanged, and what is not a record is refused."""

import dataclasses
import inspect
import json
import pkgutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, MaxLen, MinLen

from saif_core import records
from saif_core.records.as_json import Record, from_json, json_schema, new_id, to_json, utc_now
from saif_core.records.corpus import CorpusBlock, LatentProfile, ProfileExample
from saif_core.records.evaluation import (
    MOST_CANDIDATES,
    MOST_VALUES,
    Candidate,
    CellSetting,
    Evaluation,
    EvaluationRequest,
)
from saif_core.records.jobs import JobRecord
from saif_core.records.latents import LatentDetail
from saif_core.records.prompts import Wording
from saif_core.records.questions import (
    LatentOnTextsQuestion,
    LatentQuestion,
    PromptQuestion,
    TokenChangeQuestion,
    VectorQuestion,
)
from saif_core.records.ranking import ChosenLatent, LatentScore, Ranking, RankingRequest
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SteeringSession
from saif_core.records.steering import (
    MAX_NEW_TOKENS,
    MAX_SAMPLES,
    MAX_STRENGTH,
    Arm,
    Edit,
    GenerationRequest,
    Sampling,
    Schedule,
    SteeringRecipe,
)
from saif_core.records.texts import GenerationResult, Judgement

EVERY_KIND = [
    kind
    for name in sorted(module.name for module in pkgutil.iter_modules(records.__path__))
    for _, kind in inspect.getmembers(import_module(f"saif_core.records.{name}"), inspect.isclass)
    if is_dataclass(kind) and kind.__module__ == f"saif_core.records.{name}"
]
ODD_TEXT = "Übersetze – 漢字 🙂 \u202e \x00 </script> '; DROP TABLE"


def parts_of(kind: Any) -> Iterator[Any]:
    """A type and every type that is named in it."""
    yield kind
    for part in typing.get_args(kind):
        yield from parts_of(part)
    if is_dataclass(kind):
        for hint in typing.get_type_hints(kind).values():
            yield from parts_of(hint)


# Records of arrays are packed rather than written as JSON.
KINDS = [kind for kind in EVERY_KIND if np.ndarray not in parts_of(kind)]


def sample(kind: Any, *, full: bool) -> Any:
    """A value of a record or field type that differs from every default.

    ``full`` fills optional fields and gives tuples two items; otherwise None and as few as may be.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return within(args[0], list(constraints_of(args[1:])), full=full)
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
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
        key = "a key" if args[0] is str else 12
        return {key: sample(args[1], full=full)}
    if origin is dict:
        return {"depth": {"list": [1, 2.5, None, "x"]}, "ß": True} if full else {}
    return {str: ODD_TEXT, int: -3, float: 0.1 + 0.2, bool: True, Any: [1, None, "x"]}[kind]


def constraints_of(metadata: Iterable[Any]) -> Iterator[BaseMetadata]:
    for one in metadata:
        yield from one if isinstance(one, GroupedMetadata) else (one,)


def within(kind: Any, constraints: list[BaseMetadata], *, full: bool) -> Any:
    """A value of the type that keeps to the constraints."""
    value = sample(kind, full=full)
    for one in constraints:
        if isinstance(one, Ge):
            value = value if value >= one.ge else one.ge + 2
        elif isinstance(one, MinLen) and isinstance(value, tuple):
            item = sample(typing.get_args(kind)[0], full=full)
            value = value if len(value) >= one.min_length else (item,) * one.min_length
        elif isinstance(one, Gt):
            assert value > one.gt
        elif isinstance(one, Le):
            assert value <= one.le
        else:
            assert isinstance(one, MinLen | MaxLen)
    return value


def through_json(record: Any) -> Any:
    return from_json(type(record), json.loads(json.dumps(to_json(record))))


def test_the_records_are_found() -> None:
    assert {Ranking, SteeringSession, JobRecord, ChosenLatent, Evaluation, LatentQuestion} <= set(
        KINDS
    )
    assert set(EVERY_KIND) - set(KINDS) == {CorpusBlock, LatentProfile, ProfileExample}


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.__name__)
def test_every_record_derives_from_record_and_says_what_it_is(kind: type[Any]) -> None:
    assert issubclass(kind, Record)
    assert not (kind.__doc__ or "").startswith(f"{kind.__name__}(")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_record_has_a_schema_for_those_who_send_one(kind: type[Any]) -> None:
    schema = json_schema(kind)
    assert set(schema["properties"]) == {f.name for f in fields(kind)}
    assert schema["additionalProperties"] is False


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
        setattr(record, next((f.name for f in fields(kind)), "anything"), None)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_unknown_keys_are_refused(kind: type[Any]) -> None:
    data = to_json(sample(kind, full=True))
    with pytest.raises(ValueError, match=f"not a {kind.__name__}: the field zeal is unknown"):
        from_json(kind, {**data, "zeal": 1})


def test_unknown_keys_inside_are_refused() -> None:
    data = to_json(sample(SteeringSession, full=True))
    data["ranking"]["latents"][1]["weight"] = 1.0
    with pytest.raises(ValueError, match=r"field ranking\.latents\.1\.weight is unknown"):
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


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_lacks_are_refused_when_they_are_read(number: str) -> None:
    text = json.dumps(to_json(sample(SteeringSession, full=True)))
    data = json.loads(text.replace(str(0.1 + 0.2), number, 1))
    with pytest.raises(ValueError, match="JSON"):
        from_json(SteeringSession, data)


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
        (CellSetting, {"layers": [1.5]}),
        (EvaluationRequest, {"controls": ["none"]}),
        (Arm, {"edits": [{"layer": "1"}]}),
        (GenerationResult, {"sizes": [1.0]}),
    ],
)
def test_values_of_the_wrong_type_are_refused(kind: type[Any], change: dict[str, Any]) -> None:
    data = to_json(sample(kind, full=True))
    assert from_json(kind, data) == sample(kind, full=True)
    (name,) = change
    with pytest.raises(ValueError, match=rf"not a {kind.__name__}: (the field )?{name}[.:]"):
        from_json(kind, {**data, **change})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Schedule, {"first": 0}),
        (Schedule, {"decay": -0.1}),
        (Schedule, {"decay_power": 5.1}),
        (Sampling, {"max_new_tokens": 0}),
        (Sampling, {"max_new_tokens": MAX_NEW_TOKENS + 1}),
        (Sampling, {"temperature": -1}),
        (Sampling, {"top_p": 0}),
        (Sampling, {"top_p": 1.01}),
        (Sampling, {"stop": [""]}),
        (Sampling, {"stop": ["x"] * 9}),
        (Sampling, {"seed": -1}),
        (Sampling, {"samples": MAX_SAMPLES + 1}),
        (Sampling, {"system": "x" * 20_001}),
        (Edit, {"layer": -1}),
        (Edit, {"share": MAX_STRENGTH + 1}),
        (Arm, {"strength": -MAX_STRENGTH - 1}),
        (Arm, {"strength": 10**400}),
        (Arm, {"seed": -1}),
        (RankingRequest, {"top": 0}),
        (RankingRequest, {"response_tokens": 257}),
        (EvaluationRequest, {"strengths": [1.0, MAX_STRENGTH + 1]}),
        (EvaluationRequest, {"strengths": [1.0] * (MOST_VALUES + 1)}),
        (EvaluationRequest, {"candidates": [to_json(Candidate("saif"))] * (MOST_CANDIDATES + 1)}),
        (EvaluationRequest, {"layers": [-1]}),
        (LatentQuestion, {"latent": -1}),
        (PromptQuestion, {"text": "x" * 100_001}),
        (LatentOnTextsQuestion, {"texts": []}),
        (TokenChangeQuestion, {"contexts": [[-1]]}),
        (VectorQuestion, {"atoms": 65}),
    ],
)
def test_values_out_of_their_range_are_refused_with_the_name_of_the_field(
    kind: type[Any], change: dict[str, Any]
) -> None:
    data = to_json(sample(kind, full=True))
    (name,) = change
    with pytest.raises(ValueError, match=rf"not a {kind.__name__}: {name}[.:]") as raised:
        from_json(kind, {**data, **change})
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_field_deep_inside_is_named_by_its_path() -> None:
    data = to_json(sample(SteeringSession, full=True))
    data["recipe"]["request"]["arms"][1]["edits"][0]["share"] = 1e9
    with pytest.raises(ValueError, match=r"recipe\.request\.arms\.1\.edits\.0\.share: .*100"):
        from_json(SteeringSession, data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="not a Wording: the whole: input should be an object"):
        from_json(Wording, data)


def test_whole_numbers_become_floats_where_a_float_belongs() -> None:
    latent = from_json(ChosenLatent, {"index": 7, "coefficient": 3})
    assert type(latent.coefficient) is float


def test_names_of_fields_that_are_not_text_are_refused() -> None:
    with pytest.raises(ValueError, match="the field 1 is unknown"):
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
    first = Edit(layer=0)
    first.method_parameters["x"] = 1
    assert Edit(layer=0).method_parameters == {}


def test_a_setting_is_found_by_what_it_is() -> None:
    one = CellSetting("saif", "", (1,), {"top": 5, "beta": 0.5}, 1.0)
    same = CellSetting("saif", "", (1,), {"beta": 0.5, "top": 5}, 1.0)
    other = replace(one, parameters={"top": 6, "beta": 0.5})
    assert {one: "found"}[same] == "found"
    assert other not in {one}
    assert len({one, same, other, replace(one, strength=2.0), replace(one, of="x")}) == 4


def test_half_a_surrogate_pair_is_replaced_when_it_is_read() -> None:
    found = from_json(Wording, {"text": "a \ud83d b \ud83d\ude00 \x00"})
    assert found.text == "a \ufffd b \U0001f600 \x00"


def test_records_import_nothing_heavy() -> None:
    code = (
        "import sys; from saif_core.records import evaluation, older, sessions; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "sqlalchemy", "streamlit"} & set(done.stdout.split())
