"""Figures of an evaluation as tables and words."""

from collections.abc import Sequence
from typing import Any

from app.presentation.arms import ARM_NAMES
from saif_core.records.evaluation import (
    CellSetting,
    Evaluation,
    Rates,
)
from saif_core.records.ranking import ChosenLatent

# One colour per arm on every page, each with a contrast above 3 on the light and the dark
# background; what is steered has the hue of the accent. Shapes tell apart what a colour-blind
# reader may not.
ARM_COLOURS = {
    "unsteered": "#7d8791",
    "prompted": "#9c7a00",
    "saif": "#2b7fc4",
    "one-latent": "#1d8fa3",
    "clamp": "#5b74d6",
    "ablate": "#4c8f3a",
    "denoised": "#cc5f0a",
    "mean-difference": "#b0589a",
    "random": "#8b7361",
    "flipped": "#d0485c",
    "logit-bias": "#8a69c9",
}


def arm_label(setting: CellSetting) -> str:
    """The arm in words; a control also says what it is matched to."""
    name = ARM_NAMES.get(setting.arm, setting.arm)
    return f"{name} for {ARM_NAMES.get(setting.of, setting.of)}" if setting.of else name


def describe_setting(setting: CellSetting) -> str:
    """Arm and everything that is set, as one line."""
    return " · ".join([arm_label(setting), *_parts(setting), *_strength(setting)])


def _parts(setting: CellSetting) -> list[str]:
    parts = []
    if setting.layers:
        plural = "" if len(setting.layers) == 1 else "s"
        parts.append(f"layer{plural} {' + '.join(map(str, setting.layers))}")
    if setting.k is not None:
        parts.append(f"{setting.k} latent{'' if setting.k == 1 else 's'}")
    if setting.beta is not None:
        parts.append(f"β {setting.beta:g}")
    return parts


def _strength(setting: CellSetting) -> list[str]:
    return [] if setting.strength is None else [f"strength {setting.strength:g}"]


def percent_interval(interval: tuple[float, float]) -> str:
    """An interval of shares as ``36–56%``."""
    low, high = interval
    return f"{100 * low:.0f}–{100 * high:.0f}%"


def cell_table(evaluation: Evaluation) -> dict[str, list[Any]]:
    """One row per cell, as columns; shares in percent."""
    settings = [cell.setting for cell in evaluation.cells]
    return {
        "arm": [arm_label(setting) for setting in settings],
        "layer": [" + ".join(map(str, setting.layers)) for setting in settings],
        "k": [setting.k for setting in settings],
        "beta": [setting.beta for setting in settings],
        "strength": [setting.strength for setting in settings],
        **_rate_columns([cell.rates for cell in evaluation.cells]),
        "resid_share": [_hundred(cell.resid_share) for cell in evaluation.cells],
        "p_unsteered": [cell.p_unsteered for cell in evaluation.cells],
        "p_random": [cell.p_random for cell in evaluation.cells],
    }


def best_table(evaluation: Evaluation) -> dict[str, list[Any]]:
    """The best setting of every arm with its figures on the reporting half, as columns."""
    best = evaluation.best
    columns = _rate_columns([one.rates for one in best])
    shown = ("n", "strict", "strict_ci", "disorder", "disorder_ci", "perplexity")
    return {
        "setting": [describe_setting(evaluation.cells[one.cell].setting) for one in best],
        **{name: columns[name] for name in shown},
        "p_unsteered": [one.p_unsteered for one in best],
        "p_random": [one.p_random for one in best],
    }


def _rate_columns(rates: Sequence[Rates]) -> dict[str, list[Any]]:
    return {
        "n": [one.n for one in rates],
        "strict": [100 * one.strict for one in rates],
        "strict_ci": [percent_interval(one.strict_ci) for one in rates],
        "loose": [100 * one.loose for one in rates],
        "loose_ci": [percent_interval(one.loose_ci) for one in rates],
        "disorder": [100 * one.disorder for one in rates],
        "disorder_ci": [percent_interval(one.disorder_ci) for one in rates],
        "perplexity": [one.perplexity for one in rates],
        "distinct_2": [one.distinct_2 for one in rates],
        "unjudged": [one.unjudged for one in rates],
    }


def _hundred(share: float | None) -> float | None:
    return None if share is None else 100 * share


def lab_latents(evaluation: Evaluation, number: int) -> dict[int, tuple[ChosenLatent, ...]]:
    """The latents by layer that Compare needs to steer as a cell did; none where it cannot.

    An evaluation keeps those of "saif" at its largest k and first β, and those of "denoised", one
    list per layer; the first of "saif" is what "one-latent" steers with.
    """
    setting = evaluation.cells[number].setting
    fits = (
        setting.arm in ("saif", "one-latent", "denoised")
        and setting.strength is not None
        and setting.beta in (None, *evaluation.request.betas[:1])
    )
    if not fits:
        return {}
    kept = evaluation.denoised if setting.arm == "denoised" else evaluation.latents
    found = {layer: kept.get(str(layer), ())[: setting.k] for layer in setting.layers}
    return found if all(found.values()) else {}
