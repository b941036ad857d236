"""Shipped recipes: whole and measured, and taken by every door."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from scipy import stats
from streamlit.testing.v1 import AppTest

from app.dashboard.compare.open_session import RUN
from app.dashboard.handles import engine, store
from app.presentation.escaping import escape_markdown
from app.presentation.recipes import MEASURED, recipe_sentence, recipe_words, usable_recipe
from app.settings import load_settings
from experiments.headline import Chosen
from experiments.recipes import choose, is_worth_shipping, recipe_of
from saif_core.catalog import Catalog
from saif_core.evaluating.evaluation import evaluate
from saif_core.evaluating.rates import rates_of
from saif_core.inputs import shipped
from saif_core.inputs.shipped import (
    SHIPPED_RECIPES,
    recipe_tensors,
    shipped_contents,
    shipped_instructions,
    shipped_recipe,
)
from saif_core.judging.judgements import judge_text, pair_for
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.as_json import from_json, to_json
from saif_core.records.evaluation import (
    Candidate,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
)
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent
from saif_core.records.recipes import Measured, Recipe
from saif_core.records.steering import Arm, Edit, Origin, Sampling
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.tensors import Tensors
from saif_core.writing.decoder import RowRequest, decode
from tests import tiny
from tests.cli import Run
from tests.pages import MAIN, errors, settle, texts, wait_for
from tests.test_evaluation_files import rates

HOME = load_settings().home
FILES = sorted(SHIPPED_RECIPES.glob("*.json"))
NAME = "as-a-question"


@pytest.fixture
def planted(
    tmp_path: Path, tiny_model_dir: Path, tiny_sae_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Recipe]:
    """A recipe for the tiny model: a vector and a latent, as another installation ships it."""
    payload = save({"vector": 4 * tiny.plant_direction()})
    sha256 = hashlib.sha256(payload).hexdigest()
    latents = (ChosenLatent(tiny.PLANTED_LATENT, 9.0),)
    edits = (Edit(0, tensors=sha256), Edit(1, sae_id=str(tiny_sae_dir), latents=latents))
    asks = [EvaluationText(0, "a", f"Is {n} so?", "strict", "", "success", 3.0) for n in range(4)]
    rates = rates_of(asks)
    recipe = Recipe(
        NAME,
        Arm("steered", edits=edits, strength=2.0, origin=Origin("saif")),
        Sampling(max_new_tokens=7, temperature=0.25),
        str(tiny_model_dir),
        "0" * 64,
        {},
        Measured(rates),
        {"prompted": Measured(replace(rates, useful=0.25, useful_ci=(0.05, 0.7)), 0.5)},
    )
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / f"{NAME}.json").write_text(json.dumps(to_json(recipe)), encoding="utf-8")
    (folder / shipped.recipe_file(sha256)).write_bytes(payload)
    monkeypatch.setattr(shipped, "SHIPPED_RECIPES", folder)
    shipped._shipped_recipes.cache_clear()
    yield recipe
    shipped._shipped_recipes.cache_clear()


def test_a_recipe_says_what_steers_and_what_was_measured(planted: Recipe) -> None:
    assert recipe_words(planted) == "Saif, 1 latent of layers 0 and 1 at strength 2"
    assert recipe_sentence(planted) == (
        "Saif, 1 latent of layers 0 and 1 at strength 2. Measured on 4 contents: useful 100% "
        "[51–100], prompting 25% [5–70]."
    )


def test_a_recipe_is_used_for_its_own_instruction_model_and_saes(planted: Recipe) -> None:
    instruction, sae = shipped_instructions()[NAME], planted.arm.edits[1].sae_id
    assert usable_recipe(instruction, planted.model, [sae]) == planted
    assert usable_recipe(instruction, planted.model, []) is None
    assert usable_recipe(instruction, "another", [sae]) is None
    assert usable_recipe(None, planted.model, [sae]) is None
    # A person's own instruction of that name may ask for something else.
    own = replace(instruction, wordings=(Wording("Ask."),))
    assert usable_recipe(own, planted.model, [sae]) is None
    other = shipped_instructions()["refuse"]
    assert usable_recipe(other, planted.model, [sae]) is None


def test_the_terminal_takes_the_recipe_and_says_so(saif: Run, planted: Recipe) -> None:
    prompt = ("generate", "--prompt", "The cat", "--instruction", NAME, "--max-new-tokens", 4)
    found = saif(*prompt, "--arm", "prompted", "--json").answer
    assert from_json(Recipe, found["measured"]) == planted
    by_name = {arm["name"]: arm for arm in found["recipe"]["request"]["arms"]}
    assert list(by_name) == ["unsteered", "steered", "prompted"]
    edits = tuple(from_json(Edit, edit) for edit in by_name["steered"]["edits"])
    assert edits == planted.arm.edits
    assert by_name["steered"]["strength"] == 2.0
    half = saif(*prompt, "--strength", 0.5, "--scope", "all", "--json").answer
    (steered,) = (a for a in half["recipe"]["request"]["arms"] if a["name"] == "steered")
    assert (steered["strength"], steered["schedule"]["scope"]) == (1.0, "all")
    assert saif(*prompt).out.startswith(recipe_sentence(planted))


@pytest.mark.usefixtures("planted")
def test_whoever_names_a_source_gets_that(saif: Run) -> None:
    prompt = ("generate", "--prompt", "The cat", "--instruction", NAME, "--max-new-tokens", 4)
    latents = ("--latents", f"{tiny.PLANTED_LATENT}:9")
    found = saif(*prompt, *latents, "--json").answer
    assert "measured" not in found
    (steered,) = (a for a in found["recipe"]["request"]["arms"] if a["name"] == "steered")
    (edit,) = steered["edits"]
    assert not edit["tensors"]


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(
    "said",
    [("--layer", 1), ("--read", "last-token"), ("--selector", "correlation"), ("--keep-norm",)],
)
def test_whoever_says_where_or_how_gets_that(saif: Run, said: tuple[object, ...]) -> None:
    prompt = ("generate", "--prompt", "The cat", "--instruction", NAME, "--max-new-tokens", 4)
    found = saif(*prompt, *said, "--json").answer
    assert "measured" not in found
    (steered,) = (a for a in found["recipe"]["request"]["arms"] if a["name"] == "steered")
    assert steered["origin"]["source"] == "saif"


def start() -> AppTest:
    at = settle(AppTest.from_file(str(MAIN), default_timeout=60).run())
    for job in engine().jobs():
        wait_for(job)
    return settle(at.run())


@pytest.mark.usefixtures("tiny_process")
def test_the_first_page_steers_with_the_recipe_in_two_presses(planted: Recipe) -> None:
    at = start()
    assert not [one for one in at.button if one.key == "start_recipe_use"]
    settle(at.pills(key="start_shipped").set_value(NAME).run())
    page = texts(at)
    assert escape_markdown(recipe_sentence(planted)) in page
    primary = [one.key for one in at.button if one.proto.type == "primary"]
    assert primary == ["start_recipe_use"]
    settle(at.button(key="start_recipe_use").click().run())
    assert "What does it do to the text?" in texts(at)
    job = engine().job(at.session_state[RUN])
    assert job is not None
    wait_for(job)
    settle(at.run())
    assert [arm.name for arm in job.request.arms] == ["unsteered", MEASURED, "prompted", "random"]
    assert job.request.arms[1].edits == planted.arm.edits
    assert job.request.sampling == replace(planted.sampling, samples=3)
    assert job.request.instruction == NAME
    assert at.session_state["work"].sae_id == planted.arm.edits[1].sae_id
    assert store().tensors.has(planted.arm.edits[0].tensors)
    assert f"**{MEASURED}**" in texts(at)
    assert not errors(at)


CONTENTS = tuple(tiny.contents(12, seed=4))


def evaluated(model: LoadedModel, sae: LoadedSae) -> tuple[Evaluation, list[EvaluationText]]:
    arguments = {"instruction_id": "keywords:existence", "arguments": '{"keywords": ["oui"]}'}
    request = EvaluationRequest(
        Instruction("planted", "", "ifeval", arguments, (Wording(tiny.PLANTED_WORD),)),
        (sae.id,),
        rank_contents=CONTENTS[:4],
        rank_wordings=(tiny.PLANTED_WORD,),
        test_contents=CONTENTS[4:],
        test_wordings=(tiny.PLANTED_WORD,),
        baselines=(),
        candidates=(Candidate("saif"),),
        controls=("random", "cue-token"),
        strengths=(1.0,),
        read="last-token",
        sampling=Sampling(max_new_tokens=3),
    )
    return evaluate(model, [sae], request, tensors=Tensors())


def test_a_recipe_has_what_came_of_it_and_of_others_on_the_same_contents(
    model: LoadedModel, sae: LoadedSae
) -> None:
    evaluation, found = evaluated(model, sae)
    own, control = ([t for t in found if t.cell == n] for n in (0, 1))
    others = {"prompted": [replace(text, grade="none") for text in own]}
    recipe = recipe_of(evaluation, found, others, "Say so.")
    assert recipe.arm.strength == 1.0
    assert recipe.arm.edits == evaluation.made[0].edits
    assert recipe.measured.rates == rates_of(own)
    assert list(recipe.beside) == ["prompted", "random", "cue-token"]
    assert recipe.beside["random"].rates == rates_of(control)
    assert recipe.beside["random"].p == evaluation.cells[0].p_random
    assert recipe.beside["prompted"].rates.useful == 0
    assert recipe.wording == "Say so."
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe)))) == recipe


class Chooses:
    """Stands for the headline experiment: arms with the useful rates that they were chosen by."""

    def __init__(self, useful: Mapping[str, float]) -> None:
        self._useful = useful

    def chosen(self, arms: Sequence[Mapping[str, Any]]) -> list[Chosen]:
        found = {arm["name"]: rates(self._useful[arm["name"]], disorder=0.3) for arm in arms}
        return [Chosen(dict(arm), 1.0, found[arm["name"]]) for arm in arms]


def test_a_recipe_is_the_arm_that_did_best_by_itself() -> None:
    arms = [{"name": "a"}, {"name": "b"}, {"name": "c", "prompted": True}]
    headline: Any = Chooses({"a": 0.2, "b": 0.6, "c": 0.9})
    assert choose(headline, arms).name == "b"
    # Disorder in other texts does not make useful ones worse.
    calm = Chosen({"name": "d"}, 1.0, rates(0.1, disorder=0.0))
    headline.chosen = lambda _: [*Chooses({"b": 0.6}).chosen([{"name": "b"}]), calm]
    assert choose(headline, arms).name == "b"


def test_recipes_are_shipped() -> None:
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_recipe_is_whole(file: Path) -> None:
    recipe = shipped_recipe(file.stem, DEFAULT_MODEL)
    assert recipe is not None
    assert recipe.instruction == file.stem
    assert file.stem in shipped_instructions()
    for sha256, payload in recipe_tensors(recipe).items():
        assert hashlib.sha256(payload).hexdigest() == sha256
        assert len(payload) < 1_000_000
    assert recipe.measured.rates.useful is not None
    assert {"unsteered", "prompted", "random", "cue-token"} <= set(recipe.beside)
    assert is_worth_shipping(recipe)
    by_chance = replace(recipe.beside["random"], p=0.02)
    assert not is_worth_shipping(replace(recipe, beside={"random": by_chance}))
    # What is shipped is better than chance and than doing nothing.
    for arm in ("unsteered", "random"):
        assert recipe.measured.rates.useful > (recipe.beside[arm].rates.useful or 0)
    used = {path.name for path in SHIPPED_RECIPES.glob("*.safetensors")}
    assert {shipped.recipe_file(sha256) for sha256 in recipe_tensors(recipe)} <= used


def test_no_tensors_are_shipped_for_nothing() -> None:
    recipes = [shipped_recipe(file.stem, DEFAULT_MODEL) for file in FILES]
    wanted = {shipped.recipe_file(one) for r in recipes if r for one in recipe_tensors(r)}
    assert {path.name for path in SHIPPED_RECIPES.glob("*.safetensors")} == wanted


@pytest.mark.slow
def test_shipped_recipes_steer_as_they_were_measured() -> None:
    recipes = [shipped_recipe(file.stem, DEFAULT_MODEL) for file in FILES]
    model = Catalog(HOME).load_model(DEFAULT_MODEL, device="cpu", dtype="float32")
    saes: dict[str, LoadedSae] = {}
    tensors = Tensors()
    rows: list[RowRequest] = []
    # Contents that had no part in anything, each with draws of its own as they were measured.
    contents = shipped_contents()[:10]
    for recipe in recipes:
        assert recipe is not None
        assert model.sha256 == recipe.model_sha256
        for sae_id, sha256 in recipe.sae_sha256s.items():
            saes.setdefault(sae_id, Catalog(HOME).load_sae(sae_id, model))
            assert saes[sae_id].sha256 == sha256
        for payload in recipe_tensors(recipe).values():
            tensors.put(torch_load(payload))
        builder, sampling = ArmBuilder(model, saes, tensors), recipe.sampling
        rows += [
            RowRequest(
                builder.prompt(recipe.arm, content, sampling),
                sampling.max_new_tokens,
                temperature=sampling.temperature,
                seed=sampling.seed,
                sample=number,
                steering=builder.write(recipe.arm).steering,
            )
            for number, content in enumerate(contents)
        ]
    written = iter(decode(model, rows))
    for recipe in recipes:
        assert recipe is not None
        instruction = shipped_instructions()[recipe.instruction]
        grades = [
            judge_text(
                instruction,
                pair_for(content, instruction.wordings[0].text, "after"),
                model.decode(row.token_ids),
            ).grade
            for content, row in zip(contents, written, strict=False)
        ]
        # So few texts may be fewer by chance, but hardly ever by so much.
        least = stats.binom.ppf(0.001, len(contents), recipe.measured.rates.strict)
        assert grades.count("strict") >= least, recipe.instruction


def torch_load(payload: bytes) -> dict[str, Any]:
    from safetensors.torch import load

    found: dict[str, torch.Tensor] = load(payload)
    return found
