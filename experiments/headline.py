"""The headline experiment: what steering is worth, instruction by instruction, by a frozen plan.

    python -m experiments.headline --stage main wider repeat [--only answer-in-json ...]

`headline_plan.json` says what is compared, on which contents, how settings are chosen and what was
claimed beforehand; the page of results names its hash. Settings are chosen on one set of contents
and reported on another. Texts are kept in the cache under SAIF_HOME, so a run that was stopped goes
on where it was. What is reported is kept under SAIF_HOME/headline, a file for every instruction and
stage, from which `experiments.headline_report` makes the page.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saif_core.catalog import Catalog
    from saif_core.models.loaded_model import LoadedModel
    from saif_core.records.evaluation import Evaluation, EvaluationRequest, EvaluationText, Rates
    from saif_core.saes.loaded_sae import LoadedSae
    from storage import Store

    Measure = Callable[[EvaluationRequest], tuple[Evaluation, list[EvaluationText]]]

PLAN = Path(__file__).with_name("headline_plan.json")
STAGES = ("main", "wider", "repeat")
UNSTEERED, PROMPTED = "unsteered", "prompted"


@dataclass(frozen=True)
class Chosen:
    """An arm with the setting that did best on the choosing contents.

    Attributes:
        arm: the arm's entry in the plan; of a baseline its name alone.
        strength: None where nothing is steered.
        choosing: its rates there; None for baselines.
    """

    arm: dict[str, Any]
    strength: float | None = None
    choosing: "Rates | None" = None

    @property
    def name(self) -> str:
        """As tables show it."""
        return str(self.arm["name"])


def read_plan() -> tuple[dict[str, Any], str]:
    """The plan, and the hash of its file."""
    data = PLAN.read_bytes()
    plan: dict[str, Any] = json.loads(data)
    return plan, hashlib.sha256(data).hexdigest()


class Headline:
    """The plan for one instruction.

    Args:
        measure: carries out a request.

    Attributes:
        wording: what is said to prompted arms.
    """

    def __init__(self, plan: dict[str, Any], name: str, measure: "Measure") -> None:
        from saif_core.inputs.shipped import shipped_contents, shipped_instructions

        self._plan, self._measure = plan, measure
        self._instruction = shipped_instructions()[name]
        contents = shipped_contents()
        self._choosing = contents[slice(*plan["choose"]["contents"])]
        self._reporting = contents[slice(*plan["report"]["contents"])]
        self.wording = self._choose_wording()

    def chosen(self, arms: Sequence[dict[str, Any]]) -> list[Chosen]:
        """Arms of the plan, each with the setting that did best on the choosing contents."""
        return [self._choose(arm) for arm in arms]

    def baselines(self) -> list[Chosen]:
        """What nothing is chosen of."""
        return [Chosen({"name": name}) for name in (UNSTEERED, PROMPTED)]

    def choosing(self, arm: dict[str, Any]) -> tuple["Evaluation", list["EvaluationText"]]:
        """An arm at all of its strengths, on the choosing contents."""
        return self._measure(
            self._request(Chosen(arm), self._choosing, arm["strengths"], 0, self.wording)
        )

    def report(
        self, one: Chosen, seed: int = 0, controls: Sequence[str] | None = None
    ) -> tuple["Evaluation", list["EvaluationText"]]:
        """An arm, with controls beside it, on the reported contents.

        Args:
            controls: None takes those of the plan.
        """
        strengths = () if one.strength is None else (one.strength,)
        request = self._request(one, self._reporting, strengths, seed, self.wording)
        if controls is None:
            controls = () if seed else self._plan["controls"].get(one.name, ())
        return self._measure(replace(request, controls=tuple(controls)))

    def run(self, stage: str) -> Iterator[dict[str, Any]]:
        """The reported texts of a stage, as they are kept."""
        plan = self._plan
        if stage == "wider":
            if self._instruction.name in plan["wider"]["instructions"]:
                for one in self.chosen(plan["wider"]["arms"]):
                    yield from self._rows(one, 0)
            return
        for one in [*self.baselines(), *self.chosen(plan["arms"])]:
            if stage == "main":
                yield from self._rows(one, 0)
            elif one.name in plan["repeat"]["arms"]:
                for seed in plan["repeat"]["seeds"]:
                    yield from self._rows(one, seed)

    def _choose_wording(self) -> str:
        """The wording that prompting does best with."""
        from saif_core.evaluating.rates import merit, rates_of

        english = [w.text for w in self._instruction.wordings if w.language == "en"]
        tried = english[: self._plan["n_wordings"]]
        texts = {
            wording: self._measure(
                self._request(Chosen({"name": PROMPTED}), self._choosing, (), 0, wording)
            )[1]
            for wording in tried
        }
        return max(tried, key=lambda wording: merit(rates_of(texts[wording])))

    def _choose(self, arm: dict[str, Any]) -> Chosen:
        from saif_core.evaluating.rates import merit

        best = max(self.choosing(arm)[0].cells, key=lambda cell: merit(cell.rates))
        return Chosen(arm, best.setting.strength, best.rates)

    def _rows(self, one: Chosen, seed: int) -> Iterator[dict[str, Any]]:
        evaluation, texts = self.report(one, seed)
        for text in texts:
            setting = evaluation.cells[text.cell].setting
            yield {
                "instruction": self._instruction.name,
                "arm": f"{one.name}: {setting.arm}" if setting.of else one.name,
                "strength": one.strength,
                "wording": self.wording if self._told(one) else "",
                "seed": seed,
                "measure": evaluation.content_measure,
                "content": text.content,
                "text": text.text,
                "grade": text.grade,
                "outcome": text.outcome,
                "about": text.about,
                "perplexity": text.perplexity,
            }

    def _told(self, one: Chosen) -> bool:
        return one.name == PROMPTED or bool(one.arm.get("prompted"))

    def _request(
        self,
        one: Chosen,
        contents: Sequence[str],
        strengths: Sequence[float],
        seed: int,
        wording: str,
    ) -> "EvaluationRequest":
        from saif_core.inputs.shipped import learning_contents
        from saif_core.records.evaluation import Candidate, EvaluationRequest
        from saif_core.records.steering import Sampling, Schedule

        plan, arm = self._plan, one.arm
        grid = {name: (value,) for name, value in arm.get("parameters", {}).items()}
        steered = Candidate(arm.get("source", ""), grid, prompted=bool(arm.get("prompted", False)))
        english = [w.text for w in self._instruction.wordings if w.language == "en"]
        every = tuple(w.text for w in self._instruction.wordings)
        learned_with = (wording,) if steered.prompted else tuple(english[:1])
        layer = arm.get("layer", plan["layer"])
        return EvaluationRequest(
            self._instruction,
            (f"{plan['model']}/layer{layer}",),
            tuple(learning_contents()[: plan["learn"]["contents"]]),
            every if arm.get("every_wording") else learned_with,
            tuple(contents),
            (wording,),
            baselines=() if strengths else (one.name,),  # type: ignore[arg-type]
            candidates=(steered,) if strengths else (),
            controls=(),
            strengths=tuple(strengths),
            read=arm.get("read", "response"),
            schedule=Schedule(**arm.get("schedule", {})),
            sampling=Sampling(**plan["sampling"], seed=seed),
        )


def folder_of(home: Path) -> Path:
    """Where the reported texts are kept."""
    folder = home / "headline"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Measuring:
    """Carries out requests on one model, and keeps their evaluations.

    Attributes:
        model: what is measured.
        saes: by id, those that a request has named so far.
        tensors: where what was learned is found.
    """

    def __init__(self, model: "LoadedModel", catalog: "Catalog", store: "Store") -> None:
        from saif_core.steering.tensors import Tensors

        self.model, self._catalog, self._store = model, catalog, store
        self.saes: dict[str, LoadedSae] = {}
        self.tensors = Tensors(store.tensors)

    def __call__(self, request: "EvaluationRequest") -> tuple["Evaluation", list["EvaluationText"]]:
        """What came of a request."""
        from saif_core.evaluating.evaluation import evaluate

        for sae_id in request.sae_ids:
            if sae_id not in self.saes:
                self.saes[sae_id] = self._catalog.load_sae(sae_id, self.model)
        evaluation, texts = evaluate(
            self.model,
            [self.saes[sae_id] for sae_id in request.sae_ids],
            request,
            cache=self._store.cache,
            tensors=self.tensors,
        )
        self._store.evaluations.save(evaluation, texts)
        return evaluation, texts


@contextmanager
def measuring(plan: dict[str, Any]) -> Iterator[Measuring]:
    """What carries out requests on the model of the plan."""
    os.environ["SAIF_DTYPE"] = plan["dtype"]
    from app.installation import opened_store
    from app.settings import be_courteous, load_settings

    be_courteous()  # before torch is loaded
    from saif_core.catalog import Catalog

    settings = load_settings()
    with opened_store(settings) as store:
        catalog = Catalog(settings.home)
        model = catalog.load_model(plan["model"], device=settings.device, dtype=settings.dtype)
        yield Measuring(model, catalog, store)


def main() -> None:
    """Run stages of the plan."""
    plan, sha256 = read_plan()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=plan["instructions"], help="instructions")
    parser.add_argument("--stage", nargs="*", default=STAGES, choices=STAGES)
    options = parser.parse_args()
    with measuring(plan) as measure:
        from app.settings import load_settings

        folder = folder_of(load_settings().home)
        for stage in options.stage:
            for name in options.only:
                file = folder / f"{sha256[:12]}.{name}.{stage}.jsonl"
                if file.exists():
                    continue
                started = time.monotonic()
                rows = list(Headline(plan, name, measure).run(stage))
                lines = [json.dumps(row, ensure_ascii=False) for row in rows]
                file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
                _tell(name, stage, rows, time.monotonic() - started)


def _tell(name: str, stage: str, rows: Sequence[dict[str, Any]], seconds: float) -> None:
    from experiments.headline_report import rates

    sys.stdout.write(f"{name} {stage} {seconds:.0f} s\n")
    for (arm, seed), r in rates(rows).items():
        sys.stdout.write(
            f"  {arm:40} {seed} useful {r.primary:.2f} strict {r.strict:.2f} "
            f"disorder {r.disorder:.2f} n {r.n}\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
