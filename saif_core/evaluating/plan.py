"""What an evaluation compares: its settings, and what each of them adds to the residual stream."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from saif_core.errors import EvaluatorError
from saif_core.finding.ranking import choose_latents, rank_latents
from saif_core.finding.sources.denoised import denoised_latents
from saif_core.finding.sources.mean_difference import read_mean_difference
from saif_core.finding.sources.saif import drop_silent_latents
from saif_core.inputs.prompt_pairs import make_pairs
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.evaluation import (
    CONTROLS,
    EVALUATION_ARMS,
    SAE_ARMS,
    STEERED,
    CellSetting,
    EvaluationRequest,
)
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import ChosenLatent, Ranking, RankingRequest
from saif_core.records.steering import SteeringEdit
from saif_core.registry import EVALUATORS
from saif_core.saes.loaded_sae import LoadedSae


def check_request(request: EvaluationRequest) -> None:
    """Raise a sentence for what cannot be evaluated.

    Raises:
        EvaluatorError: an arm is unknown, contents rank and test at once, or a list is empty.
    """
    unknown = [arm for arm in request.arms if arm not in EVALUATION_ARMS]
    if unknown:
        raise EvaluatorError(
            f"There is no arm {unknown[0]!r}; the arms are: {', '.join(EVALUATION_ARMS)}."
        )
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
    if "prompted" in request.arms and not request.test_wordings:
        raise EvaluatorError("The prompted arm has no wording to prompt with; give one.")
    steered = [arm for arm in request.arms if arm in (*STEERED, *CONTROLS)]
    if steered and not (request.sae_ids and request.strengths and request.rank_contents):
        raise EvaluatorError(
            f"The arm {steered[0]!r} needs an SAE, a strength and contents to rank on; give them."
        )
    if any(not math.isfinite(number) for number in (*request.strengths, *request.betas)):
        raise EvaluatorError("A strength or β is not a finite number; give finite ones.")
    EVALUATORS.check(request.instruction.evaluator, request.instruction.evaluator_parameters)


def plan_settings(request: EvaluationRequest, layers: Sequence[int]) -> list[CellSetting]:
    """Every setting of every baseline and steered arm, and of their controls if all get them."""
    places: list[tuple[int, ...]] = [(layer,) for layer in layers]
    if request.together and len(layers) > 1:
        places.append(tuple(layers))
    settings = [CellSetting(arm) for arm in request.arms if arm in ("unsteered", "prompted")]
    for arm in request.arms:
        if arm in STEERED:
            settings += _steered_settings(request, arm, places)
    return settings + (plan_controls(request, settings) if request.controls == "all" else [])


def _steered_settings(
    request: EvaluationRequest, arm: str, places: Sequence[tuple[int, ...]]
) -> list[CellSetting]:
    tops: Sequence[int | None] = request.tops
    betas: Sequence[float | None] = request.betas
    strengths: Sequence[float] = request.strengths
    if arm == "mean-difference":
        tops, betas = [None], [None]
    elif arm == "denoised":
        tops, betas = request.denoised_tops, [None]
    elif arm == "one-latent":
        tops = [1]
    elif arm == "ablate":
        betas = [None]
    return [
        CellSetting(arm, "", place, k, beta, strength)
        for place, k, beta, strength in product(places, tops, betas, strengths)
    ]


def plan_controls(request: EvaluationRequest, chosen: Sequence[CellSetting]) -> list[CellSetting]:
    """The controls of some settings of steered arms."""
    return [
        replace(setting, arm=control, of=setting.arm)
        for setting in chosen
        for control in CONTROLS
        if control in request.arms
        and setting.arm in STEERED
        # What is taken away has no norm of its own that a random latent could be given.
        and setting.arm not in ("clamp", "ablate")
    ]


class SteeringVectors:
    """What each arm adds at each layer, computed once."""

    def __init__(
        self,
        model: LoadedModel,
        saes: Sequence[LoadedSae],
        request: EvaluationRequest,
        cache: ActivationCache | None,
        step: Step | None,
    ) -> None:
        self._request = request
        self._rankings: dict[int, Ranking] = {}
        self._differences: dict[int, tuple[float, ...]] = {}
        self._sae_ids = {sae.layer: sae.id for sae in saes}
        if any(arm in SAE_ARMS or arm in CONTROLS for arm in request.arms):
            for sae in saes:
                asked = self._ranking_request(sae.id)
                ranking = rank_latents(model, sae, asked, cache=cache, step=step)
                if request.least_output_score > 0:
                    ranking = drop_silent_latents(model, sae, ranking, request.least_output_score)
                self._rankings[sae.layer] = ranking
        if "mean-difference" in request.arms:
            found = read_mean_difference(
                model,
                self._ranking_request(request.sae_ids[0]),
                [sae.layer for sae in saes],
                cache=cache,
                step=step,
            )
            self._differences = {layer: tuple(v.tolist()) for layer, v in found.items()}

    def _ranking_request(self, sae_id: str) -> RankingRequest:
        request = self._request
        pairs = make_pairs(
            request.instruction,
            request.rank_contents,
            position=request.position,
            wordings=request.rank_wordings,
        )
        return RankingRequest(
            sae_id=sae_id,
            instruction=request.instruction.name,
            pairs=pairs,
            chat=request.chat,
            read=request.read,
            response_tokens=request.response_tokens,
            selector=request.selector,
            selector_parameters=request.selector_parameters,
            top=max(request.tops, default=1),
        )

    def latents(self) -> dict[str, tuple[ChosenLatent, ...]]:
        """The latents of "saif" at the largest k, by layer."""
        beta = self._request.betas[0] if self._request.betas else 0.0
        return {
            str(layer): choose_latents(ranking, beta=beta)
            for layer, ranking in self._rankings.items()
        }

    def denoised_latents(self) -> dict[str, tuple[ChosenLatent, ...]]:
        """The latents of "denoised" at its largest k, by layer."""
        if "denoised" not in self._request.arms:
            return {}
        top = max(self._request.denoised_tops)
        return {
            str(layer): denoised_latents(ranking, top) for layer, ranking in self._rankings.items()
        }

    def edit(self, setting: CellSetting, layer: int) -> SteeringEdit:
        """What a setting's arm, or the arm that a control is matched to, adds after a layer."""
        arm = setting.of or setting.arm
        if arm == "mean-difference":
            return SteeringEdit(vector=self._differences[layer], layer=layer)
        ranking, sae_id = self._rankings[layer], self._sae_ids[layer]
        if arm == "denoised":
            return SteeringEdit(sae_id, denoised_latents(ranking, setting.k or 1))
        latents = choose_latents(ranking, top=setting.k, beta=setting.beta or 0.0)
        method = arm if arm in ("clamp", "ablate") else "addition"
        return SteeringEdit(sae_id, latents, method=method)
