"""Evaluations as files, and the sentence that says what one supports.

A file may go to people who know none of its authors, so the CSV holds nothing that a spreadsheet
would run.
"""

import csv
import io
import json
from dataclasses import replace
from typing import Any

from app.presentation.arms import ARM_NAMES
from app.presentation.evaluation import arm_label
from saif_core.records.evaluation import (
    WORST_DISORDER,
    BestCell,
    Cell,
    CellSetting,
    Evaluation,
    Rates,
)

CHANCE = 0.01
SETTING_HEADERS = ("arm", "layer", "latents", "beta", "strength")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def evaluation_csv(evaluation: Evaluation) -> bytes:
    """One row per cell: its setting, its figures, and those of both halves of the contents."""
    rows = [
        {
            "arm": cell.setting.arm,
            "of": cell.setting.of,
            "layers": " ".join(map(str, cell.setting.layers)),
            "k": cell.setting.k,
            "beta": cell.setting.beta,
            "strength": cell.setting.strength,
            **_columns(cell.rates),
            "p_unsteered": cell.p_unsteered,
            "p_random": cell.p_random,
            **_columns(cell.choosing, "choosing_"),
            **_columns(cell.reporting, "reporting_"),
        }
        for cell in evaluation.cells
    ]
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(rows[0] if rows else ())
    writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    return file.getvalue().encode()


def evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as JSON-ready data: every cell, and the best setting of each arm."""
    n = len(evaluation.request.test_contents)
    return {
        "id": evaluation.id,
        "instruction": evaluation.request.instruction.name,
        "model": evaluation.model,
        "chosen_on": _half_name(range(1, n + 1, 2)),
        "reported_on": _half_name(range(2, n + 1, 2)),
        "best_sae_arm": evaluation.best_sae_arm,
        "best": {best.arm: _best_data(evaluation, best) for best in evaluation.best},
        "cells": [_cell_data(cell) for cell in evaluation.cells],
        "seconds": evaluation.seconds,
    }


def evaluation_json(evaluation: Evaluation) -> bytes:
    """The same data as a JSON file."""
    return json.dumps(evaluation_data(evaluation), allow_nan=False, indent=1).encode()


def evaluation_sentence(evaluation: Evaluation) -> str:
    """What the figures support, in plain words, on the half that had no part in the choice."""
    best = _headline(evaluation)
    setting = evaluation.cells[best.cell].setting if best else None
    control = replace(setting, arm="random", of=setting.arm) if setting else None
    random = "random directions" if setting and setting.k is None else "random latents"
    compared = {
        random: _find(evaluation, control),
        "unsteered": _find(evaluation, CellSetting("unsteered")),
        "prompting": _find(evaluation, CellSetting("prompted")),
    }
    others = [f"{name} {_strict(cell.reporting)}" for name, cell in compared.items() if cell]
    if best is None or setting is None:
        return f"Outputs that follow the instruction strictly: {'; '.join(others) or 'none known'}."
    rates = best.rates
    if rates.n:
        judged = "outputs that could be judged" if rates.unjudged else "outputs"
        found = f"{_strict(rates)} of {rates.n} {judged} follow the instruction strictly"
    else:
        found = "no output could be judged"
    sentences = ["; ".join([f"Steered with {_setting_words(setting)}, {found}", *others])]
    ps = {"unsteered": best.p_unsteered, random: best.p_random}
    chance = [f"{name} ({p_words(p)})" for name, p in ps.items() if p is not None and p >= CHANCE]
    if chance:
        sentences.append(f"This is not more than could be by chance against {' or '.join(chance)}")
    if rates.disorder > WORST_DISORDER:
        sentences.append(f"{rates.disorder:.0%} of its outputs are broken text")
    return ". ".join(sentences) + "."


def _columns(rates: Rates, prefix: str = "") -> dict[str, Any]:
    columns = {
        "n": rates.n,
        "strict": rates.strict,
        "strict_low": rates.strict_ci[0],
        "strict_high": rates.strict_ci[1],
        "loose": rates.loose,
        "loose_low": rates.loose_ci[0],
        "loose_high": rates.loose_ci[1],
        "unjudged": rates.unjudged,
        "success": rates.success,
        "retained": rates.retained,
        "disorder": rates.disorder,
        "perplexity": rates.perplexity,
        "distinct_2": rates.distinct_2,
    }
    return {prefix + name: value for name, value in columns.items()}


def _csv_cell(value: object) -> object:
    # Only text: a negative number starts with a minus too, and runs nothing.
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _half_name(numbers: range) -> str:
    listed = ", ".join(map(str, numbers[:3])) + (", …" if len(numbers) > 3 else "")
    return f"contents {listed} ({len(numbers)})" if numbers else "no contents (0)"


def _layer(setting: CellSetting) -> int | list[int] | None:
    layers = list(setting.layers)
    return layers if len(layers) > 1 else layers[0] if layers else None


def _cell_data(cell: Cell) -> dict[str, Any]:
    setting, rates = cell.setting, cell.rates
    return {
        "arm": setting.arm,
        "of": setting.of,
        "strength": setting.strength,
        "layer": _layer(setting),
        "k": setting.k,
        "beta": setting.beta,
        "n": rates.n,
        "strict": rates.strict,
        "strict_ci": list(rates.strict_ci),
        "loose": rates.loose,
        "loose_ci": list(rates.loose_ci),
        "unjudged": rates.unjudged,
        "success": rates.success,
        "retained": rates.retained,
        "disorder": rates.disorder,
        "disorder_ci": list(rates.disorder_ci),
        "perplexity": rates.perplexity,
        "distinct_2": rates.distinct_2,
        "p_unsteered": cell.p_unsteered,
        "p_random": cell.p_random,
    }


def _best_data(evaluation: Evaluation, best: BestCell) -> dict[str, Any]:
    setting, rates = evaluation.cells[best.cell].setting, best.rates
    return {
        "cell": best.cell,
        "strength": setting.strength,
        "layer": _layer(setting),
        "k": setting.k,
        "n": rates.n,
        "strict": rates.strict,
        "strict_ci": list(rates.strict_ci),
        "loose": rates.loose,
        "loose_ci": list(rates.loose_ci),
        "disorder": rates.disorder,
        "p_unsteered": best.p_unsteered,
        "p_random": best.p_random,
    }


def _headline(evaluation: Evaluation) -> BestCell | None:
    """The best of the arms that need an SAE, else of the mean difference."""
    found = {best.arm: best for best in evaluation.best}
    return found.get(evaluation.best_sae_arm) or found.get("mean-difference")


def _find(evaluation: Evaluation, setting: CellSetting | None) -> Cell | None:
    return next((cell for cell in evaluation.cells if cell.setting == setting), None)


def _setting_words(setting: CellSetting) -> str:
    details = []
    if setting.layers:
        number = "layer" if len(setting.layers) == 1 else "layers"
        details.append(f"{number} {' and '.join(map(str, setting.layers))}")
    if setting.k is not None:
        details.append(f"{setting.k} {'latent' if setting.k == 1 else 'latents'}")
    if setting.beta:
        details.append(f"beta {setting.beta:g}")
    words = ARM_NAMES.get(setting.arm, setting.arm)
    if setting.arm in ("denoised", "mean-difference"):
        words = f"the {words}"
    if setting.strength is not None:
        words += f" at strength {setting.strength:g}"
    return f"{words} ({', '.join(details)})" if details else words


def _strict(rates: Rates) -> str:
    return share_words(rates.strict, rates.strict_ci)


def share_words(share: float, interval: tuple[float, float]) -> str:
    """A share with its interval, as ``46% [36–56]``."""
    low, high = interval
    return f"{share:.0%} [{100 * low:.0f}–{100 * high:.0f}]"


def p_words(p: float) -> str:
    """A p-value, as exactly as one reads it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def setting_row(setting: CellSetting) -> list[str]:
    """What ``SETTING_HEADERS`` names, each as text."""
    return [
        arm_label(setting),
        ", ".join(map(str, setting.layers)),
        "" if setting.k is None else str(setting.k),
        "" if setting.beta is None else f"{setting.beta:g}",
        "" if setting.strength is None else f"{setting.strength:g}",
    ]
