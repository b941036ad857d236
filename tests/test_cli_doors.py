"""Commands beside the records that they send: no field without an option, no bound of their own."""

from dataclasses import fields
from typing import Any

import pytest
import typer

from app.cli.arm_specs import parse_arm
from app.cli.main import COMMANDS, GROUPS, app
from app.cli.options import record_options
from saif_core.parameters import Parameter, record_parameters
from saif_core.records.as_json import Record
from saif_core.records.corpus import LatentFilter
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import Arm, Edit, GenerationRequest, Sampling, Schedule

# Options of a field that has another name, or several; and the reason of a field that has none.
SAMPLING = tuple(field.name for field in fields(Sampling))
SCHEDULE = tuple(field.name for field in fields(Schedule))
OPTIONS: dict[type[Record], dict[str, tuple[str, ...]]] = {
    GenerationRequest: {
        "prompts": ("prompt",),
        "arms": ("arm", "source", "latents", "vector", "strength", *SCHEDULE),
        "histories": ("history",),
        "sampling": SAMPLING,
    },
    EvaluationRequest: {
        "sae_ids": ("sae", "layers"),
        "rank_contents": ("contents", "rank_contents"),
        "test_contents": ("contents", "n"),
        "rank_wordings": ("instruction",),
        "test_wordings": ("instruction",),
        "layers": ("further_layers",),
        "baselines": ("baseline",),
        "candidates": ("source", "source_parameter", "method", "method_parameter"),
        "controls": ("control",),
        "selector_parameters": ("selector_parameter",),
        "schedule": SCHEDULE,
        "sampling": tuple(name for name in SAMPLING if name != "samples"),
    },
    RankingRequest: {
        "sae_id": ("sae", "layer"),
        "selector_parameters": ("selector_parameter",),
        "judged_by": ("instruction",),
    },
    Edit: {
        "layer": ("layers", "further_layers"),
        "method_parameters": ("method_parameter",),
        "sae_id": ("sae",),
        "tensors": ("vector",),
    },
    LatentFilter: {"text": ("words",)},
}
WITHOUT: dict[tuple[str, type[Record]], dict[str, str]] = {
    ("generate", Edit): {
        "share": "layers that are written after together share the strength",
        "schedule": "a source that learns for certain tokens says which; Schedule has options",
    },
    ("search words", LatentFilter): {"latents": "a latent that is known is `saif latent`'s"},
}
DOORS: list[tuple[str, type[Record]]] = [
    ("generate", GenerationRequest),
    ("generate", Sampling),
    ("generate", Schedule),
    ("generate", Edit),
    ("evaluate", EvaluationRequest),
    ("evaluate", Schedule),
    ("rank", RankingRequest),
    ("search words", LatentFilter),
]


def command_of(name: str) -> Any:
    found: Any = typer.main.get_command(app)
    for part in name.split():
        found = found.commands[part]
    return found


def options_of(name: str) -> dict[str, Any]:
    """The parameters of a command, by name."""
    return {parameter.name: parameter for parameter in command_of(name).params}


@pytest.mark.parametrize(("command", "record"), DOORS)
def test_every_field_of_a_record_has_an_option(command: str, record: type[Record]) -> None:
    given = options_of(command)
    reasons = WITHOUT.get((command, record), {})
    names = [field.name for field in fields(record)]  # type: ignore[arg-type]
    assert set(reasons) <= set(names)
    for name in names:
        if name not in reasons:
            for option in OPTIONS.get(record, {}).get(name, (name,)):
                assert option in given, f"{record.__name__}.{name} has no option --{option}"


def drawn(record: type[Record]) -> list[Parameter]:
    return list(record_parameters(record))


@pytest.mark.parametrize(
    ("command", "record", "default", "without"),
    [
        ("generate", Sampling, GenerationRequest.sampling, ()),
        ("generate", Schedule, Arm.schedule, ()),
        ("evaluate", Sampling, EvaluationRequest.sampling, ("samples",)),
        ("evaluate", Schedule, EvaluationRequest.schedule, ()),
    ],
)
def test_options_have_the_help_and_the_defaults_of_the_record(
    command: str, record: type[Record], default: Record, without: tuple[str, ...]
) -> None:
    given = options_of(command)
    for parameter in drawn(record):
        if parameter.name in without:
            assert parameter.name not in given
            continue
        option = given[parameter.name]
        assert option.default == getattr(default, parameter.name)
        begin = parameter.help.replace("``", "").rstrip(".")
        assert option.help[1:].startswith(begin[1:])
        assert option.opts[0] == "--" + parameter.name.replace("_", "-")


@pytest.mark.parametrize(
    ("command", "names", "record"),
    [
        ("rank", ("read", "response_tokens", "top", "chat"), RankingRequest),
        ("generate", ("strength",), Arm),
        ("generate", ("keep_norm",), Edit),
        ("generate", ("divergence",), GenerationRequest),
        ("evaluate", ("together", "position", "controls_of", "keep_norm"), EvaluationRequest),
    ],
)
def test_single_options_have_the_defaults_of_the_record(
    command: str, names: tuple[str, ...], record: type[Record]
) -> None:
    given = options_of(command)
    for name in names:
        assert given[name].default == getattr(record, name)


def test_arms_in_a_terminal_have_every_field_of_an_arm() -> None:
    """What is not typed is made: edits and their origin by the source, the kind by the name."""
    keys = {key for spec in ("prompted", "random", "saif") for key in parse_arm(spec).keys}
    made = {"kind", "edits", "origin", "schedule"}
    assert {field.name for field in fields(Arm)} - made <= keys
    assert set(SCHEDULE) <= keys
    assert {"method", "keep_norm", "layers"} <= keys


def test_a_record_with_a_new_field_gets_an_option() -> None:
    found = [name for name, _, _ in record_options(Sampling)]
    assert found == list(SAMPLING)


@pytest.mark.parametrize("name", [*COMMANDS, *GROUPS])
def test_every_command_answers_as_json_and_says_what_it_does(name: str) -> None:
    command = command_of(name)
    for one in getattr(command, "commands", {name: command}).values():
        assert "as_json" in {parameter.name for parameter in one.params}
        assert one.help
        assert all(parameter.help for parameter in one.params), one.name


def test_command_functions_are_short() -> None:
    """Options are grouped: no command takes two dozen arguments."""
    for command in COMMANDS.values():
        assert command.__code__.co_argcount <= 16
