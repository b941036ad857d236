"""Step 9: judgements → rates with n and interval, per arm and setting, with controls and tests.

Texts are kept in the cache by what decides them, so an evaluation that was interrupted goes on
where it was. The test contents take turns between two halves: settings are chosen on one and
reported on the other.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from saif_core.evaluating.plan import (
    SteeringVectors,
    check_request,
    plan_controls,
    plan_settings,
)
from saif_core.evaluating.rates import merit, paired_p, rates_of
from saif_core.evaluating.texts import JudgedSetting, TextWriter
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.evaluation import (
    CONTROLS,
    SAE_ARMS,
    STEERED,
    BestCell,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
)
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.versions import library_versions


def evaluate(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    request: EvaluationRequest,
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> tuple[Evaluation, list[EvaluationText]]:
    """Rank, steer by every arm and setting, judge; then add controls of what did best.

    Args:
        saes: those of the request, in its order.

    Raises:
        EvaluatorError: the request cannot be carried out; the message says why.
        SaifError: whatever ranking and steering raise.
    """
    started = time.perf_counter()
    check_request(request)
    vectors = SteeringVectors(model, saes, request, cache, step)
    settings = plan_settings(request, [sae.layer for sae in saes])
    writer = TextWriter(model, saes, request, vectors, cache, step)
    judged = writer.judge(settings)
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
        best_sae_arm=_best_of([arm for arm in SAE_ARMS if arm in best], cells, best),
        latents=vectors.latents(),
        denoised=vectors.denoised_latents(),
        seconds=time.perf_counter() - started,
        versions=library_versions(),
    )
    return evaluation, texts


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


def _compared_with(setting: CellSetting) -> tuple[CellSetting | None, CellSetting | None]:
    """The unsteered setting, and the random control matched to this one."""
    unsteered = CellSetting("unsteered") if setting.arm != "unsteered" else None
    control = replace(setting, arm="random", of=setting.arm) if setting.arm in STEERED else None
    return unsteered, control


def _best_settings(judged: Sequence[JudgedSetting]) -> dict[str, int]:
    """For each arm, the number of the setting that did best on the choosing half."""
    by_arm: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(judged):
        if one.setting.arm not in CONTROLS:
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
