"""What holds of constant vectors on the default model: docs/results/constant_vectors.md.

`make findings` runs all of it. Texts are kept in the cache under SAIF_HOME, so a run that was
stopped goes on where it was, and every evaluation also appears on the dashboard.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from app.installation import opened_store
from app.settings import load_settings
from experiments.saif_report import write_report
from saif_core.catalog import Catalog
from saif_core.evaluating.evaluation import evaluate
from saif_core.inputs.shipped import shipped_contents, shipped_instructions
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import Candidate, EvaluationRequest
from saif_core.records.steering import ControlKind, Sampling, Schedule, SteeringScope
from saif_core.saes.logit_lens import promoted_tokens
from saif_core.steering.tensors import Tensors

INSTRUCTIONS = (
    "translate-to-french",
    "translate-to-german",
    "as-a-question",
    "answer-in-json",
    "translate-to-spanish",
    "translate-to-chinese",
    "bullet-list",
    "no-commas",
    "refuse",
)
# The two whose curves are drawn: one changes the language, the other the form.
CURVES = ("translate-to-french", "as-a-question")
# JSON and lists are decided by how a text begins; the others may be steered on.
FADING = tuple(name for name in INSTRUCTIONS if name not in ("answer-in-json", "bullet-list"))
N_RANK, N_TEST = 32, 100
LAYERS = (14, 22, 29)
# These need room to come to an end.
LONG = {"answer-in-json": 64, "bullet-list": 64}
CONTROLS: tuple[ControlKind, ...] = ("random", "flipped", "logit-bias")
SAIF, DENOISED = Candidate("saif"), Candidate("denoised", {"top": (30,)})


def request_for(name: str, layers: tuple[int, ...] = LAYERS, **changes: Any) -> EvaluationRequest:
    """The base request: sampled at temperature 0.5, as greedy texts of so small a model loop."""
    instruction, contents = shipped_instructions()[name], shipped_contents()
    wordings = tuple(wording.text for wording in instruction.wordings)
    base = EvaluationRequest(
        instruction,
        tuple(f"{DEFAULT_MODEL}/layer{layer}" for layer in layers),
        tuple(contents[:N_RANK]),
        wordings[::2],
        tuple(contents[-N_TEST:]),
        wordings[1::2],
        baselines=("unsteered",),
        candidates=(SAIF,),
        sampling=Sampling(temperature=0.5, max_new_tokens=LONG.get(name, 32)),
    )
    return replace(base, **changes)


def of_saif(**grid: tuple[float, ...]) -> Candidate:
    """SAIF with several values of its parameters."""
    return Candidate("saif", dict(grid))


def main_stages(name: str) -> Iterator[tuple[str, EvaluationRequest]]:
    """All arms with all controls, and SAIF as published."""
    yield (
        "main",
        request_for(
            name,
            baselines=("unsteered", "prompted"),
            candidates=(SAIF, DENOISED, Candidate("mean_difference")),
            controls=CONTROLS,
            strengths=(1.0, 1.5, 2.0, 2.5),
        ),
    )
    yield (
        "published",
        request_for(
            name,
            (29,),
            controls=CONTROLS,
            strengths=(0.5, 1.0, 1.5, 2.0),
            read="last-token",
        ),
    )


def prompting_stages(name: str) -> Iterator[tuple[str, EvaluationRequest]]:
    """Prompting with each wording alone: the best of them is what steering is compared with."""
    for number, wording in enumerate(shipped_instructions()[name].wordings):
        yield (
            f"prompting-{number}",
            request_for(
                name,
                (),
                baselines=("unsteered", "prompted"),
                candidates=(),
                controls=(),
                test_wordings=(wording.text,),
            ),
        )


def english_request(name: str) -> EvaluationRequest:
    """Ranked on English wordings alone, and two layers at once beside each alone.

    Answers to a French wording are French, so their latents would be among those of every
    instruction.
    """
    english = [w.text for w in shipped_instructions()[name].wordings if w.language == "en"]
    return request_for(
        name,
        (14, 22),
        candidates=(SAIF, DENOISED),
        strengths=(2.0, 3.0),
        together=True,
        rank_wordings=tuple(english[::2]),
    )


def schedule_stages(name: str) -> Iterator[tuple[str, EvaluationRequest]]:
    """Steered throughout, at the opening, or less and less, so that the model goes on by itself."""
    base = english_request(name)
    yield "constant", base
    yield "opening", replace(base, schedule=Schedule("first", first=6))
    if name in FADING:
        yield "fading", replace(base, schedule=Schedule(decay=0.2))


def search_stages(name: str) -> Iterator[tuple[str, EvaluationRequest]]:
    """What might do better than SAIF's own recipe, in the layers where that does well."""
    if name not in CURVES:
        return
    base = request_for(name, (14,), strengths=(1.0, 1.5, 2.0))
    yield "correlation", replace(base, selector="correlation")
    yield "output-score", replace(base, candidates=(of_saif(least_output_score=(0.01,)),))
    yield "keep-norm", replace(base, keep_norm=True)
    # The main stage and the schedules differ in their wordings too: fading with those of the main.
    mixed = request_for(name).rank_wordings
    fading = replace(english_request(name), schedule=Schedule(decay=0.2))
    yield "fading-mixed", replace(fading, rank_wordings=mixed)
    yield (
        "together",
        request_for(
            name,
            (14, 22),
            candidates=(DENOISED,),
            strengths=(1.5, 2.0, 2.5),
            together=True,
        ),
    )


def curve_stages(name: str) -> Iterator[tuple[str, EvaluationRequest]]:
    """The paper's curves, each beside the random control, at the strength that does well."""
    if name not in CURVES:
        return
    base = request_for(name, (14,), strengths=(1.5,), controls_of="all")
    tops = replace(base, candidates=(of_saif(top=(1, 2, 5, 10, 15, 20, 30)),))
    yield "k", tops
    yield "k-last-layer", replace(tops, sae_ids=(f"{DEFAULT_MODEL}/layer29",))
    yield "strength", replace(base, strengths=(0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0))
    if name != CURVES[0]:
        return
    yield "beta", replace(base, candidates=(of_saif(beta=(-1.0, -0.5, 0.0, 0.5, 1.0)),))
    few = replace(base, controls_of="best")
    every = request_for(name).sae_ids
    yield "before", replace(few, position="before", sae_ids=every)
    yield "last-token", replace(few, read="last-token", sae_ids=every)
    wordings = shipped_instructions()[name].wordings
    english = tuple(w.text for w in wordings if w.language == "en")
    yield "english-wordings", replace(few, rank_wordings=english[::2])
    yield (
        "other-wordings",
        replace(few, rank_wordings=tuple(w.text for w in wordings if w.language != "en")),
    )
    scopes: tuple[SteeringScope, ...] = ("last-token", "first", "prompt", "all")
    for scope in scopes:
        yield f"scope-{scope}", replace(few, schedule=Schedule(scope, first=5))
    others = (Candidate("saif", method="clamp"), Candidate("one_latent"))
    yield "clamp", replace(few, candidates=others, controls=())
    greedy = replace(few.sampling, temperature=0.0)
    prompted = replace(few, baselines=("unsteered", "prompted"))
    yield "greedy", replace(prompted, sampling=greedy, strengths=(1.0, 1.5, 2.0))


STAGES = {
    "main": main_stages,
    "prompting": prompting_stages,
    "schedules": schedule_stages,
    "search": search_stages,
    "curves": curve_stages,
}


def main() -> None:
    """Run the stages that were asked for, keep each evaluation, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", type=Path, default=Path("docs/results/constant_vectors.md"))
    parser.add_argument("--instructions", default=",".join(INSTRUCTIONS))
    parser.add_argument("--stages", default=",".join(STAGES))
    arguments = parser.parse_args()
    settings = load_settings()
    catalog = Catalog(settings.home)
    model = catalog.load_model(DEFAULT_MODEL, device=settings.device, dtype=settings.dtype)
    saes = {
        f"{DEFAULT_MODEL}/layer{layer}": catalog.load_sae(f"{DEFAULT_MODEL}/layer{layer}", model)
        for layer in LAYERS
    }
    folder = settings.home / "findings"
    folder.mkdir(parents=True, exist_ok=True)
    names = arguments.instructions.split(",")
    with opened_store(settings) as store:
        tensors = Tensors(store.tensors)
        for stage in arguments.stages.split(","):
            for name in names:
                for title, request in STAGES[stage](name):
                    used = [saes[sae_id] for sae_id in request.sae_ids]
                    found, texts = evaluate(
                        model, used, request, cache=store.cache, tensors=tensors
                    )
                    store.evaluations.save(found, texts)
                    data = {"evaluation": to_json(found), "texts": [to_json(t) for t in texts]}
                    file = folder / f"{name}.{title}.json"
                    file.write_text(json.dumps(data), encoding="utf-8")
                    done = f"{name} {title}: {len(found.cells)} settings, {found.seconds:.0f} s"
                    sys.stderr.write(done + "\n")

    def promoted(layer: int, latents: Sequence[int]) -> list[tuple[str, ...]]:
        return promoted_tokens(model, saes[f"{DEFAULT_MODEL}/layer{layer}"], latents)

    write_report(folder, arguments.report, INSTRUCTIONS, promoted)


if __name__ == "__main__":
    main()
