"""Everything that the engine can be asked, by name: records, JSON, and what is refused."""

import json
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from saif_core.catalog import Catalog
from saif_core.engine.engine import LOGGED_RESULTS, Engine
from saif_core.engine.tasks import TASKS, Task
from saif_core.errors import UnknownNameError
from saif_core.records.as_json import Record, from_json, json_schema, to_json
from saif_core.records.questions import (
    EstimateQuestion,
    LatentOnTextsQuestion,
    LatentQuestion,
    LearnRequest,
    ModelQuestion,
    PairQuestion,
    PromotedQuestion,
    PromptQuestion,
    SaeQuestion,
    SizeQuestion,
    SpeedQuestion,
    TextQuestion,
    TokenChangeQuestion,
    VectorQuestion,
)
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling
from tests import tiny

BY_NAME = {task.name: task for task in TASKS}


def id_of(task: Task) -> str:
    return task.name


@pytest.fixture(scope="module")
def engine(
    tiny_model_dir: Path, tiny_sae_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    opened = Engine(
        Catalog(tmp_path_factory.mktemp("home"), extra_saes=[str(tiny_sae_dir)]),
        model_id=str(tiny_model_dir),
        cache=tiny.MemoryCache(),
        device="cpu",
    )
    yield opened
    opened.close()


def needed(task: Task) -> list[str]:
    """Fields of a request that have no default."""
    return [
        field.name
        for field in fields(task.request)
        if field.default is MISSING and field.default_factory is MISSING
    ]


def test_names_and_requests_are_each_tasks_own() -> None:
    assert len(BY_NAME) == len(TASKS)
    assert len({task.request for task in TASKS}) == len(TASKS)
    assert set(LOGGED_RESULTS) <= set(BY_NAME)
    assert all(task.is_followed for task in TASKS if task.name in LOGGED_RESULTS)


@pytest.mark.parametrize("task", TASKS, ids=id_of)
def test_a_task_takes_a_record_and_answers_with_one(task: Task) -> None:
    for kind in (task.request, task.result):
        # Those of this package survive JSON, which test_records shows of each.
        assert issubclass(kind, Record)
        assert is_dataclass(kind)
        assert kind.__module__.startswith("saif_core.records.")
        schema = json_schema(kind)
        assert schema["type"] == "object"
        assert set(schema["properties"]) == {field.name for field in fields(kind)}
        assert schema["additionalProperties"] is False
        assert json.loads(json.dumps(schema)) == schema
        assert kind.__doc__


@pytest.mark.parametrize("task", TASKS, ids=id_of)
def test_a_field_that_is_missing_or_unknown_is_named(engine: Engine, task: Task) -> None:
    wrong = [*(f"the field {name} is missing" for name in needed(task)[:1])]
    for data, words in (({}, wrong), ({"zeal": 1}, wrong or ["the field zeal is unknown"])):
        if words:
            with pytest.raises(ValueError, match=f"not a {task.request.__name__}: {words[0]}"):
                engine.request_of(task.name, data)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("latent", {"sae_id": "s", "latent": -1}, "latent: "),
        ("latent", {"sae_id": "s", "latent": "7"}, "latent: "),
        ("latent", {"sae_id": "s", "latent": 7, "zeal": 1}, "zeal is unknown"),
        ("latent", {"sae_id": "s"}, "latent is missing"),
        ("generate", {"prompts": "one"}, "prompts: "),
        ("generate", {"prompts": ["a"], "sampling": {"top_p": 0}}, "sampling.top_p: "),
        ("generate", {"prompts": ["a"], "arms": [{"kind": "random"}]}, "arms.0.name is missing"),
        (
            "generate",
            {"prompts": ["a"], "arms": [{"name": "x", "kind": "guess"}]},
            "arms.0.kind: ",
        ),
        (
            "generate",
            {"prompts": ["a"], "arms": [{"name": "x", "strength": 1e9}]},
            "arms.0.strength: ",
        ),
        (
            "generate",
            {"prompts": ["a"], "arms": [{"name": "x", "edits": [{"layer": -1}]}]},
            "arms.0.edits.0.layer: ",
        ),
        ("read", {"sae_id": "s", "text": "x" * 100_001}, "text: "),
        ("promoted", {"sae_id": "s", "latents": [0, -1]}, "latents.1: "),
        ("vector", {"sae_id": "s", "atoms": 0}, "atoms: "),
        ("latent-on-texts", {"sae_id": "s", "latent": 1, "texts": []}, "texts: "),
    ],
)
def test_a_refusal_names_the_field_within(
    engine: Engine, name: str, data: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=f"{words}"):
        engine.request_of(name, data)


def test_numbers_that_are_no_numbers_are_refused(engine: Engine) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"not a GenerationRequest|JSON compliant"):
            engine.request_of("generate", {"prompts": ["a"], "sampling": {"temperature": value}})


def test_an_unknown_task_lists_the_known_ones(engine: Engine) -> None:
    with pytest.raises(UnknownNameError, match="no task called 'guess'") as caught:
        engine.request_of("guess", {})
    assert caught.value.known == sorted(BY_NAME)


def asked(sae_id: str) -> dict[str, Any]:
    """A request for every task that needs nothing but a model and an SAE."""
    ranking = RankingRequest(sae_id, "planted", tiny.planted_pairs(3), read="last-token")
    edit = Edit(1, sae_id=sae_id, latents=(ChosenLatent(7, 3.0),))
    steered = Arm("steered", edits=(edit,))
    return {
        "rank": ranking,
        "generate": GenerationRequest(("one",), (UNSTEERED, steered), Sampling(max_new_tokens=2)),
        "learn": LearnRequest(ranking, "saif", {"top": 2}),
        "vector": VectorQuestion(sae_id, ranking, atoms=2),
        "model": ModelQuestion(),
        "sae": SaeQuestion(sae_id),
        "latent": LatentQuestion(sae_id, 7),
        "pairs": PairQuestion(ranking, 7),
        "prompt": PromptQuestion("one two", system="three"),
        "estimate": EstimateQuestion(ranking),
        "size": SizeQuestion(steered),
        "speed": SpeedQuestion(),
        "promoted": PromotedQuestion(sae_id, (7, 3)),
        "read": TextQuestion(sae_id, "one PLANT two"),
        "latent-on-texts": LatentOnTextsQuestion(sae_id, 7, ("one PLANT", "two")),
        "token-change": TokenChangeQuestion(sae_id, 7, 2.0, ((5, 6, 7),)),
    }


@pytest.mark.parametrize("name", sorted(asked("s")))
def test_a_request_from_json_is_answered_with_what_survives_json(
    engine: Engine, tiny_sae_dir: Path, name: str
) -> None:
    request = asked(str(tiny_sae_dir))[name]
    data = json.loads(json.dumps(to_json(request)))
    received = engine.request_of(name, data)
    assert received == request
    assert engine.task_of(received) is BY_NAME[name]
    answer = engine.ask(received)
    assert type(answer) is BY_NAME[name].result
    assert from_json(type(answer), json.loads(json.dumps(to_json(answer)))) == answer


@pytest.mark.parametrize("name", sorted(asked("s")))
def test_a_value_of_another_kind_is_refused_by_its_field(engine: Engine, name: str) -> None:
    request = asked("s")[name]
    data = to_json(request)
    with pytest.raises(ValueError, match="the field zeal is unknown"):
        engine.request_of(name, {**data, "zeal": 1})
    for field, value in data.items():
        other: Any = {"no": 1} if not isinstance(value, dict) or field == "ranking" else [1]
        with pytest.raises(
            ValueError, match=rf"not a {type(request).__name__}: .*{field}"
        ) as caught:
            engine.request_of(name, {**data, field: other})
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", TASKS, ids=id_of)
def test_what_people_follow_is_listed_and_what_they_ask_is_not(task: Task) -> None:
    assert task.is_followed == (task.lane != "question" and task.name != "load")
