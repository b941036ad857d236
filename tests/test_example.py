"""The finished example of the first page: whole, and what the default model writes today."""

from pathlib import Path

import pytest

from app.cli.example import EXAMPLE_ID, make_example
from app.cli.replay import compare
from app.cli.requests import opened, settings_for
from app.presentation.recipes import MEASURED
from app.presentation.session_files import import_session
from app.settings import load_settings
from saif_core.inputs.shipped import EXAMPLE, shipped_example, shipped_instructions
from saif_core.judging.judgements import judge_generations
from storage import open_store

# Read before a fixture gives every test a home of its own: the model is not fetched again.
HOME = load_settings().home


def test_the_shipped_example_is_a_session_that_can_be_imported(tmp_path: Path) -> None:
    example = shipped_example()
    assert example is not None
    assert example.id == EXAMPLE_ID
    tensors = open_store(f"sqlite:///{tmp_path}/saif.db").tensors
    again = import_session(EXAMPLE.read_bytes(), filename=EXAMPLE.name, tensors=tensors)
    assert example.request is not None
    (edit,) = example.request.steered[0].edits
    assert tensors.has(edit.tensors)
    assert again.result == example.result
    assert again.ranking == example.ranking
    assert EXAMPLE.stat().st_size < 300_000


def test_the_example_steers_where_nothing_and_chance_do_not() -> None:
    example = shipped_example()
    assert example is not None
    assert example.result is not None
    assert example.instruction == shipped_instructions()["answer-in-json"]
    arms = example.result.request.arms
    judged = judge_generations(example.instruction, arms, example.result.generations)
    grades: dict[str, list[str | None]] = {arm.name: [] for arm in arms}
    for text, judgement in zip(example.result.generations, judged, strict=True):
        grades[text.arm].append(judgement.grade)
    assert grades[MEASURED] == ["strict"] * 3
    assert grades["unsteered"] == grades["random"] == ["none"] * 3
    assert "strict" not in grades["prompted"]


@pytest.mark.slow
def test_the_default_model_writes_the_same_tokens_again(
    monkeypatch: pytest.MonkeyPatch, saif_home: Path
) -> None:
    saif_home.mkdir(parents=True)
    (saif_home / "models").symlink_to(HOME / "models")
    monkeypatch.setenv("SAIF_DTYPE", "float32")
    with opened(settings_for("smollm2-135m-instruct")) as here:
        made = make_example(here)
    example = shipped_example()
    assert example is not None
    assert example.result is not None
    assert made.result is not None
    told = compare(example.result, made.result)
    assert told["equal"], [one for one in told["texts"] if not one["equal"]]
    assert example.ranking is not None
    assert made.ranking is not None
    kept = [latent.index for latent in example.ranking.latents]
    assert [latent.index for latent in made.ranking.latents] == kept
