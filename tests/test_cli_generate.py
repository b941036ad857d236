"""``saif generate``: arms, sources and vectors, and how they are written in a terminal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli.arm_specs import parse_arm
from saif_core.errors import SaifError, SteeringError
from saif_core.records.as_json import to_json
from saif_core.records.steering import Arm, Schedule
from tests import tiny
from tests.cli import Run

PROMPT = ("--prompt", "The cat", "--max-new-tokens", 4, "--json")
NAMED = f"{tiny.PLANTED_LATENT}:9"


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "planted.jsonl"
    rows = [{"content": c, "instruction": tiny.PLANTED_WORD} for c in tiny.contents(6)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def arms_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms of the request by name."""
    return {arm["name"]: arm for arm in found["recipe"]["request"]["arms"]}


def texts_of(found: dict[str, Any]) -> dict[str, str]:
    return {arm["name"]: arm["text"] for arm in found["arms"]}


def test_further_arms_stand_beside_the_steered_one(saif: Run, pairs_file: Path) -> None:
    specs = ("prompted", "random", "flipped:strength=2", "mean_difference", "saif:top=1,name=one")
    options = [word for spec in specs for word in ("--arm", spec)]

    found = saif(
        "generate", *PROMPT, "--pairs", pairs_file, "--read", "last-token", *options
    ).answer

    arms = arms_of(found)
    assert list(arms) == [
        *("unsteered", "steered", "prompted", "random", "flipped", "mean_difference", "one"),
    ]
    steered = arms["steered"]
    assert arms["prompted"]["instruction"] == tiny.PLANTED_WORD
    assert texts_of(found)["prompted"].split()[0] == tiny.PLANTED_ANSWER
    assert (arms["random"]["kind"], arms["random"]["edits"]) == ("random", steered["edits"])
    assert (arms["flipped"]["kind"], arms["flipped"]["strength"]) == ("flipped", 2.0)
    assert arms["mean_difference"]["origin"]["source"] == "mean_difference"
    assert len(arms["mean_difference"]["edits"][0]["tensors"]) == 64
    assert len(arms["one"]["edits"][0]["latents"]) == 1
    assert len(found["sizes"]) == len(arms)
    text = saif("generate", *PROMPT[:-1], "--pairs", pairs_file, "--read", "last-token", *options)
    assert text.status == 0
    assert "mean_difference:" in text.out
    assert "of the residual norm" in text.out


def test_controls_are_of_the_arm_that_is_named(saif: Run) -> None:
    found = saif(
        *("generate", *PROMPT, "--latents", NAMED, "--seed", 5),
        *("--arm", f"basket:latents=3:1,{NAMED},strength=0.5,name=two"),
        *("--arm", "flipped", "--arm", "flipped:of=two,name=against two"),
    ).answer

    arms = arms_of(found)
    assert arms["flipped"]["edits"] == arms["steered"]["edits"]
    against = arms["against two"]
    assert (against["edits"], against["strength"]) == (arms["two"]["edits"], 0.5)
    assert [latent["index"] for latent in against["edits"][0]["latents"]] == [3, 7]
    assert against["seed"] == 5


def test_a_method_and_its_arms_share_schedule_and_norm(saif: Run) -> None:
    found = saif(
        *("generate", *PROMPT, "--latents", NAMED, "--method", "clamp", "--strength", 1.5),
        *("--scope", "first", "--first", 2, "--decay", 0.5, "--decay-power", 2, "--keep-norm"),
        *("--arm", f"basket:latents={NAMED},scope=prompt-ends,prompt_last=9,name=other"),
    ).answer

    arms = arms_of(found)
    assert arms["steered"]["edits"][0]["method"] == "clamp"
    assert arms["steered"]["strength"] == 1.5
    assert arms["steered"]["schedule"] == to_json(Schedule("first", 2, decay=0.5, decay_power=2.0))
    assert arms["other"]["schedule"] == to_json(
        Schedule("prompt-ends", 2, prompt_last=9, decay=0.5, decay_power=2.0)
    )
    assert all(arms[name]["edits"][0]["keep_norm"] for name in ("steered", "other"))


def test_every_field_of_sampling_reaches_the_request(saif: Run) -> None:
    found = saif(
        *("generate", "--prompt", "The cat", "--latents", NAMED, "--json", "--system", "You are"),
        *("--max-new-tokens", 5, "--temperature", 0.5, "--top-p", 0.9, "--stop", "dog"),
        *("--stop", "house", "--seed", 4, "--samples", 2, "--divergence"),
    ).answer

    request = found["recipe"]["request"]
    assert request["sampling"] == {
        "chat": True,
        "system": "You are",
        "max_new_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["dog", "house"],
        "seed": 4,
        "samples": 2,
    }
    assert request["divergence"] is True
    assert len(found["arms"]) == 4
    assert found["arms"][0]["changes"]


def test_earlier_turns_are_given_to_every_arm(saif: Run, tmp_path: Path) -> None:
    turns = [{"role": "user", "text": "The dog"}, {"role": "assistant", "text": "sees"}]
    (tmp_path / "turns.json").write_text(json.dumps(turns), encoding="utf-8")
    (tmp_path / "bad.json").write_text('[{"role": "judge", "text": "x"}]', encoding="utf-8")
    asked = ("generate", *PROMPT, "--latents", NAMED, "--history")

    found = saif(*asked, tmp_path / "turns.json").answer

    assert found["recipe"]["request"]["histories"] == [turns, turns]
    assert "role" in saif(*asked, tmp_path / "bad.json").refusal


def test_a_vector_is_uploaded_and_can_be_written_after_a_block_without_an_sae(
    saif: Run, tmp_path: Path
) -> None:
    file = tmp_path / "plant.npy"
    np.save(file, 20.0 * tiny.plant_direction().numpy())

    found = saif("generate", *PROMPT, "--vector", file, "--further-layers", 0).answer

    steered = arms_of(found)["steered"]
    (edit,) = steered["edits"]
    assert (edit["layer"], edit["sae_id"], len(edit["tensors"])) == (0, "", 64)
    assert steered["origin"]["parameters"] == {"tensors": edit["tensors"]}
    assert texts_of(found)["steered"].split()[0] == tiny.PLANTED_ANSWER
    again = saif("generate", *PROMPT, "--source", "vector", "--source-parameter")
    assert "--source-parameter" in again.refusal
    by_hash = f"tensors={edit['tensors']}"
    again = saif("generate", *PROMPT, "--source", "vector", "--source-parameter", by_hash).answer
    assert arms_of(again)["steered"]["edits"][0]["layer"] == 1


def test_several_layers_share_the_strength(
    saif: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    pairs_file: Path,
    tiny_model_dir: Path,
    tiny_sae_dir: Path,
) -> None:
    below = tiny.save_sae(tmp_path / "below", tiny_model_dir, layer=0)
    monkeypatch.setenv("SAIF_SAES", f"{tiny_sae_dir},{below}")
    asked = ("generate", *PROMPT, "--pairs", pairs_file, "--read", "last-token")

    found = saif(*asked, "--layers", "0,1", "--arm", "saif:layers=0,name=low").answer

    arms = arms_of(found)
    assert [edit["layer"] for edit in arms["steered"]["edits"]] == [0, 1]
    assert [edit["share"] for edit in arms["steered"]["edits"]] == [0.5, 0.5]
    assert [edit["sae_id"] for edit in arms["low"]["edits"]] == [str(below)]
    both = saif(*asked, "--sae", tiny_sae_dir, "--sae", below).answer
    assert [edit["layer"] for edit in arms_of(both)["steered"]["edits"]] == [1, 0]
    assert "--layers 1" in saif(*asked, "--sae", below, "--layers", 1).refusal
    assert "layers 0, 1" in saif(*asked, "--layers", "0,5").refusal


def test_what_is_written_can_be_kept_as_a_session(saif: Run) -> None:
    found = saif("generate", *PROMPT, "--latents", NAMED, "--save", "Kept").answer

    shown = saif("session", "show", found["session"], "--json").answer
    assert shown["name"] == "Kept"
    assert shown["recipe"] == found["recipe"]


@pytest.mark.parametrize(
    ("text", "head", "texts"),
    [
        ("prompted", "prompted", {}),
        ("saif:top=5,method=clamp", "saif", {"top": "5", "method": "clamp"}),
        ("basket:latents=7:1,8:2,strength=2", "basket", {"latents": "7:1,8:2", "strength": "2"}),
        (
            "prompted:instruction=In French, please,position=before",
            "prompted",
            {"instruction": "In French, please", "position": "before"},
        ),
        ("mine:source.name=x,method.k=2", "mine", {"source.name": "x", "method.k": "2"}),
    ],
)
def test_arms_are_read(text: str, head: str, texts: dict[str, str]) -> None:
    spec = parse_arm(text)
    assert (spec.head, spec.texts) == (head, texts)


def test_values_of_an_arm_are_told_apart_from_those_of_its_source() -> None:
    spec = parse_arm("mine:strength=2,scope=all,top=5,source.strength=7,method=clamp,method.k=3")
    assert spec.fields_of(Arm) == {"strength": 2.0}
    assert spec.schedule(Schedule(decay=0.5)) == Schedule("all", decay=0.5)
    assert spec.source_parameters() == {"top": "5", "strength": "7"}
    assert spec.below("method.") == {"k": "3"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "NAME or NAME:KEY=VALUE"),
        ("saif:", "NAME or NAME:KEY=VALUE"),
        (":top=5", "NAME or NAME:KEY=VALUE"),
        ("saif:5", "not KEY=VALUE"),
        ("saif:Top=5", "not KEY=VALUE"),
        ("saif:top=5,top=6", "twice"),
        ("saif:other.top=5", "'other.top'"),
        ("random:top=5", "does not take; its keys are: name, of, strength"),
        ("prompted:strength=5", "does not take; its keys are: name, instruction"),
        ("unsteered", "always there"),
    ],
)
def test_what_is_no_arm_is_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(SteeringError, match="--arm") as refused:
        parse_arm(text)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["random:strength=much", "random:seed=-1", "saif:scope=here"])
def test_values_are_those_of_the_records(text: str) -> None:
    spec = parse_arm(text)
    with pytest.raises(SaifError, match="has to be"):
        spec.fields_of(Schedule if "scope" in text else Arm)


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        ("magic", "mean_difference"),
        ("saif:best=1", "has no parameter 'best'"),
        ("saif:top=0", "a whole number from 1 to 1000"),
        ("saif:top=many", "'many'"),
        ("saif:method.k=1", "but no method"),
        ("saif:method=clamp,method.k=1", "has no parameter 'k'"),
        ("saif:layers=9", "no SAE for layer 9"),
        ("prompted:name=steered", "same name"),
        ("flipped:of=none", "'none'"),
    ],
)
def test_arms_that_cannot_be_made_are_refused(
    saif: Run, pairs_file: Path, arm: str, says: str
) -> None:
    asked = ("generate", *PROMPT, "--pairs", pairs_file, "--read", "last-token")
    assert says in saif(*asked, "--arm", arm).refusal


def test_a_prompted_arm_needs_an_instruction(saif: Run) -> None:
    asked = ("generate", *PROMPT, "--latents", NAMED, "--arm")
    assert "prompted:instruction=TEXT" in saif(*asked, "prompted").refusal
    found = saif(*asked, f"prompted:instruction={tiny.PLANTED_WORD},position=before").answer
    assert arms_of(found)["prompted"]["position"] == "before"


def test_two_ways_to_name_what_steers_contradict_each_other(saif: Run, tmp_path: Path) -> None:
    file = tmp_path / "v.npy"
    np.save(file, tiny.plant_direction().numpy())
    asked = ("generate", *PROMPT, "--latents", NAMED)
    assert "give one of these" in saif(*asked, "--vector", file).refusal
    assert "give one of these" in saif(*asked, "--source", "saif").refusal
    only = saif("generate", *PROMPT, "--arm", f"basket:latents={NAMED}").answer
    assert list(arms_of(only)) == ["unsteered", "basket"]
