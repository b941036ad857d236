"""The documents say what the code does: made parts are up to date, and examples run."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from docs import make_docs
from saif_core.finding.learning import learn
from saif_core.finding.study import Study
from saif_core.inputs.instruction_files import load_instruction
from saif_core.inputs.prompt_pairs import make_pairs
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.prompts import PromptPair
from saif_core.records.ranking import RankingRequest
from saif_core.records.steering import Arm
from saif_core.registry import EVALUATORS, REGISTRIES, SELECTORS, TARGET_RULES, use_plugins
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.tensors import Tensors
from tests import tiny

ROOT = Path(__file__).parent.parent
_EXAMPLE = re.compile(r"^`(saif_core/[\w/.-]+)`\n\n```(?:python|yaml)\n(.*?)^```", re.M | re.DOTALL)


@pytest.mark.parametrize("name", make_docs.DOCUMENTS)
def test_made_parts_are_up_to_date(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "<!-- made:" in text
    assert make_docs.filled(text) == text, "run `make docs`"


def test_every_file_and_plugin_is_in_the_documents() -> None:
    rooms = make_docs.rooms()
    for path in (ROOT / "saif_core").rglob("*.py"):
        if path.name != "__init__.py":
            assert f"`{path.relative_to(ROOT)}`" in rooms
    for registry in REGISTRIES:
        assert all(f"| `{name}` |" in make_docs.plugins() for name in registry.names())


def test_every_file_says_what_it_is_for() -> None:
    untold = [row for row in make_docs.rooms().splitlines() if row.endswith("|  |")]
    assert untold == []


@pytest.fixture
def examples(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The examples of docs/extending.md by file name, taken up as plug-ins."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = {Path(place): code for place, code in _EXAMPLE.findall(text)}
    for place, code in found.items():
        if place.suffix == ".py":
            own = tmp_path / place.parent.name / place.name
            own.parent.mkdir(exist_ok=True)
            own.write_text(code, encoding="utf-8")
    use_plugins([tmp_path])
    yield {place.stem: code for place, code in found.items()}
    use_plugins([])


def test_the_examples_of_extending_run(
    examples: dict[str, str], endless_model: LoadedModel, tiny_sae: LoadedSae
) -> None:
    model, sae = endless_model, tiny_sae
    instruction = load_instruction(examples["add-a-greeting"], source="add-a-greeting.yaml")
    pairs = make_pairs(instruction, tiny.contents(4))
    request = RankingRequest(
        sae.id, instruction.name, pairs, read="last-token", judged_by=instruction
    )
    tensors = Tensors()
    study = Study(model, [sae], request, tensors=tensors)
    assert len(study.ranking(sae.layer, "log_odds", prior=1.0).latents) > 0
    learned = learn(study, "median_difference", {"scale": 2.0}, method="share_of_norm")
    written = ArmBuilder(model, {sae.id: sae}, tensors).write(Arm("x", edits=learned.edits))
    resid = torch.randn(1, 3, model.d_model, generator=torch.Generator().manual_seed(0))
    added = written.steering[0].delta(resid)
    expected = 0.3 * resid.norm(dim=-1)
    assert np.allclose(added.norm(dim=-1), expected, rtol=1e-4)
    judge = EVALUATORS.bind(instruction.evaluator, instruction.evaluator_parameters)
    assert judge(PromptPair("", ""), "Hello, bread.").grade == "strict"
    greeted = TARGET_RULES.bind(instruction.target_rule, {})("Bread is baked.")
    assert judge(PromptPair("", ""), greeted).grade == "strict"
    assert set(examples) == {
        "log_odds",
        "median_difference",
        "share_of_norm",
        "opening",
        "greeted",
        "add-a-greeting",
    }
    assert SELECTORS.get("log_odds").parameters[0].help.startswith("firings added")
