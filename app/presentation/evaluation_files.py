"""Evaluations as files, and the sentence that says what one supports.

A file may go to people who know none of its authors, so the CSV holds nothing that a spreadsheet
would run.
"""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from app.presentation.arms import arm_words
from app.presentation.evaluation import (
    arm_label,
    nearest_words,
    parameter_columns,
    parameter_names,
    parameter_parts,
    primary_measure,
    qualifies,
    told_parameters,
    value_words,
)
from app.presentation.figures import number_words
from saif_core.records.evaluation import (
    WORST_DISORDER,
    BestCell,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
    Rates,
)

CHANCE = 0.01
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def evaluation_csv(evaluation: Evaluation) -> bytes:
    """One row per cell: its setting, its figures, and those of both halves of the contents."""
    plain = [_plain_columns(cell) for cell in evaluation.cells]
    names = parameter_columns(parameter_names(evaluation), plain[0] if plain else ())
    rows = []
    for cell, columns in zip(evaluation.cells, plain, strict=True):
        head = {name: columns.pop(name) for name in ("arm", "of", "layers")}
        told = {column: cell.setting.parameters.get(name) for column, name in names.items()}
        rows.append({**head, **told, **columns})
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(rows[0] if rows else ())
    writer.writerows([_csv_cell(value) for value in row.values()] for row in rows)
    return file.getvalue().encode()


def _plain_columns(cell: Cell) -> dict[str, Any]:
    """A row without the parameters."""
    return {
        "arm": cell.setting.arm,
        "of": cell.setting.of,
        "layers": " ".join(map(str, cell.setting.layers)),
        "strength": cell.setting.strength,
        **_columns(cell.rates),
        **_tests(cell),
        **_columns(cell.choosing, "choosing_"),
        **_columns(cell.reporting, "reporting_"),
    }


def evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    """The figures as JSON-ready data: every cell, and the best setting of each arm.

    ``primary`` names the rate that settings were chosen by and p-values are of. Evaluations of
    before have null for ``useful`` and its interval.
    """
    n = len(evaluation.request.test_contents)
    return {
        "id": evaluation.id,
        "instruction": evaluation.request.instruction.name,
        "model": evaluation.model,
        "primary": primary_measure(evaluation),
        "content_measure": evaluation.content_measure,
        "content_reason": evaluation.content_reason,
        "chosen_on": _half_name(range(1, n + 1, 2)),
        "reported_on": _half_name(range(2, n + 1, 2)),
        "best_sae_arm": evaluation.best_sae_arm,
        "best": {best.arm: _best_data(evaluation, best) for best in evaluation.best},
        "cells": [_cell_data(cell) for cell in evaluation.cells],
        "seconds": evaluation.seconds,
    }


def evaluation_json(
    evaluation: Evaluation, texts: Mapping[int, Sequence[EvaluationText]] | None = None
) -> bytes:
    """The same data as a JSON file, with the texts under the number of their cell.

    Args:
        texts: by cell; None leaves them out.
    """
    data = evaluation_data(evaluation)
    if texts is not None:
        data["texts"] = {str(cell): [_text_data(one) for one in of] for cell, of in texts.items()}
    return json.dumps(data, allow_nan=False, ensure_ascii=False, indent=1).encode()


def texts_csv(evaluation: Evaluation, texts: Mapping[int, Sequence[EvaluationText]]) -> bytes:
    """One row per text: the setting of its cell, then what it answers, says and was judged."""
    headers = setting_headers(evaluation)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("cell", *headers, *_TEXT_COLUMNS))
    for cell, found in texts.items():
        setting = setting_row(evaluation, evaluation.cells[cell].setting)
        for one in found:
            row = (cell, *setting, *_text_data(one).values())
            writer.writerow(map(_csv_cell, row))
    return file.getvalue().encode()


def evaluation_stem(evaluation: Evaluation) -> str:
    """A safe beginning of file names: what was evaluated, and which evaluation it is."""
    name = re.sub(r"[^a-z0-9]+", "-", evaluation.request.instruction.name.lower())[:60].strip("-")
    return "-".join(filter(None, ("evaluation", name, evaluation.id[:8])))


_TEXT_COLUMNS = ("content", "text", "grade", "about", "reason", "outcome", "perplexity")


def _text_data(text: EvaluationText) -> dict[str, Any]:
    return {name: getattr(text, name) for name in _TEXT_COLUMNS}


def evaluation_sentence(evaluation: Evaluation) -> str:
    """What the figures support, in plain words, on the half that had no part in the choice."""
    best = _headline(evaluation)
    setting = evaluation.cells[best.cell].setting if best else None
    control = replace(setting, arm="random", of=setting.arm) if setting else None
    steers_with_latents = best is not None and best.arm == evaluation.best_sae_arm
    random = "random latents" if steers_with_latents else "random directions"
    compared = {
        random: _find(evaluation, control),
        "unsteered": _find(evaluation, CellSetting("unsteered")),
        "prompting": _find(evaluation, CellSetting("prompted")),
    }
    others = [f"{name} {_primary(cell.reporting)}" for name, cell in compared.items() if cell]
    is_useful = primary_measure(evaluation) == "useful"
    if best is None or setting is None:
        which = "Useful outputs" if is_useful else "Outputs that follow the instruction strictly"
        return f"{which}: {'; '.join(others) or 'none known'}."
    rates = best.rates
    words = _setting_words(evaluation.request, setting)
    found = _found_words(rates, is_useful=is_useful)
    sentences = ["; ".join([f"Steered with {words}, {found}", *others])]
    if not qualifies(evaluation, best):
        none = f"No setting of {arm_words(best.arm)} kept broken text within {WORST_DISORDER:.0%}"
        sentences.insert(0, f"{none}; this is the nearest, {nearest_words(evaluation)}")
    ps = {"unsteered": best.p_unsteered, random: best.p_random}
    chance = [f"{name} ({p_words(p)})" for name, p in ps.items() if p is not None and p >= CHANCE]
    if chance:
        sentences.append(f"This is not more than could be by chance against {' or '.join(chance)}")
    if rates.disorder > WORST_DISORDER:
        sentences.append(f"{rates.disorder:.0%} of its outputs are broken text")
    return ". ".join(sentences) + "."


def _found_words(rates: Rates, *, is_useful: bool) -> str:
    """The main figure of the best setting, with the others beside it."""
    if not rates.n:
        return "no output could be judged"
    judged = "outputs that could be judged" if rates.unjudged else "outputs"
    of = f"{_primary(rates)} of {rates.n} {judged}"
    if not is_useful:
        return f"{of} follow the instruction strictly"
    beside = f"strict {rates.strict:.0%}, loose {rates.loose:.0%}, disorder {rates.disorder:.0%}"
    return f"{of} are useful ({beside})"


def _columns(rates: Rates, prefix: str = "") -> dict[str, Any]:
    useful_low, useful_high = rates.useful_ci or (None, None)
    columns = {
        "n": rates.n,
        "useful": rates.useful,
        "useful_low": useful_low,
        "useful_high": useful_high,
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
        "parameters": dict(setting.parameters),
        "n": rates.n,
        **_rates_data(rates),
        "unjudged": rates.unjudged,
        "success": rates.success,
        "retained": rates.retained,
        "disorder": rates.disorder,
        "disorder_ci": list(rates.disorder_ci),
        "perplexity": rates.perplexity,
        "distinct_2": rates.distinct_2,
        **_tests(cell),
    }


def _best_data(evaluation: Evaluation, best: BestCell) -> dict[str, Any]:
    setting, rates = evaluation.cells[best.cell].setting, best.rates
    return {
        "cell": best.cell,
        "strength": setting.strength,
        "layer": _layer(setting),
        "parameters": dict(setting.parameters),
        "qualifies": qualifies(evaluation, best),
        "n": rates.n,
        **_rates_data(rates),
        "disorder": rates.disorder,
        "disorder_ci": list(rates.disorder_ci),
        **_tests(best),
    }


def _rates_data(rates: Rates) -> dict[str, Any]:
    """The rates of what follows, each with its interval."""
    return {
        "useful": rates.useful,
        "useful_ci": None if rates.useful_ci is None else list(rates.useful_ci),
        "strict": rates.strict,
        "strict_ci": list(rates.strict_ci),
        "loose": rates.loose,
        "loose_ci": list(rates.loose_ci),
    }


def _tests(tested: Cell | BestCell) -> dict[str, float | None]:
    """The p-values of a cell."""
    return {
        "p_unsteered": tested.p_unsteered,
        "p_random": tested.p_random,
        "p_prompted": tested.p_prompted,
    }


def _headline(evaluation: Evaluation) -> BestCell | None:
    """The best of the arms that steer with latents, else of those that steer."""
    from saif_core.evaluating.rates import merit  # it needs SciPy, which takes a second to import

    steering = [
        best for best in evaluation.best if evaluation.cells[best.cell].setting.strength is not None
    ]
    ours = [best for best in steering if best.arm == evaluation.best_sae_arm] or steering
    return max(ours, key=lambda best: merit(evaluation.cells[best.cell].choosing), default=None)


def _find(evaluation: Evaluation, setting: CellSetting | None) -> Cell | None:
    return next((cell for cell in evaluation.cells if cell.setting == setting), None)


def _setting_words(request: EvaluationRequest, setting: CellSetting) -> str:
    details = []
    if setting.layers:
        number = "layer" if len(setting.layers) == 1 else "layers"
        details.append(f"{number} {' and '.join(map(str, setting.layers))}")
    details += parameter_parts(told_parameters(request, setting))
    words = arm_words(setting.arm)
    if setting.strength is not None:
        words += f" at strength {number_words(setting.strength)}"
    return f"{words} ({', '.join(details)})" if details else words


def _primary(rates: Rates) -> str:
    return share_words(rates.primary, rates.primary_ci)


def share_words(share: float, interval: tuple[float, float]) -> str:
    """A share with its interval, as ``46% [36–56]``."""
    low, high = interval
    return f"{share:.0%} [{100 * low:.0f}–{100 * high:.0f}]"


def p_words(p: float) -> str:
    """A p-value, as exactly as one reads it."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def setting_headers(evaluation: Evaluation) -> tuple[str, ...]:
    """Headings of what tells settings apart: the parameters that were asked for, by name."""
    names = (name.replace("_", " ") for name in parameter_names(evaluation))
    return ("arm", "layer", *names, "strength")


def setting_row(evaluation: Evaluation, setting: CellSetting) -> list[str]:
    """What ``setting_headers`` names, each as text."""
    parameters = setting.parameters
    return [
        arm_label(setting),
        ", ".join(map(str, setting.layers)),
        *(
            value_words(parameters[name]) if name in parameters else ""
            for name in parameter_names(evaluation)
        ),
        "" if setting.strength is None else number_words(setting.strength),
    ]
