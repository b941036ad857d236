import itertools
from dataclasses import replace
from typing import Any

import pytest

from app.charts.evaluation import (
    ARM_NAMES,
    CELL_CLICK,
    accuracy_chart,
    cell_rows,
    chart_words,
    disorder_chart,
    heat_groups,
    heat_map,
    pareto_chart,
    pareto_front,
    perplexity_chart,
)
from app.presentation.evaluation import (
    ARM_COLOURS,
    best_table,
    cell_table,
    describe_setting,
    lab_latents,
)
from saif_core.records.evaluation import (
    EVALUATION_ARMS,
    BestCell,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    Rates,
)
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent

INSTRUCTION = Instruction("say-oui", "", "keyword", {"keyword": "oui"}, (Wording("Say oui."),))
REQUEST = EvaluationRequest(
    instruction=INSTRUCTION,
    sae_ids=("s",),
    rank_contents=("a",),
    rank_wordings=("Say oui.",),
    test_contents=("b", "c", "d", "e"),
    test_wordings=("Say oui.",),
    strengths=(0.5, 1.0),
    tops=(5, 15),
)


def rates(strict: float, disorder: float, perplexity: float | None = 10.0) -> Rates:
    """Rates of 40 judged texts and one that was not."""
    return Rates(
        n=40,
        strict=strict,
        strict_ci=(strict / 2, (1 + strict) / 2),
        loose=min(1.0, strict + 0.1),
        loose_ci=(strict / 2 + 0.05, 1.0),
        unjudged=1,
        success=strict * (1 - disorder),
        retained=(1 - strict) * (1 - disorder),
        disorder=disorder,
        disorder_ci=(disorder / 2, (1 + disorder) / 2),
        perplexity=perplexity,
        distinct_2=0.9,
    )


def cell(setting: CellSetting, strict: float, disorder: float, **extra: Any) -> Cell:
    found = rates(strict, disorder)
    return Cell(setting, found, found, replace(found, strict=strict / 4), **extra)


def saif(k: int, strength: float, *, layer: int = 1, beta: float = 0.0) -> CellSetting:
    return CellSetting("saif", "", (layer,), k, beta, strength)


CELLS = (
    cell(CellSetting("unsteered"), 0.02, 0.0),
    cell(CellSetting("prompted"), 0.95, 0.01, p_unsteered=1e-6),
    cell(saif(5, 0.5), 0.10, 0.00),
    cell(saif(5, 1.0), 0.30, 0.05),
    cell(saif(15, 0.5), 0.25, 0.05),
    cell(saif(15, 1.0), 0.60, 0.10, resid_share=0.4, p_unsteered=0.001, p_random=0.002),
    cell(CellSetting("random", "saif", (1,), 5, 0.0, 1.0), 0.01, 0.50),
)
EVALUATION = Evaluation(
    request=REQUEST,
    model="m",
    model_sha256="",
    sae_sha256s=("",),
    dtype="float32",
    cells=CELLS,
    best=(
        BestCell("unsteered", 0, CELLS[0].reporting),
        BestCell("saif", 5, CELLS[5].reporting, 0.001, 0.002),
    ),
    best_sae_arm="saif",
    latents={"1": tuple(ChosenLatent(100 + n, 1.0 + n) for n in range(15))},
    seconds=2.0,
)


def rows_of(spec: dict[str, Any], part: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = spec["datasets"][part["data"]["name"]]
    return rows


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("background", ["#ffffff", "#12171d"])
def test_every_arm_has_a_colour_that_is_seen_in_light_and_dark(background: str) -> None:
    assert set(ARM_COLOURS) == set(ARM_NAMES) == set(EVALUATION_ARMS)
    assert len(set(ARM_COLOURS.values())) == len(set(ARM_NAMES.values())) == len(EVALUATION_ARMS)
    for colour in ARM_COLOURS.values():
        dark, light = sorted((luminance(colour), luminance(background)))
        assert (light + 0.05) / (dark + 0.05) > 3


def test_a_setting_is_described_by_what_it_has() -> None:
    assert describe_setting(CellSetting("unsteered")) == "unsteered"
    assert describe_setting(CellSetting("one-latent", "", (1, 3), 1, 0.5, 2.0)) == (
        "one latent · layers 1 + 3 · 1 latent · β 0.5 · strength 2"
    )
    assert describe_setting(CELLS[6].setting) == (
        "random latents for SAIF latents · layer 1 · 5 latents · β 0 · strength 1"
    )


def test_rows_hold_the_figures_of_the_chosen_grade() -> None:
    strict, loose = cell_rows(EVALUATION, "strict"), cell_rows(EVALUATION, "loose")
    assert [row["value"] for row in strict] == [one.rates.strict for one in CELLS]
    assert [row["value"] for row in loose] == [one.rates.loose for one in CELLS]
    assert [(row["low"], row["high"]) for row in loose] == [one.rates.loose_ci for one in CELLS]
    assert {row["n"] for row in strict} == {40}
    assert {row["n_all"] for row in strict} == {41}


def test_lines_of_an_arm_are_told_apart_by_what_varies_only() -> None:
    rows = cell_rows(EVALUATION, "strict")
    assert [row["variant"] for row in rows if row["arm"] == ARM_NAMES["saif"]] == [
        "5 latents",
        "5 latents",
        "15 latents",
        "15 latents",
    ]
    assert [row["variant"] for row in rows if row["arm"] == ARM_NAMES["random"]] == [""]
    one_k = replace(EVALUATION, cells=(CELLS[2], CELLS[3]))
    assert {row["variant"] for row in cell_rows(one_k, "strict")} == {""}
    layers = (cell(saif(5, 1.0), 0.1, 0.0), cell(saif(5, 1.0, layer=2), 0.2, 0.0))
    rows = cell_rows(replace(EVALUATION, cells=layers), "strict")
    assert [row["variant"] for row in rows] == ["layer 1", "layer 2"]


def test_shapes_tell_lines_apart_where_colours_do_not() -> None:
    spec = accuracy_chart(EVALUATION, "strict").to_dict()
    points = spec["layer"][-1]
    shape = points["encoding"]["shape"]
    kinds = dict(zip(shape["scale"]["domain"], shape["scale"]["range"], strict=True))
    lines = {(row["arm"], row["variant"]): row["shape"] for row in rows_of(spec, points)}
    assert len(lines) == len(set(lines.values())) == len(set(kinds.values())) == 3
    assert shape["legend"]["values"] == ["5 latents", "15 latents"]
    assert shape["legend"]["columns"] == 2


def test_long_names_of_lines_stand_below_each_other() -> None:
    controls = tuple(
        cell(CellSetting("random", arm, (1, 2), k, 0.0, 1.0), 0.1, 0.1)
        for arm, k in (("saif", 5), ("denoised", 30))
    )
    spec = accuracy_chart(replace(EVALUATION, cells=controls), "strict").to_dict()
    legend = spec["layer"][-1]["encoding"]["shape"]["legend"]
    assert "for denoised mean difference · 30 latents" in legend["values"]
    assert legend["columns"] == 1


def test_points_of_one_strength_stand_apart_but_near_it() -> None:
    rows = [row for row in cell_rows(EVALUATION, "strict") if row["strength"] == 1.0]
    places = [row["x"] for row in rows]
    assert len(set(places)) == len(rows) == 3
    assert all(abs(place - 1.0) < 0.05 for place in places)


def test_baselines_are_rules_and_all_else_lines_with_intervals() -> None:
    spec = accuracy_chart(EVALUATION, "strict").to_dict()
    rules, labels, intervals, lines, points = spec["layer"]
    assert [row["arm"] for row in rows_of(spec, rules)] == ["unsteered", "prompted"]
    assert labels["encoding"]["text"]["field"] == "arm"
    assert [row["cell"] for row in rows_of(spec, points)] == [2, 3, 4, 5, 6]
    assert intervals["encoding"]["y"]["field"] == "low"
    assert intervals["encoding"]["y2"]["field"] == "high"
    assert lines["mark"]["strokeDash"] == [1, 0]
    assert accuracy_chart(EVALUATION, "loose").to_dict()["layer"][3]["mark"]["strokeDash"] != [1, 0]
    (click,) = spec["params"]
    assert click["name"] == CELL_CLICK
    assert click["select"]["fields"] == ["cell"]
    colours = points["encoding"]["color"]["scale"]
    assert dict(zip(colours["domain"], colours["range"], strict=True)) == {
        ARM_NAMES[arm]: ARM_COLOURS[arm] for arm in ("unsteered", "prompted", "saif", "random")
    }


def test_the_panels_have_the_same_x_axis() -> None:
    charts = (accuracy_chart(EVALUATION, "strict"), disorder_chart(EVALUATION))
    scales = [
        layer["encoding"]["x"]["scale"]
        for chart in (*charts, perplexity_chart(EVALUATION))
        for layer in chart.to_dict()["layer"]
        if "scale" in layer["encoding"].get("x", {})
    ]
    assert len(scales) >= 3
    assert all(scale == scales[0] for scale in scales)


def test_the_disorder_panel_shows_its_own_intervals() -> None:
    spec = disorder_chart(EVALUATION).to_dict()
    interval = next(layer for layer in spec["layer"] if "y2" in layer["encoding"])
    assert interval["encoding"]["y"]["field"] == "low"
    found = {row["cell"]: (row["low"], row["high"]) for row in rows_of(spec, interval)}
    assert found == {number: CELLS[number].rates.disorder_ci for number in range(2, 7)}


def test_cells_of_empty_texts_have_no_perplexity_to_draw() -> None:
    empty = replace(CELLS[3], rates=rates(0.3, 0.05, perplexity=None))
    spec = perplexity_chart(replace(EVALUATION, cells=(*CELLS[:3], empty))).to_dict()
    points = spec["layer"][-1]
    assert [row["cell"] for row in rows_of(spec, points)] == [2]


@pytest.mark.parametrize("n", [0, 1, 7])
def test_charts_can_be_drawn_of_any_number_of_cells(n: int) -> None:
    evaluation = replace(EVALUATION, cells=CELLS[-n:] if n else ())
    for chart in (
        accuracy_chart(evaluation, "strict"),
        disorder_chart(evaluation),
        perplexity_chart(evaluation),
        pareto_chart(evaluation),
    ):
        assert chart.to_dict()["layer"]


def test_the_front_is_what_no_steered_cell_beats() -> None:
    def beaten(one: Cell, others: tuple[Cell, ...]) -> bool:
        mine = one.rates
        return any(
            other.rates.strict >= mine.strict
            and other.rates.disorder <= mine.disorder
            and (other.rates.strict, other.rates.disorder) != (mine.strict, mine.disorder)
            for other in others
        )

    figures = list(itertools.product((0.0, 0.3, 0.6), (0.0, 0.2, 0.4)))
    sets = [
        CELLS,
        *(
            tuple(cell(saif(5, 1.0), *pair) for pair in chosen)
            for chosen in itertools.combinations_with_replacement(figures, 4)
        ),
    ]
    for cells in sets:
        steered = tuple(one for one in cells if one.setting.arm == "saif")
        expected = {
            number
            for number, one in enumerate(cells)
            if one.setting.arm == "saif" and not beaten(one, steered)
        }
        assert set(pareto_front(cells)) == expected
    assert pareto_front(CELLS) == [2, 3, 5]


def test_the_pareto_plot_joins_the_front_and_shows_every_cell() -> None:
    spec = pareto_chart(EVALUATION).to_dict()
    line, rings, dots = spec["layer"]
    assert [row["cell"] for row in rows_of(spec, line)] == [2, 3, 5]
    assert rings["data"] == line["data"]
    assert len(rows_of(spec, dots)) == len(CELLS)


def test_several_k_make_a_heat_map_per_arm() -> None:
    groups = heat_groups(EVALUATION)
    assert groups == {"SAIF latents · layer 1 · β 0": [2, 3, 4, 5]}
    spec = heat_map(EVALUATION, groups["SAIF latents · layer 1 · β 0"]).to_dict()
    rows = rows_of(spec, spec)
    assert {(row["k"], row["strength"]): row["value"] for row in rows} == {
        (5, 0.5): 0.10,
        (5, 1.0): 0.30,
        (15, 0.5): 0.25,
        (15, 1.0): 0.60,
    }
    assert not heat_groups(replace(EVALUATION, cells=CELLS[:4]))


def test_words_for_a_chart_hold_its_figures() -> None:
    words = chart_words(EVALUATION, "value")
    assert "SAIF latents · layer 1 · 15 latents · β 0 · strength 1: 60%" in words
    assert words.count(";") == len(CELLS) - 1


def test_tables_hold_the_figures_in_percent() -> None:
    table = cell_table(EVALUATION)
    assert table["strict"][5] == 60.0
    assert table["strict_ci"][5] == "30–80%"
    assert table["resid_share"] == [None, None, None, None, None, 40.0, None]
    assert table["p_random"][5] == 0.002
    assert {len(column) for column in table.values()} == {len(CELLS)}


def test_the_table_of_the_best_is_of_the_reporting_half() -> None:
    table = best_table(EVALUATION)
    assert table["setting"][1] == describe_setting(CELLS[5].setting)
    assert table["strict"][1] == pytest.approx(15.0)
    assert table["p_unsteered"] == [None, 0.001]


def test_the_lab_gets_the_latents_that_a_cell_steered_with() -> None:
    assert [one.index for one in lab_latents(EVALUATION, 3)[1]] == [100, 101, 102, 103, 104]
    assert lab_latents(EVALUATION, 5) == {1: EVALUATION.latents["1"]}
    other_beta = replace(EVALUATION, cells=(cell(saif(5, 1.0, beta=1.0), 0.1, 0.0),))
    assert lab_latents(other_beta, 0) == {}
    for number in (0, 1, 6):
        assert lab_latents(EVALUATION, number) == {}
