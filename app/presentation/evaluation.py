"""Figures of an evaluation as tables and words, and the colours of its arms."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from app.presentation.arms import arm_words
from app.presentation.figures import number_words
from saif_core.records.evaluation import (
    CONTROLS,
    WORST_DISORDER,
    BestCell,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
    Rates,
)
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Arm, Edit

# Every colour has a contrast above 3 on the light and the dark background. Shapes tell apart what
# a colour-blind reader may not.
FIXED_COLOURS = {
    "unsteered": "#7d8791",
    "prompted": "#9c7a00",
    "random": "#8b7361",
    "flipped": "#d0485c",
    "logit-bias": "#8a69c9",
    "cue-token": "#c44ef3",
}
# Candidates take these in their order, the hue of the accent first. As there is one colour less
# than there are shapes, a colour that comes round again has another shape.
CANDIDATE_COLOURS = (
    *("#2b7fc4", "#cc5f0a", "#b0589a", "#4c8f3a"),
    *("#8a3ffc", "#1d8fa3", "#5b74d6"),
)
# Longest text of a parameter in a label.
_LONGEST = 40
# As many others as `saif_core.judging.content` compares with, which would load torch.
N_OTHERS = 19
# How it was told what a text is about, by the measure.
_CONTENT_MEASURES = {
    "chrf": "closer to the reference translation of its own content than to those of {} others "
    "(chrF)",
    "log_prob": "the unsteered model finds the text likelier after its own content than after {} "
    "others",
    "embedding": "its sentence embedding is closer to its own content than to {} others",
}


def primary_measure(evaluation: Evaluation) -> Literal["useful", "strict"]:
    """The rate that settings are chosen and compared by; strict in evaluations of before."""
    known = all(cell.rates.useful is not None for cell in evaluation.cells)
    return "useful" if known else "strict"


def content_sentence(evaluation: Evaluation) -> str:
    """What the main figure of an evaluation counts, and how it was told what texts are about."""
    if primary_measure(evaluation) == "strict":
        return (
            "This evaluation was made before texts were checked for their content, so its main "
            "figure is strict: some of these texts may be broken or about something else."
        )
    if evaluation.content_measure:
        how = _CONTENT_MEASURES.get(evaluation.content_measure, evaluation.content_measure)
        return (
            "Useful texts follow strictly, are whole, and are about their content. A text is about "
            f"its content: {how.format(N_OTHERS)}."
        )
    reason = evaluation.content_reason or "Nothing told whether texts are about their contents."
    return f"{reason} So useful means strict and whole here."


def content_words(text: EvaluationText) -> str:
    """Whether a text is about its content, and whether that keeps it from being useful."""
    if text.about is None:
        # Only texts that may be useful are looked at.
        return "content not measured" if text.is_useful else "content not looked at"
    if text.about:
        return "about its content"
    return "not about its content, so it does not count as useful"


def arm_order(evaluation: Evaluation) -> list[str]:
    """Every arm by name: as it was asked for, then what else was measured."""
    measured = (cell.setting.arm for cell in evaluation.cells)
    return list(dict.fromkeys((*evaluation.request.arms, *measured)))


def arm_colours(evaluation: Evaluation) -> dict[str, str]:
    """One colour per arm: baselines and controls have their own, candidates take the next."""
    arms = arm_order(evaluation)
    candidates = [arm for arm in arms if arm not in FIXED_COLOURS]
    return {
        arm: FIXED_COLOURS.get(arm)
        or CANDIDATE_COLOURS[candidates.index(arm) % len(CANDIDATE_COLOURS)]
        for arm in arms
    }


def value_words(value: Any) -> str:
    """The value of a parameter, briefly."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number_words(value)
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def told_parameters(request: EvaluationRequest, setting: CellSetting) -> dict[str, Any]:
    """The parameters of a setting that were asked for; the others have their defaults."""
    arm = setting.of or setting.arm
    candidate = next((one for one in request.candidates if one.arm == arm), None)
    if candidate is None:
        return dict(setting.parameters)
    asked = {*candidate.grid, *candidate.method_grid}
    return {name: value for name, value in setting.parameters.items() if name in asked}


def parameter_names(evaluation: Evaluation) -> list[str]:
    """The parameters that tables show: those that were asked for in any arm, in their order."""
    told = (told_parameters(evaluation.request, cell.setting) for cell in evaluation.cells)
    return list(dict.fromkeys(name for parameters in told for name in parameters))


def arm_label(setting: CellSetting) -> str:
    """The arm in words; a control also says what it is matched to."""
    name = arm_words(setting.arm)
    return f"{name} for {arm_words(setting.of)}" if setting.of else name


def describe_setting(request: EvaluationRequest, setting: CellSetting) -> str:
    """Arm and everything that was set, as one line."""
    parts = [*layer_parts(setting), *parameter_parts(told_parameters(request, setting))]
    if setting.strength is not None:
        parts.append(f"strength {number_words(setting.strength)}")
    return " · ".join([arm_label(setting), *parts])


def layer_parts(setting: CellSetting) -> list[str]:
    """The layers of a setting in words; nothing for one that has none."""
    if not setting.layers:
        return []
    plural = "" if len(setting.layers) == 1 else "s"
    return [f"layer{plural} {' + '.join(map(str, setting.layers))}"]


def parameter_parts(parameters: dict[str, Any]) -> list[str]:
    """Each parameter by its name, with its value."""
    return [f"{name.replace('_', ' ')} {value_words(v)}" for name, v in parameters.items()]


def percent_interval(interval: tuple[float, float]) -> str:
    """An interval of shares as ``36–56%``."""
    low, high = interval
    return f"{100 * low:.0f}–{100 * high:.0f}%"


def cell_table(evaluation: Evaluation) -> dict[str, list[Any]]:
    """One row per cell, as columns; shares in percent."""
    settings = [cell.setting for cell in evaluation.cells]
    names = table_parameters(evaluation)
    return {
        "arm": [arm_label(setting) for setting in settings],
        "layer": [" + ".join(map(str, setting.layers)) for setting in settings],
        **{column: _parameter_column(settings, name) for column, name in names.items()},
        **_figure_columns(evaluation),
    }


def table_parameters(evaluation: Evaluation) -> dict[str, str]:
    """The parameters that ``cell_table`` shows, by the headings of their columns."""
    taken = ("arm", "layer", *_figure_columns(evaluation))
    return parameter_columns(parameter_names(evaluation), taken)


def _figure_columns(evaluation: Evaluation) -> dict[str, list[Any]]:
    cells = evaluation.cells
    return {
        "strength": [cell.setting.strength for cell in cells],
        **_rate_columns(evaluation, [cell.rates for cell in cells]),
        "resid_share": [_hundred(cell.resid_share) for cell in cells],
        **_p_columns(cells),
    }


def parameter_columns(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    """Parameters by the heading of their column, which is unlike any that is taken."""
    others = set(taken)
    return {f"parameter_{name}" if name in others else name: name for name in names}


def _parameter_column(settings: Sequence[CellSetting], name: str) -> list[Any]:
    """Numbers where all are, else texts, as a column holds values of one kind."""
    values = [setting.parameters.get(name) for setting in settings]
    known = [value for value in values if value is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in known):
        return values
    return [None if value is None else value_words(value) for value in values]


def best_table(evaluation: Evaluation) -> dict[str, list[Any]]:
    """The best setting of every arm with its figures on the reporting half, as columns."""
    best = evaluation.best
    columns = _rate_columns(evaluation, [one.rates for one in best])
    left_out = {"loose_ci", "distinct_2", "unjudged"}
    settings = [evaluation.cells[one.cell].setting for one in best]
    return {
        "setting": [describe_setting(evaluation.request, setting) for setting in settings],
        **{name: column for name, column in columns.items() if name not in left_out},
        **_p_columns(best),
    }


def _p_columns(tested: Sequence[Cell | BestCell]) -> dict[str, list[Any]]:
    return {
        "p_unsteered": [one.p_unsteered for one in tested],
        "p_random": [one.p_random for one in tested],
        "p_prompted": [one.p_prompted for one in tested],
    }


def _rate_columns(evaluation: Evaluation, rates: Sequence[Rates]) -> dict[str, list[Any]]:
    useful: dict[str, list[Any]] = {
        "useful": [100 * one.primary for one in rates],
        "useful_ci": [percent_interval(one.primary_ci) for one in rates],
    }
    return {
        "n": [one.n for one in rates],
        **(useful if primary_measure(evaluation) == "useful" else {}),
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


def qualifies(evaluation: Evaluation, best: BestCell) -> bool:
    """Whether the best setting of an arm broke few enough of the texts that it was chosen on."""
    cell = evaluation.cells[best.cell]
    return cell.setting.strength is None or cell.choosing.disorder <= WORST_DISORDER


def unqualified_sentence(evaluation: Evaluation) -> str:
    """Says of which arms no setting qualified as the best; "" where one of each did."""
    arms = [arm_words(one.arm) for one in evaluation.best if not qualifies(evaluation, one)]
    if not arms:
        return ""
    named = " and of ".join(filter(None, [", of ".join(arms[:-1]), arms[-1]]))
    return (
        f"None qualified of {named}: every setting broke more than {WORST_DISORDER:.0%} of the "
        "texts that it is chosen on. What stands here is only the nearest, "
        f"{nearest_words(evaluation)}."
    )


def nearest_words(evaluation: Evaluation) -> str:
    """What the best setting of an arm is where none of it qualified."""
    if primary_measure(evaluation) == "useful":
        return "the one with the most useful texts"
    return "the one that follows most often"


def cell_arm(evaluation: Evaluation, number: int) -> Arm | None:
    """The arm that a cell was written by, for another page to steer with; None if not kept."""
    setting, request = evaluation.cells[number].setting, evaluation.request
    made = evaluation.made_for(setting)
    if made is None or setting.strength is None:
        return None
    kind = next((control for control in CONTROLS if setting.of and control == setting.arm), None)
    edits = made.edits
    if request.keep_norm:
        edits = tuple(replace(edit, keep_norm=True) for edit in edits)
    parts = [*layer_parts(setting), *parameter_parts(told_parameters(request, setting))]
    return Arm(
        " · ".join([arm_label(setting), *parts]),
        kind or "steered",
        edits,
        strength=setting.strength,
        schedule=request.schedule,
        seed=request.sampling.seed,
        origin=made.origin,
    )


def basket_of(arm: Arm) -> tuple[ChosenLatent, ...]:
    """The latents of an arm that a basket can hold; none of one that it cannot stand for.

    A basket adds latents of one SAE, after one block.
    """
    if arm.kind != "steered" or len(arm.edits) != 1:
        return ()
    (edit,) = arm.edits
    plain = Edit(edit.layer, sae_id=edit.sae_id, latents=edit.latents, keep_norm=edit.keep_norm)
    return edit.latents if edit == plain else ()
