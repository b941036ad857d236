"""Which strengths are safe, by measured cells: the band, the best of it, and the words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from app.dashboard.compare.measured_strength import (
    MeasuredStrength,
    band_chart,
    best_strength,
    measured_sentence,
)
from saif_core.records.evaluation import Cell, CellSetting, Evaluation, MadeEdits, Rates
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Edit
from tests.storage_samples import as_before
from tests.test_charts_evaluation import EVALUATION


def rates(strict: float, disorder: float, n: int = 50, *, useful: float | None = None) -> Rates:
    useful = strict / 2 if useful is None else useful
    return Rates(
        n=n,
        strict=strict,
        strict_ci=(0.0, 1.0),
        loose=strict,
        loose_ci=(0.0, 1.0),
        unjudged=0,
        success=strict,
        retained=1 - strict - disorder,
        disorder=disorder,
        disorder_ci=(0.0, 1.0),
        perplexity=None,
        distinct_2=1.0,
        useful=useful,
        useful_ci=(useful / 2, (1 + useful) / 2),
    )


def cell(
    strength: float,
    strict: float,
    disorder: float,
    *,
    arm: str = "saif",
    k: int = 15,
    layers: tuple[int, ...] = (29,),
    reported: float | None = None,
    useful: float | None = None,
) -> Cell:
    setting = CellSetting(arm, layers=layers, parameters={"top": k}, strength=strength)
    reporting = rates(strict if reported is None else reported, disorder, useful=useful)
    whole, choosing = (rates(strict, disorder, n, useful=useful) for n in (100, 50))
    return Cell(setting, whole, choosing, reporting)


def made_of(cells: Sequence[Cell], sae_id: str = "sae") -> tuple[MadeEdits, ...]:
    """What the cells were steered with: the first latents of an SAE, as many as asked for."""
    made = {}
    for one in cells:
        setting = one.setting
        latents = tuple(ChosenLatent(n, 1.0) for n in range(setting.parameters["top"]))
        edits = tuple(
            Edit(layer, sae_id=sae_id, latents=latents, share=1 / len(setting.layers))
            for layer in setting.layers
        )
        key = setting.arm, setting.layers, setting.parameters["top"]
        made[key] = MadeEdits(setting.arm, setting.layers, setting.parameters, edits)
    return tuple(made.values())


def measured_with(cells: Sequence[Cell], **changes: Any) -> Evaluation:
    return replace(EVALUATION, cells=tuple(cells), best=(), made=made_of(cells), **changes)


def edit_of(n: int, **changes: Any) -> Edit:
    """The edit of a basket of the first latents."""
    latents = tuple(ChosenLatent(index, 1.0) for index in range(n))
    return replace(Edit(29, sae_id="sae", latents=latents), **changes)


def found(cells: Sequence[Cell], n: int = 15) -> MeasuredStrength:
    measured = best_strength(measured_with(cells), edit_of(n))
    assert measured is not None
    return measured


def test_the_best_strength_is_chosen_on_one_half_and_told_on_the_other() -> None:
    cells = [cell(0.4, 0.2, 0.0), cell(0.8, 0.5, 0.02, reported=0.46), cell(1.2, 0.4, 0.2)]
    measured = found(cells)
    assert (measured.strength, measured.rates) == (0.8, cells[1].reporting)
    assert measured_sentence(measured) == (
        "Measured with 15 latents of saif, n = 50: useful 23% [12–62], strict 46%, disorder 2% at "
        "0.8; at most 20% disorder up to 1.2 (the band)."
    )


def test_the_strength_with_the_most_useful_texts_is_the_best() -> None:
    cells = [cell(0.4, 0.5, 0.0, useful=0.4), cell(0.8, 0.9, 0.0, useful=0.1)]
    assert found(cells).strength == 0.4
    silent = best_strength(measured_with(cells, content_measure=""), edit_of(15))
    assert silent is not None
    assert "useful 40% [20–70] (content was not checked), strict 50%" in measured_sentence(silent)
    level = [cell(0.4, 0.5, 0.0, useful=0.0), cell(0.8, 0.9, 0.0, useful=0.0)]
    assert found(level).strength == 0.8


def test_of_an_evaluation_of_before_the_strictest_strength_is_told() -> None:
    cells = [cell(0.4, 0.5, 0.0, useful=0.4), cell(0.8, 0.9, 0.02, useful=0.1)]
    measured = best_strength(as_before(measured_with(cells)), edit_of(15))
    assert measured is not None
    assert measured_sentence(measured) == (
        "Measured with 15 latents of saif, n = 50: strict 90% [0–100] (content was not checked), "
        "disorder 2% at 0.8; at most 20% disorder up to 0.8 (the band)."
    )


def test_the_band_goes_from_the_least_to_the_last_safe_strength_on_the_dials_scale() -> None:
    cells = [cell(0.4, 0.2, 0.0), cell(0.8, 0.5, 0.02), cell(1.2, 0.4, 0.2), cell(2.0, 0.9, 0.6)]
    spec = band_chart(found(cells), -1.0, 3.0).to_dict()
    (rows,) = spec["datasets"].values()
    assert rows == [{"from": 0.4, "to": 1.2, "best": 0.8}]
    band, best = (layer["encoding"] for layer in spec["layer"])
    assert (band["x"]["field"], band["x2"]["field"], best["x"]["field"]) == ("from", "to", "best")
    for x in (band["x"], best["x"]):
        assert x["scale"] == {"domain": [-1.0, 3.0], "nice": False}


def test_the_band_is_every_strength_within_the_limit_wherever_it_lies() -> None:
    cells = [
        *(cell(0.75, 0.3, 0.3), cell(1.0, 0.5, 0.1), cell(1.25, 0.4, 0.15)),
        *(cell(1.5, 0.9, 0.25), cell(2.0, 0.45, 0.2)),
    ]
    measured = found(cells)
    assert (measured.strength, measured.qualifies) == (1.0, True)
    assert measured.band == ((1.0, 1.25), (2.0, 2.0))
    sentence = measured_sentence(measured)
    assert "at most 20% disorder at 1 to 1.25 and 2 (the band)" in sentence
    assert "at every strength" not in sentence
    spec = band_chart(measured, 0.0, 3.0).to_dict()
    (rows,) = spec["datasets"].values()
    assert [(row["from"], row["to"]) for row in rows] == [(1.0, 1.25), (2.0, 2.0)]
    # A band of a single strength is seen by its stroke.
    assert spec["layer"][0]["mark"]["strokeWidth"] > 0


def test_a_strength_beyond_the_limit_is_never_the_best_however_good() -> None:
    cells = [cell(2.0, 0.9, 0.1), cell(0.5, 0.3, 0.0), cell(1.0, 0.95, 0.21)]
    measured = found(cells)
    assert (measured.strength, measured.band) == (2.0, ((0.5, 0.5), (2.0, 2.0)))
    assert "disorder at 0.5 and 2 (the band)" in measured_sentence(measured)


def test_a_band_that_does_not_begin_at_the_least_strength_says_where() -> None:
    measured = found([cell(0.5, 0.3, 0.3), cell(1.0, 0.8, 0.1)])
    assert "at most 20% disorder at 1 (the band)" in measured_sentence(measured)


def test_disorder_at_every_strength_leaves_none_to_take() -> None:
    measured = found([cell(0.5, 0.9, 0.5), cell(0.75, 0.1, 0.3), cell(1.0, 0.5, 0.7)])
    assert not measured.qualifies
    assert measured.band == ()
    sentence = measured_sentence(measured)
    assert "at every strength more than 20%" in sentence
    assert "so none qualifies; the nearest is 0.75 with 30%" in sentence


@pytest.mark.parametrize("strength", [0.75, 0.625, 1.0])
def test_strengths_are_told_as_they_were_typed(strength: float) -> None:
    measured = found([cell(strength, 0.5, 0.0)])
    assert f"disorder 0% at {strength:g}; " in measured_sentence(measured)
    assert f"up to {strength:g} (the band)" in measured_sentence(measured)
    spec = band_chart(measured, 0.0, 3.0).to_dict()
    for layer in spec["layer"]:
        assert {tip["format"] for tip in layer["encoding"]["tooltip"]} == {"~g"}


def test_the_latents_most_like_the_basket_are_taken() -> None:
    cells = [cell(0.5, 0.1, 0.0, k=1), cell(0.7, 0.2, 0.0, k=15), cell(0.9, 0.3, 0.0, k=60)]
    taken = [found(cells, n) for n in (2, 20, 100)]
    assert [one.n_latents for one in taken] == [1, 15, 60]
    assert "1 latent of saif, n" in measured_sentence(taken[0])
    evaluation = measured_with([*cells, cell(1.0, 0.4, 0.0, arm="other", k=20)])
    others = tuple(ChosenLatent(100 + n, 1.0) for n in range(20))
    *rest, last = evaluation.made
    other = replace(last, edits=(replace(last.edits[0], latents=others),))
    evaluation = replace(evaluation, made=(*rest, other))
    for latents, arm in ((edit_of(20).latents, "saif"), (others[:5], "other")):
        measured = best_strength(evaluation, edit_of(1, latents=latents))
        assert measured is not None
        assert measured.arm == arm


def test_of_the_same_latents_those_with_the_nearest_coefficients_are_taken() -> None:
    cells = []
    made = []
    for beta in (0.0, 1.0, 2.0):
        one = cell(1.0 + beta, 0.5, 0.0, k=2)
        parameters = {"top": 2, "beta": beta}
        cells.append(replace(one, setting=replace(one.setting, parameters=parameters)))
        latents = tuple(ChosenLatent(n, 1.0 + beta) for n in range(2))
        made.append(MadeEdits("saif", (29,), parameters, (edit_of(0, latents=latents),)))
    evaluation = replace(EVALUATION, cells=tuple(cells), best=(), made=tuple(made))
    wanted = tuple(ChosenLatent(n, 2.1) for n in range(2))
    measured = best_strength(evaluation, edit_of(0, latents=wanted))
    assert measured is not None
    assert measured.strength == 2.0


def test_other_arms_and_layers_say_nothing_of_it() -> None:
    control = replace(cell(0.5, 0.9, 0.0).setting, arm="random", of="saif")
    cells = [replace(cell(0.5, 0.9, 0.0), setting=control), cell(0.5, 0.9, 0.0, layers=(14, 29))]
    evaluation = measured_with(cells)
    # What a control is matched to was made, but no cell of it was measured.
    made = replace(evaluation.made[0], arm="saif")
    assert best_strength(replace(evaluation, made=(made, evaluation.made[1])), edit_of(15)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"sae_id": "another"},
        {"layer": 14},
        {"method": "clamp"},
        {"method_parameters": {"by": 1}},
        {"latents": ()},
    ],
)
def test_what_steers_otherwise_is_not_measured(changes: dict[str, Any]) -> None:
    evaluation = measured_with([cell(0.5, 0.9, 0.0)])
    assert best_strength(evaluation, edit_of(15)) is not None
    assert best_strength(evaluation, replace(edit_of(15), **changes)) is None


def test_an_edit_by_a_method_is_measured_by_cells_of_that_method() -> None:
    evaluation = measured_with([cell(0.5, 0.9, 0.0, arm="saif by clamp")])
    (made,) = evaluation.made
    clamped = replace(made, edits=(replace(made.edits[0], method="clamp"),))
    measured = best_strength(replace(evaluation, made=(clamped,)), edit_of(15, method="clamp"))
    assert measured is not None
    assert "15 latents of saif by clamp" in measured_sentence(measured)
