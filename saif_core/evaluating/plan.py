"""What an evaluation compares: its settings, as plain data, before anything is run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from saif_core.errors import EvaluatorError, SteeringError
from saif_core.records.evaluation import (
    MOST_CANDIDATES,
    Candidate,
    CellSetting,
    EvaluationRequest,
)
from saif_core.registry import EVALUATORS, SOURCES, Registered, find_writer


def check_request(request: EvaluationRequest) -> None:
    """Raise a sentence for what cannot be evaluated.

    Raises:
        EvaluatorError: contents rank and test at once, or a list is empty.
        SaifError: a source, method or parameter does not exist or fit.
    """
    shared = set(request.rank_contents) & set(request.test_contents)
    if shared:
        raise EvaluatorError(
            f"{len(shared)} contents were to rank latents and to test them; a content does one."
        )
    if len(request.test_contents) < 2:
        raise EvaluatorError(
            f"{len(request.test_contents)} contents were given to test on; give at least 2, one "
            "for each half."
        )
    if not (request.baselines or request.candidates):
        raise EvaluatorError("No arm is chosen; choose at least one.")
    told = "prompted" in request.baselines or any(one.prompted for one in request.candidates)
    if told and not request.test_wordings:
        raise EvaluatorError("The prompted arm has no wording to prompt with; give one.")
    if not request.instruction.evaluator:
        raise EvaluatorError(
            f"The instruction {request.instruction.name!r} has no evaluator, so nobody can say "
            "which texts follow it; choose an evaluator for it, or read its texts on the Compare "
            "page."
        )
    if request.sampling.samples != 1:
        raise EvaluatorError(
            f"{request.sampling.samples} samples of each text were asked for, but an evaluation "
            "writes one for every content, as its intervals count contents; give more contents."
        )
    _check_candidates(request)
    EVALUATORS.check(request.instruction.evaluator, request.instruction.evaluator_parameters)


def _check_candidates(request: EvaluationRequest) -> None:
    arms = [candidate.arm for candidate in request.candidates]
    if arms and not request.rank_contents:
        raise EvaluatorError(f"The arm {arms[0]!r} needs contents to learn from; give some.")
    if arms and not request.rank_wordings:
        raise EvaluatorError(f"The arm {arms[0]!r} needs a wording to learn from; give one.")
    if len(arms) > MOST_CANDIDATES:
        raise EvaluatorError(
            f"{len(arms)} steered arms were asked for; ask for {MOST_CANDIDATES} at most."
        )
    if arms and not (request.sae_ids or request.layers):
        raise EvaluatorError(f"The arm {arms[0]!r} needs an SAE or a layer; choose one.")
    if arms and not request.strengths:
        raise EvaluatorError(f"The arm {arms[0]!r} needs a strength; give one.")
    if request.controls and not arms:
        raise EvaluatorError(
            f"The control {request.controls[0]!r} has no steered arm to be matched to; choose one "
            "as well."
        )
    twice = next((arm for arm in arms if arms.count(arm) > 1), None)
    if twice is not None:
        raise EvaluatorError(f"The arm {twice!r} was asked for twice; give all its values at once.")
    if any(not math.isfinite(number) for number in request.strengths):
        raise EvaluatorError("A strength is not a finite number; give finite ones.")
    for candidate in request.candidates:
        tried_parameters(candidate)


def tried_parameters(candidate: Candidate) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every choice of parameters: of the source, and of the method.

    Raises:
        SaifError: a source, method or parameter does not exist or fit.
    """
    source = _tried(SOURCES.kind, SOURCES.get(candidate.source), candidate.grid)
    if not candidate.method:
        if candidate.method_grid:
            raise SteeringError(
                f"Parameters of a method were given for {candidate.source!r}, but no method; name "
                "the method."
            )
        return [(values, {}) for values in source]
    written = _tried("steering method", find_writer(candidate.method), candidate.method_grid)
    both = sorted(source[0].keys() & written[0].keys())
    if both:
        raise SteeringError(
            f"The source {candidate.source!r} and the method {candidate.method!r} both have a "
            f"parameter {both[0]!r}, so their settings could not be told apart; rename one."
        )
    return list(product(source, written))


def _tried(
    kind: str, registered: Registered[Any], grid: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    empty = next((name for name, values in grid.items() if not values), None)
    if empty is not None:
        raise SteeringError(f"No value was given for the parameter {empty!r}; give one or more.")
    return [
        registered.check(kind, dict(zip(grid, values, strict=True)), SteeringError)
        for values in product(*grid.values())
    ]


def plan_settings(request: EvaluationRequest, layers: Sequence[int]) -> list[CellSetting]:
    """Every setting of every baseline and candidate, and of their controls if all get them.

    Args:
        layers: of the request's SAEs, in their order, then its further layers.
    """
    places: list[tuple[int, ...]] = [(layer,) for layer in layers]
    if request.together and len(layers) > 1:
        places.append(tuple(layers))
    settings = [CellSetting(arm) for arm in request.baselines]
    for candidate in request.candidates:
        settings += [
            CellSetting(candidate.arm, "", place, {**of_source, **of_method}, strength)
            for place, (of_source, of_method), strength in product(
                places, tried_parameters(candidate), request.strengths
            )
        ]
    return settings + (plan_controls(request, settings) if request.controls_of == "all" else [])


def plan_controls(request: EvaluationRequest, chosen: Sequence[CellSetting]) -> list[CellSetting]:
    """The controls of some settings of candidates."""
    return [
        replace(setting, arm=control, of=setting.arm)
        for setting in chosen
        if setting.strength is not None and not setting.of
        for control in request.controls
    ]
