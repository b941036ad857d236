"""The recipes that SAIF ships: for each instruction, the setting with the best useful rate.

    python -m experiments.recipes --only answer-in-json bullet-list

They come from the headline experiment, see `experiments/headline.py`: of its arms that steer
without the instruction in the prompt, the one most often useful on the choosing contents, with what
came of it on the reported ones. Instructions that the plan leaves out are measured alike.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.headline import Chosen, Headline, measuring, read_plan
from saif_core.evaluating.rates import merit, paired_p, rates_of
from saif_core.inputs.shipped import SHIPPED_RECIPES, recipe_file, shipped_instructions
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import Evaluation, EvaluationText
from saif_core.records.recipes import Measured, Recipe
from saif_core.records.steering import Arm

CONTROLS = ("random", "cue-token")
SIGNIFICANT = 0.01


def choose(headline: Headline, arms: Sequence[dict[str, Any]]) -> Chosen:
    """The arm that a recipe is made of: prompted ones are compared with, not chosen."""
    alone = [arm for arm in arms if not arm.get("prompted")]

    def by(one: Chosen) -> tuple[float, ...]:
        assert one.choosing is not None
        # A useful text is in no disorder, so how much of that there is beside it comes last.
        return merit(one.choosing)[1:]

    return max(headline.chosen(alone), key=by)


def recipe_of(
    evaluation: Evaluation,
    texts: Sequence[EvaluationText],
    others: Mapping[str, Sequence[EvaluationText]],
    wording: str,
) -> Recipe:
    """What an evaluation of one arm steered with, and what came of it beside others.

    Args:
        evaluation: of the arm at one strength, and of its controls.
        others: texts of further arms on the same contents, by the name that is shown.
        wording: what the prompted ones of these were told.
    """
    (number,) = (n for n, cell in enumerate(evaluation.cells) if _steers(evaluation, n))
    setting = evaluation.cells[number].setting
    made = evaluation.made_for(setting)
    assert made is not None
    of_cell = {n: [text for text in texts if text.cell == n] for n in range(len(evaluation.cells))}
    own = of_cell[number]
    beside = {evaluation.cells[n].setting.arm: some for n, some in of_cell.items() if n != number}
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
        Measured(rates_of(own)),
        {
            name: Measured(rates_of(some), paired_p(own, some))
            for name, some in {**others, **beside}.items()
        },
        wording,
    )


def is_worth_shipping(recipe: Recipe) -> bool:
    """Whether it is useful above as much in a random direction, at p < .01."""
    random = recipe.beside["random"]
    above = recipe.measured.rates.primary > random.rates.primary
    return above and random.p is not None and random.p < SIGNIFICANT


def main() -> None:
    """Measure, and write the recipes."""
    plan, _ = read_plan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=list(shipped_instructions()), help="instructions"
    )
    parser.add_argument("--out", type=Path, default=SHIPPED_RECIPES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with measuring(plan) as measure:
        for name in options.only:
            headline = Headline(plan, name, measure)
            best = choose(headline, plan["arms"])
            others = {
                one.name: headline.report(one, controls=())[1]
                for one in [*headline.baselines(), *headline.chosen(plan["arms"])]
                if one.name != best.name
            }
            of_best = headline.report(best, controls=CONTROLS)
            recipe = recipe_of(*of_best, others, headline.wording)
            _print(recipe, best.name)
            if not is_worth_shipping(recipe):
                sys.stdout.write(f"{name}: no better than chance, so there is no recipe\n")
                continue
            _write(recipe, measure.tensors.payloads(recipe.arm.edits), options.out)


def _steers(evaluation: Evaluation, number: int) -> bool:
    setting = evaluation.cells[number].setting
    return setting.strength is not None and not setting.of


def _write(recipe: Recipe, payloads: Mapping[str, bytes], folder: Path) -> None:
    for sha256, payload in payloads.items():
        (folder / recipe_file(sha256)).write_bytes(payload)
    text = json.dumps(to_json(recipe), ensure_ascii=False, indent=1)
    (folder / f"{recipe.instruction}.json").write_text(f"{text}\n", encoding="utf-8")


def _print(recipe: Recipe, name: str) -> None:
    for arm, one in {f"{name} (chosen)": recipe.measured, **recipe.beside}.items():
        r = one.rates
        sys.stdout.write(
            f"{recipe.instruction:22} {arm:28} useful {r.primary:.2f} strict {r.strict:.2f} "
            f"disorder {r.disorder:.2f} n {r.n} p {'' if one.p is None else f'{one.p:.3g}'}\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
