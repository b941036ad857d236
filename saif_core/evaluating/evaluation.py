"""Step 9: judgements → rates with n and interval, per arm and setting, with controls and tests.

Texts are kept in the cache by what decides them, so an evaluation that was interrupted goes on
where it was. The test contents take turns between two halves: settings are chosen on one and
reported on the other.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from saif_core.evaluating.plan import (
    check_request,
    plan_controls,
    plan_settings,
    tried_parameters,
)
from saif_core.evaluating.rates import merit, paired_p, rates_of
from saif_core.evaluating.texts import JudgedSetting, TextWriter
from saif_core.finding.learning import Learned, learn
from saif_core.finding.study import Study
from saif_core.inputs.prompt_pairs import make_pairs
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.evaluation import (
    BestCell,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
    MadeEdits,
)
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import RankingRequest
from saif_core.registry import EVALUATORS, SELECTORS, SOURCES, Registered, find_writer
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.tensors import Tensors
from saif_core.versions import library_versions


def evaluate(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    request: EvaluationRequest,
    *,
    cache: ActivationCache | None = None,
    tensors: Tensors | None = None,
    step: Step | None = None,
) -> tuple[Evaluation, list[EvaluationText]]:
    """Learn, steer by every arm and setting, judge; then add controls of what did best.

    Args:
        saes: those of the request, in its order.

    Raises:
        EvaluatorError: the request cannot be carried out; the message says why.
        SaifError: whatever sources and steering raise.
    """
    started = time.perf_counter()
    check_request(request)
    tensors = tensors or Tensors()
    candidates = _Candidates(model, saes, request, cache, tensors, step)
    builder = ArmBuilder(model, {sae.id: sae for sae in saes}, tensors)
    writer = TextWriter(model, request, builder, candidates.learned, cache=cache, step=step)
    layers = list(dict.fromkeys([*(sae.layer for sae in saes), *request.layers]))
    judged = writer.judge(plan_settings(request, layers))
    best = _best_settings(judged)
    controls = plan_controls(request, [judged[number].setting for number in best.values()])
    known = {one.setting for one in judged}
    judged += writer.judge([setting for setting in controls if setting not in known])
    cells = _cells(judged)
    texts = [replace(t, cell=number) for number, one in enumerate(judged) for t in one.texts]
    evaluation = Evaluation(
        request=request,
        model=model.id,
        model_sha256=model.sha256,
        sae_sha256s=tuple(sae.sha256 for sae in saes),
        dtype=str(model.dtype).removeprefix("torch."),
        cells=cells,
        best=_best_cells(judged, best),
        best_sae_arm=_best_of([a for a in best if a in candidates.sae_arms], cells, best),
        seconds=time.perf_counter() - started,
        made=candidates.made(),
        plugin_sha256s=_plugin_hashes(request),
        versions=library_versions(),
        content_measure=writer.content.chosen.measure or "",
        content_reason=writer.content.chosen.reason,
    )
    return evaluation, texts


class _Candidates:
    """What each candidate wrote with each choice of parameters, learned once."""

    def __init__(
        self,
        model: LoadedModel,
        saes: Sequence[LoadedSae],
        request: EvaluationRequest,
        cache: ActivationCache | None,
        tensors: Tensors,
        step: Step | None,
    ) -> None:
        self._request, self._cache = request, cache
        self._by_arm = {candidate.arm: candidate for candidate in request.candidates}
        self._learned: dict[CellSetting, Learned] = {}
        self._study: Study | None = None
        if request.candidates:
            self._study = Study(
                model,
                saes,
                _ranking_request(request),
                layers=request.layers,
                cache=cache,
                tensors=tensors,
                step=step,
                seed=request.sampling.seed,
            )

    def learned(self, setting: CellSetting) -> Learned:
        """What a setting, or the one that a control is matched to, steers with."""
        key = replace(setting, arm=setting.steered_arm, of="", strength=1.0)
        if key not in self._learned:
            assert self._study is not None
            candidate = self._by_arm[key.arm]
            of_source, of_method = next(
                both for both in tried_parameters(candidate) if both[0] | both[1] == key.parameters
            )
            self._learned[key] = learn(
                self._study.at(key.layers),
                candidate.source,
                of_source,
                method=candidate.method,
                method_parameters=of_method,
                cache=self._cache,
            )
        return self._learned[key]

    @property
    def sae_arms(self) -> set[str]:
        """Arms that steer with latents."""
        return {
            key.arm
            for key, learned in self._learned.items()
            if any(edit.latents for edit in learned.edits)
        }

    def made(self) -> tuple[MadeEdits, ...]:
        """Everything that was learned, as it is kept."""
        return tuple(
            MadeEdits(key.arm, key.layers, key.parameters, learned.edits, learned.origin)
            for key, learned in self._learned.items()
        )


def _ranking_request(request: EvaluationRequest) -> RankingRequest:
    pairs = make_pairs(
        request.instruction,
        request.rank_contents,
        position=request.position,
        wordings=request.rank_wordings,
    )
    return RankingRequest(
        sae_id="",
        instruction=request.instruction.name,
        pairs=pairs,
        chat=request.sampling.chat,
        read=request.read,
        response_tokens=request.response_tokens,
        selector=request.selector,
        selector_parameters=request.selector_parameters,
        judged_by=request.instruction,
    )


def _plugin_hashes(request: EvaluationRequest) -> dict[str, str]:
    """The hash of the file of everything that has a part in the figures, by kind and name."""
    used: dict[str, Registered[Any]] = {
        f"evaluator {request.instruction.evaluator}": EVALUATORS.get(request.instruction.evaluator)
    }
    for candidate in request.candidates:
        used[f"selector {request.selector}"] = SELECTORS.get(request.selector)
        used[f"source {candidate.source}"] = SOURCES.get(candidate.source)
        if candidate.method:
            used[f"method {candidate.method}"] = find_writer(candidate.method)
    return {name: plugin.file_sha256 for name, plugin in used.items()}


def _cells(judged: Sequence[JudgedSetting]) -> tuple[Cell, ...]:
    numbers = {one.setting: number for number, one in enumerate(judged)}
    return tuple(
        Cell(
            one.setting,
            rates_of(one.texts),
            rates_of(one.texts[::2]),
            rates_of(one.texts[1::2]),
            one.resid_share,
            *(
                paired_p(one.texts, judged[numbers[other]].texts) if other in numbers else None
                for other in _compared_with(one.setting)
            ),
        )
        for one in judged
    )


def _compared_with(setting: CellSetting) -> tuple[CellSetting | None, ...]:
    """The unsteered setting, the random control matched to this one, and the prompted one."""
    unsteered = CellSetting("unsteered") if setting.arm != "unsteered" else None
    control = replace(setting, arm="random", of=setting.arm) if _is_steered(setting) else None
    prompted = CellSetting("prompted") if setting.arm != "prompted" else None
    return unsteered, control, prompted


def _is_steered(setting: CellSetting) -> bool:
    return setting.strength is not None and not setting.of


def _best_settings(judged: Sequence[JudgedSetting]) -> dict[str, int]:
    """For each arm, the number of the setting that did best on the choosing half."""
    by_arm: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(judged):
        if not one.setting.of:
            by_arm[one.setting.arm].append(number)
    return {
        arm: max(numbers, key=lambda number: merit(rates_of(judged[number].texts[::2])))
        for arm, numbers in by_arm.items()
    }


def _best_cells(judged: Sequence[JudgedSetting], best: Mapping[str, int]) -> tuple[BestCell, ...]:
    numbers = {one.setting: number for number, one in enumerate(judged)}
    found = []
    for arm, number in best.items():
        half = judged[number].texts[1::2]
        tests = [
            paired_p(half, judged[numbers[other]].texts[1::2]) if other in numbers else None
            for other in _compared_with(judged[number].setting)
        ]
        found.append(BestCell(arm, number, rates_of(half), *tests))
    return tuple(found)


def _best_of(arms: Sequence[str], cells: Sequence[Cell], best: Mapping[str, int]) -> str:
    """The arm whose chosen setting did best, on the choosing half."""
    return max(arms, key=lambda arm: merit(cells[best[arm]].choosing), default="")
