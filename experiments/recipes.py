"""The recipes that SAIF ships: for each instruction, the setting with the best useful rate.

    python -m experiments.recipes --only answer-in-json bullet-list

Every way to steer is learned from contents that are for learning, its setting is chosen on one half
of the shipped contents, and told is what came of it on the other half. Texts are kept in the cache
under SAIF_HOME, so a run that was stopped goes on where it was; every evaluation also appears on
the dashboard.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from app.installation import opened_store
from app.settings import be_courteous, load_settings
from saif_core.inputs.shipped import (
    SHIPPED_RECIPES,
    learning_contents,
    recipe_file,
    shipped_contents,
    shipped_instructions,
)
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import (
    Candidate,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
)
from saif_core.records.recipes import Measured, Recipe
from saif_core.records.steering import Arm, Sampling

# What most people would reach for first stands first.
INSTRUCTIONS = (
    "answer-in-json",
    "bullet-list",
    "as-a-question",
    "translate-to-french",
    "all-capitals",
    "no-commas",
    "translate-to-spanish",
    "translate-to-german",
    "all-lowercase",
    "refuse",
    "include-keyword",
    "summarize",
    "translate-to-chinese",
)
LAYER = 14
N_LEARN = 160
STRENGTHS = (0.85, 1.0, 1.5)
GATED = Candidate("gated_latents")
CANDIDATES = (GATED, replace(GATED, prompted=True), Candidate("saif"))


def request_for(name: str, n_test: int, layer: int = LAYER) -> EvaluationRequest:
    """What is measured for an instruction: English wordings, as the contents are English."""
    instruction, contents = shipped_instructions()[name], shipped_contents()
    wordings = tuple(one.text for one in instruction.wordings if one.language == "en")
    return EvaluationRequest(
        instruction,
        (f"{DEFAULT_MODEL}/layer{layer}",),
        learning_contents()[:N_LEARN],
        wordings[:1],
        tuple(contents[-n_test:]),
        wordings[:1],
        candidates=CANDIDATES,
        controls=("random", "cue-token"),
        strengths=STRENGTHS,
        sampling=Sampling(temperature=0.5, max_new_tokens=48),
    )


def recipe_of(evaluation: Evaluation, texts: Sequence[EvaluationText]) -> Recipe:
    """The setting of an evaluation that did best, with what it was compared with.

    Arms that are prompted as well are compared with, not chosen: a recipe steers by itself.
    """
    from saif_core.evaluating.rates import merit, paired_p, rates_of

    told = {one.arm for one in evaluation.request.candidates if one.prompted}
    alone = [
        one
        for one in evaluation.best
        if evaluation.cells[one.cell].setting.steered_arm and one.arm not in told
    ]
    best = max(alone, key=lambda one: merit(evaluation.cells[one.cell].choosing))
    setting = evaluation.cells[best.cell].setting
    made = evaluation.made_for(setting)
    assert made is not None

    def reported(cell: int) -> list[EvaluationText]:
        return [text for text in texts if text.cell == cell][1::2]

    def beside(cell: int) -> Measured:
        half = reported(cell)
        return Measured(rates_of(half), paired_p(reported(best.cell), half))

    others = {one.arm: one.cell for one in evaluation.best if one.arm != best.arm}
    for number, cell in enumerate(evaluation.cells):
        of_it = replace(setting, arm=cell.setting.arm, of=setting.arm)
        if cell.setting.of and cell.setting == of_it:
            others[cell.setting.arm] = number
        if cell.setting == CellSetting("unsteered"):
            others["unsteered"] = number
    request = evaluation.request
    sae_ids = dict(zip(request.sae_ids, evaluation.sae_sha256s, strict=True))
    return Recipe(
        request.instruction.name,
        Arm(
            "steered",
            edits=made.edits,
            strength=setting.strength or 0.0,
            schedule=request.schedule,
            origin=made.origin,
        ),
        request.sampling,
        evaluation.model,
        evaluation.model_sha256,
        {id_: sha for id_, sha in sae_ids.items() if any(e.sae_id == id_ for e in made.edits)},
        Measured(rates_of(reported(best.cell))),
        {arm: beside(cell) for arm, cell in others.items()},
    )


def main() -> None:
    """Measure, and write the recipes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(INSTRUCTIONS), help="instructions")
    parser.add_argument("--n-test", type=int, default=200, help="contents; half choose, half tell")
    parser.add_argument("--layer", type=int, default=LAYER)
    parser.add_argument("--out", type=Path, default=SHIPPED_RECIPES)
    options = parser.parse_args()
    be_courteous()  # before torch is loaded
    from saif_core.catalog import Catalog
    from saif_core.evaluating.evaluation import evaluate
    from saif_core.steering.tensors import Tensors

    settings = load_settings()
    options.out.mkdir(parents=True, exist_ok=True)
    with opened_store(settings) as store:
        catalog = Catalog(settings.home)
        model = catalog.load_model(DEFAULT_MODEL, device=settings.device, dtype=settings.dtype)
        for name in options.only:
            request = request_for(name, options.n_test, options.layer)
            saes = [catalog.load_sae(sae_id, model) for sae_id in request.sae_ids]
            tensors, tell = Tensors(store.tensors), _Teller(name)
            evaluation, texts = evaluate(
                model, saes, request, cache=store.cache, tensors=tensors, step=tell
            )
            store.evaluations.save(evaluation, texts)
            recipe = recipe_of(evaluation, texts)
            _write(recipe, tensors.payloads(recipe.arm.edits), options.out)
            _print(recipe, evaluation)


class _Teller:
    """Tells how far an evaluation is, twice a minute."""

    def __init__(self, name: str) -> None:
        self._name, self._said = name, time.monotonic()

    def __call__(self, done: int, total: int, message: str) -> None:
        if time.monotonic() - self._said > 30:
            self._said = time.monotonic()
            _say(f"{self._name}: {message}, {done}/{total}")


def _write(recipe: Recipe, payloads: dict[str, bytes], folder: Path) -> None:
    for sha256, payload in payloads.items():
        (folder / recipe_file(sha256)).write_bytes(payload)
    text = json.dumps(to_json(recipe), ensure_ascii=False, indent=1)
    (folder / f"{recipe.instruction}.json").write_text(text + "\n", encoding="utf-8")


def _print(recipe: Recipe, evaluation: Evaluation) -> None:
    rows = {f"{recipe.arm.origin and recipe.arm.origin.source} (chosen)": recipe.measured}
    for arm, one in {**rows, **recipe.beside}.items():
        r = one.rates
        _say(
            f"{recipe.instruction:22} {arm:28} useful {r.primary:.2f} "
            f"[{r.primary_ci[0]:.2f}-{r.primary_ci[1]:.2f}] strict {r.strict:.2f} "
            f"disorder {r.disorder:.2f} n {r.n} p {'' if one.p is None else f'{one.p:.3g}'} "
            f"{evaluation.content_measure}"
        )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
