import itertools
from dataclasses import replace
from typing import Any

import pytest

from app.charts.evaluation import (
    CELL_CLICK,
    accuracy_chart,
    cell_rows,
    chart_words,
    disorder_chart,
    heat_groups,
    heat_map,
    measures,
    pareto_chart,
    pareto_front,
    perplexity_chart,
)
from app.presentation.evaluation import (
    CANDIDATE_COLOURS,
    FIXED_COLOURS,
    arm_colours,
    basket_of,
    best_table,
    cell_arm,
    cell_table,
    describe_setting,
    unqualified_sentence,
)
from saif_core.records.evaluation import (
    BASELINES,
    CONTROLS,
    MOST_CANDIDATES,
    BestCell,
    Candidate,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationRequest,
    MadeEdits,
    Rates,
)
from saif_core.records.prompts import Instruction, Wording
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Edit, Origin, Sampling, Schedule
from tests.storage_samples import as_before

INSTRUCTION = Instruction("say-oui", "", "keyword", {"keyword": "oui"}, (Wording("Say oui."),))
REQUEST = EvaluationRequest(
    instruction=INSTRUCTION,
    sae_ids=("s",),
    rank_contents=("a",),
    rank_wordings=("Say oui.",),
    test_contents=("b", "c", "d", "e"),
    test_wordings=("Say oui.",),
    candidates=(Candidate("saif", {"top": (5, 15)}),),
    strengths=(0.5, 1.0),
)
LATENTS = tuple(ChosenLatent(100 + n, 1.0 + n) for n in range(15))


def rates(
    strict: float,
    disorder: float,
    perplexity: float | None = 10.0,
    *,
    useful: float | None = None,
) -> Rates:
    """Rates of 40 judged texts and one that was not; half of the strict ones are useful."""
    useful = strict / 2 if useful is None else useful
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
        useful=useful,
        useful_ci=(useful / 2, (1 + useful) / 2),
    )


def cell(
    setting: CellSetting,
    strict: float,
    disorder: float,
    *,
    useful: float | None = None,
    **extra: Any,
) -> Cell:
    found = rates(strict, disorder, useful=useful)
    reported = replace(found, strict=strict / 4, useful=found.primary / 4)
    return Cell(setting, found, found, reported, **extra)


def saif(top: int, strength: float, *, layer: int = 1, beta: float = 0.0) -> CellSetting:
    return CellSetting("saif", "", (layer,), {"top": top, "beta": beta}, strength)


def made(setting: CellSetting, *edits: Edit) -> MadeEdits:
    """What a setting was steered with."""
    origin = Origin(setting.arm, setting.parameters)
    return MadeEdits(setting.arm, setting.layers, setting.parameters, edits, origin)


CELLS = (
    cell(CellSetting("unsteered"), 0.02, 0.0),
    cell(CellSetting("prompted"), 0.95, 0.01, p_unsteered=1e-6),
    cell(saif(5, 0.5), 0.10, 0.00),
    cell(saif(5, 1.0), 0.30, 0.05),
    cell(saif(15, 0.5), 0.25, 0.05),
    cell(
        saif(15, 1.0),
        0.60,
        0.10,
        resid_share=0.4,
        p_unsteered=0.001,
        p_random=0.002,
        p_prompted=0.5,
    ),
    cell(replace(saif(5, 1.0), arm="random", of="saif"), 0.01, 0.50),
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
        BestCell("saif", 5, CELLS[5].reporting, 0.001, 0.002, 0.5),
    ),
    best_sae_arm="saif",
    made=tuple(made(saif(top, 1.0), Edit(1, sae_id="s", latents=LATENTS[:top])) for top in (5, 15)),
    seconds=2.0,
    content_measure="embedding",
)
BEFORE = as_before(EVALUATION)


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
def test_every_colour_is_seen_in_light_and_dark(background: str) -> None:
    assert set(FIXED_COLOURS) == {*BASELINES, *CONTROLS}
    colours = (*FIXED_COLOURS.values(), *CANDIDATE_COLOURS)
    assert len(set(colours)) == len(colours)
    for colour in colours:
        dark, light = sorted((luminance(colour), luminance(background)))
        assert (light + 0.05) / (dark + 0.05) > 3


def test_candidates_take_the_colours_in_their_order_and_all_else_keeps_its_own() -> None:
    candidates = tuple(Candidate(f"source_{n}") for n in range(MOST_CANDIDATES))
    request = replace(REQUEST, candidates=candidates, controls=CONTROLS)
    colours = arm_colours(replace(EVALUATION, request=request, cells=()))
    assert list(colours) == list(request.arms)
    n = len(CANDIDATE_COLOURS)
    taken = [colours[candidate.arm] for candidate in candidates]
    assert (taken[:n], taken[n : 2 * n]) == ([*CANDIDATE_COLOURS], [*CANDIDATE_COLOURS])
    assert {arm: colours[arm] for arm in (*BASELINES, *CONTROLS)} == FIXED_COLOURS
    few = arm_colours(replace(EVALUATION, request=replace(request, candidates=candidates[:1])))
    assert few["random"] == colours["random"]
    # An arm that the request does not name has a colour too.
    assert few["saif"] == CANDIDATE_COLOURS[1]


def test_no_two_of_the_most_candidates_look_alike() -> None:
    candidates = tuple(Candidate(f"source_{n}") for n in range(MOST_CANDIDATES))
    cells = tuple(cell(CellSetting(c.arm, "", (1,), {}, 1.0), 0.5, 0.0) for c in candidates)
    evaluation = replace(EVALUATION, request=replace(REQUEST, candidates=candidates), cells=cells)
    spec = accuracy_chart(evaluation, "strict").to_dict()
    points = spec["layer"][-1]
    looks = []
    for row in rows_of(spec, spec):
        kinds = []
        for channel, field in (("color", "arm"), ("shape", "shape")):
            scale = points["encoding"][channel]["scale"]
            kinds.append(scale["range"][scale["domain"].index(row[field])])
        looks.append(tuple(kinds))
    assert len(set(looks)) == len(looks) == MOST_CANDIDATES


def test_a_setting_is_described_by_what_was_asked_for() -> None:
    assert describe_setting(REQUEST, CellSetting("unsteered")) == "unsteered"
    one = Candidate("one_latent", {"latent": (None, 7)}, "clamp", {"least": (0.25,)})
    request = replace(REQUEST, candidates=(one,))
    parameters = {"latent": None, "beta": 0.5, "least": 0.25}
    setting = CellSetting("one_latent by clamp", "", (1, 3), parameters, 0.75)
    assert describe_setting(request, setting) == (
        "one latent by clamp · layers 1 + 3 · latent none · least 0.25 · strength 0.75"
    )
    assert describe_setting(REQUEST, CELLS[6].setting) == (
        "random for saif · layer 1 · top 5 · strength 1"
    )
    # Nothing is known of what was asked for: everything is told.
    assert "beta 0.5 · least 0.25" in describe_setting(REQUEST, setting)


@pytest.mark.parametrize(
    ("typed", "words"),
    [(0.75, "0.75"), (1.0, "1"), (0.1 + 0.2, "0.3"), (100_000.0, "100000"), (0.125, "0.125")],
)
def test_numbers_are_told_as_they_are_typed(typed: float, words: str) -> None:
    setting = CellSetting("saif", "", (1,), {"top": 5, "beta": typed}, typed)
    request = replace(REQUEST, candidates=(Candidate("saif", {"beta": (typed,)}),))
    assert describe_setting(request, setting) == (
        f"saif · layer 1 · beta {words} · strength {words}"
    )


def test_rows_hold_the_figures_of_the_chosen_grade() -> None:
    strict, loose = cell_rows(EVALUATION, "strict"), cell_rows(EVALUATION, "loose")
    useful = cell_rows(EVALUATION, "useful")
    assert [row["value"] for row in useful] == [one.rates.useful for one in CELLS]
    assert [(row["low"], row["high"]) for row in useful] == [one.rates.useful_ci for one in CELLS]
    assert [row["value"] for row in strict] == [one.rates.strict for one in CELLS]
    assert [row["value"] for row in loose] == [one.rates.loose for one in CELLS]
    assert [(row["low"], row["high"]) for row in loose] == [one.rates.loose_ci for one in CELLS]
    assert {row["n"] for row in strict} == {40}
    assert {row["n_all"] for row in strict} == {41}


def test_lines_of_an_arm_are_told_apart_by_what_varies_only() -> None:
    rows = cell_rows(EVALUATION, "strict")
    assert [row["variant"] for row in rows if row["arm"] == "saif"] == [
        "top 5",
        "top 5",
        "top 15",
        "top 15",
    ]
    assert [row["variant"] for row in rows if row["arm"] == "random"] == [""]
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
    assert shape["legend"]["values"] == ["top 5", "top 15"]
    assert shape["legend"]["columns"] == 2


def test_long_names_of_lines_stand_below_each_other() -> None:
    controls = tuple(
        cell(CellSetting("random", arm, (1, 2), {"top": top, "beta": 0.0}, 1.0), 0.1, 0.1)
        for arm, top in (("saif", 5), ("mean_of_everything", 30))
    )
    spec = accuracy_chart(replace(EVALUATION, cells=controls), "strict").to_dict()
    legend = spec["layer"][-1]["encoding"]["shape"]["legend"]
    assert "for mean of everything · top 30" in legend["values"]
    assert legend["columns"] == 1


def test_points_of_one_strength_stand_apart_but_near_it() -> None:
    rows = [row for row in cell_rows(EVALUATION, "strict") if row["strength"] == 1.0]
    places = [row["x"] for row in rows]
    assert len(set(places)) == len(rows) == 3
    assert all(abs(place - 1.0) < 0.05 for place in places)


def test_baselines_are_rules_and_all_else_lines_with_intervals() -> None:
    spec = accuracy_chart(EVALUATION, "useful").to_dict()
    rules, labels, intervals, lines, points = spec["layer"]
    assert [row["arm"] for row in rows_of(spec, rules)] == ["unsteered", "prompted"]
    assert labels["encoding"]["text"]["field"] == "arm"
    assert [row["cell"] for row in rows_of(spec, points)] == [2, 3, 4, 5, 6]
    assert intervals["encoding"]["y"]["field"] == "low"
    assert intervals["encoding"]["y2"]["field"] == "high"
    assert lines["mark"]["strokeDash"] == [1, 0]
    others = [accuracy_chart(EVALUATION, measure).to_dict() for measure in ("strict", "loose")]
    dashes = [tuple(chart["layer"][3]["mark"]["strokeDash"]) for chart in others]
    assert len({*dashes, (1, 0)}) == 3
    (click,) = spec["params"]
    assert click["name"] == CELL_CLICK
    assert click["select"]["fields"] == ["cell"]
    colours = points["encoding"]["color"]["scale"]
    assert dict(zip(colours["domain"], colours["range"], strict=True)) == {
        "saif": CANDIDATE_COLOURS[0],
        **{arm: FIXED_COLOURS[arm] for arm in ("unsteered", "prompted", "random")},
    }


def tooltips(layer: dict[str, Any]) -> dict[str, str]:
    """What a mark tells, by its title."""
    told = layer["encoding"]["tooltip"]
    return {one.get("title") or one["field"]: one["field"] for one in told}


def test_charts_count_useful_texts_and_tell_the_other_rates_beside() -> None:
    assert measures(EVALUATION) == ("useful", "strict", "loose")
    (group,) = heat_groups(EVALUATION).values()
    for chart, mark in (
        (accuracy_chart(EVALUATION, "useful"), -1),
        (pareto_chart(EVALUATION), -1),
        (heat_map(EVALUATION, group), 0),
    ):
        spec = chart.to_dict()
        told = tooltips(spec["layer"][mark])
        assert told["useful"] == "value"
        assert {"strict", "loose", "disorder"} <= set(told.values())
        for row in rows_of(spec, spec["layer"][mark] if "data" in spec["layer"][mark] else spec):
            assert row["value"] == CELLS[row["cell"]].rates.useful
    assert (
        tooltips(accuracy_chart(EVALUATION, "strict").to_dict()["layer"][-1])["strict"] == "value"
    )
    titles = [
        chart.to_dict()["layer"][-1]["encoding"]["y"]["title"]
        for chart in (accuracy_chart(EVALUATION, "useful"), pareto_chart(EVALUATION))
    ]
    assert titles == ["useful texts"] * 2


def test_of_an_evaluation_of_before_charts_count_strict_texts() -> None:
    assert measures(BEFORE) == ("strict", "loose")
    spec = pareto_chart(BEFORE).to_dict()
    dots = spec["layer"][-1]
    assert [row["value"] for row in rows_of(spec, dots)] == [one.rates.strict for one in CELLS]
    assert dots["encoding"]["y"]["title"] == "strict accuracy"
    assert tooltips(dots)["strict"] == "value"
    assert "useful" not in tooltips(dots)
    assert chart_words(BEFORE, "value") == chart_words(EVALUATION, "value", "strict")
    (group,) = heat_groups(BEFORE).values()
    for chart in (disorder_chart(BEFORE), perplexity_chart(BEFORE), heat_map(BEFORE, group)):
        assert chart.to_dict()["layer"]


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
            other.rates.primary >= mine.primary
            and other.rates.disorder <= mine.disorder
            and (other.rates.primary, other.rates.disorder) != (mine.primary, mine.disorder)
            for other in others
        )

    figures = list(itertools.product((0.0, 0.3, 0.6), (0.0, 0.2, 0.4)))
    sets = [
        CELLS,
        *(
            # The more useful, the less strict.
            tuple(cell(saif(5, 1.0), 1 - u, disorder, useful=u) for u, disorder in chosen)
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


def test_several_values_of_a_parameter_make_a_heat_map_per_arm() -> None:
    groups = heat_groups(EVALUATION)
    assert {name: group.cells for name, group in groups.items()} == {
        "saif · layer 1: top": (2, 3, 4, 5)
    }
    spec = heat_map(EVALUATION, groups["saif · layer 1: top"]).to_dict()
    rows = rows_of(spec, spec)
    assert {(row["value_of_parameter"], row["strength"]): row["value"] for row in rows} == {
        ("5", 0.5): 0.05,
        ("5", 1.0): 0.15,
        ("15", 0.5): 0.125,
        ("15", 1.0): 0.30,
    }
    y = spec["layer"][0]["encoding"]["y"]
    assert (y["title"], y["sort"]) == ("top", ["15", "5"])
    assert not heat_groups(replace(EVALUATION, cells=CELLS[:4]))


def test_each_parameter_has_heat_maps_with_the_others_held() -> None:
    cells = tuple(
        cell(saif(top, 1.0, beta=beta), 0.1, 0.0) for top in (5, 15) for beta in (0.0, 0.5)
    )
    candidate = Candidate("saif", {"top": (5, 15), "beta": (0.0, 0.5)})
    request = replace(REQUEST, candidates=(candidate,))
    groups = heat_groups(replace(EVALUATION, request=request, cells=cells))
    assert {name: group.cells for name, group in groups.items()} == {
        "saif · layer 1 · beta 0: top": (0, 2),
        "saif · layer 1 · top 5: beta": (0, 1),
        "saif · layer 1 · beta 0.5: top": (1, 3),
        "saif · layer 1 · top 15: beta": (2, 3),
    }


def test_no_chart_rounds_a_strength() -> None:
    strengths = (0.5, 0.75, 1.25)
    cells = tuple(cell(saif(top, s), 0.1, 0.0) for top in (5, 15) for s in strengths)
    evaluation = replace(EVALUATION, cells=cells)
    (group,) = heat_groups(evaluation).values()
    for chart in (accuracy_chart(evaluation, "strict"), heat_map(evaluation, group)):
        spec = chart.to_dict()
        assert "strength 0.75" in chart_words(evaluation, "value")
        axes = [layer["encoding"]["x"] for layer in spec["layer"] if "x" in layer["encoding"]]
        for x in axes:
            if x["type"] == "quantitative" and "axis" in x:
                assert x["axis"]["format"] == ".12~g"
                assert x["axis"]["values"] == list(strengths)
            elif x["type"] == "ordinal":
                assert x["sort"] == ["0.5", "0.75", "1.25"]


def test_words_for_a_chart_hold_its_figures() -> None:
    words = chart_words(EVALUATION, "value")
    assert "saif · layer 1 · top 15 · strength 1: 30%" in words
    assert "strength 1: 60%" in chart_words(EVALUATION, "value", "strict")
    assert words.count(";") == len(CELLS) - 1


def test_tables_hold_the_figures_in_percent() -> None:
    table = cell_table(EVALUATION)
    assert table["strict"][5] == 60.0
    assert table["strict_ci"][5] == "30–80%"
    assert (table["useful"][5], table["useful_ci"][5]) == (30.0, "15–65%")
    assert table["p_prompted"][5] == 0.5
    names = list(table)
    assert names.index("useful") < names.index("strict")
    before = cell_table(BEFORE)
    assert set(names) - set(before) == {"useful", "useful_ci"}
    assert before["strict"] == table["strict"]
    assert table["resid_share"] == [None, None, None, None, None, 40.0, None]
    assert table["p_random"][5] == 0.002
    assert table["top"] == [None, None, 5, 5, 15, 15, 5]
    assert list(table)[:4] == ["arm", "layer", "top", "strength"]
    assert {len(column) for column in table.values()} == {len(CELLS)}


def test_a_parameter_never_takes_the_place_of_a_figure() -> None:
    candidate = Candidate("saif", {"strict": (True, "a lot"), "n": (1, 2)})
    cells = tuple(
        cell(CellSetting("saif", "", (1,), {"strict": strict, "n": n}, 1.0), 0.5, 0.0)
        for strict, n in ((True, 1), ("a lot", 2))
    )
    request = replace(REQUEST, candidates=(candidate,))
    table = cell_table(replace(EVALUATION, request=request, cells=cells))
    assert table["parameter_strict"] == ["yes", "a lot"]
    assert table["parameter_n"] == [1, 2]
    assert table["strict"] == [50.0, 50.0]


def test_the_table_of_the_best_is_of_the_reporting_half() -> None:
    table = best_table(EVALUATION)
    assert table["setting"][1] == describe_setting(REQUEST, CELLS[5].setting)
    assert table["strict"][1] == pytest.approx(15.0)
    assert table["useful"][1] == pytest.approx(7.5)
    assert {"loose", "disorder", "disorder_ci", "perplexity"} <= set(table)
    assert table["p_unsteered"] == [None, 0.001]
    assert table["p_prompted"] == [None, 0.5]
    assert "useful" not in best_table(BEFORE)


def test_an_arm_of_which_nothing_qualified_is_called_so() -> None:
    assert unqualified_sentence(EVALUATION) == ""
    broken = replace(CELLS[5], choosing=rates(0.9, 0.3))
    evaluation = replace(EVALUATION, cells=(*CELLS[:5], broken, *CELLS[6:]))
    sentence = unqualified_sentence(evaluation)
    assert sentence.startswith("None qualified of saif: every setting broke more than 20%")
    assert sentence.endswith("only the nearest, the one with the most useful texts.")
    assert unqualified_sentence(as_before(evaluation)).endswith("the one that follows most often.")
    # A baseline has no settings to choose from.
    broken = replace(CELLS[0], choosing=rates(0.9, 0.3))
    assert not unqualified_sentence(replace(EVALUATION, cells=(broken, *CELLS[1:])))


def arm_of(evaluation: Evaluation, number: int) -> Any:
    arm = cell_arm(evaluation, number)
    assert arm is not None
    return arm


def test_a_basket_gets_the_latents_that_a_cell_steered_with() -> None:
    arm = arm_of(EVALUATION, 3)
    assert [one.index for one in basket_of(arm)] == [100, 101, 102, 103, 104]
    assert basket_of(arm_of(EVALUATION, 5)) == LATENTS
    assert (arm.name, arm.kind, arm.strength) == ("saif · layer 1 · top 5", "steered", 1.0)
    assert arm.origin == Origin("saif", {"top": 5, "beta": 0.0})
    other_beta = replace(EVALUATION, cells=(cell(saif(5, 1.0, beta=1.0), 0.1, 0.0),))
    assert cell_arm(other_beta, 0) is None
    for number in (0, 1):
        assert cell_arm(EVALUATION, number) is None


def test_the_arm_of_a_cell_steers_as_it_was_measured() -> None:
    asked = replace(
        REQUEST, schedule=Schedule(decay=0.2), keep_norm=True, sampling=Sampling(seed=5)
    )
    control = arm_of(replace(EVALUATION, request=asked), 6)
    assert (control.kind, control.seed, control.schedule.decay) == ("random", 5, 0.2)
    assert [edit.keep_norm for edit in control.edits] == [True]
    assert control.name == "random for saif · layer 1 · top 5"
    assert basket_of(control) == ()


@pytest.mark.parametrize(
    "edits",
    [
        (Edit(1, "clamp", sae_id="s", latents=LATENTS),),
        (Edit(1, tensors="a" * 64),),
        (Edit(1, sae_id="s", latents=LATENTS, share=0.5),),
        (Edit(1, sae_id="s", latents=LATENTS), Edit(2, sae_id="t", latents=LATENTS)),
        (Edit(1, sae_id="s", latents=LATENTS, method_parameters={"a": 1}),),
    ],
)
def test_a_basket_stands_for_nothing_but_latents_added_in_one_place(
    edits: tuple[Edit, ...],
) -> None:
    evaluation = replace(EVALUATION, made=(made(saif(5, 1.0), *edits),))
    arm = arm_of(evaluation, 3)
    assert arm.edits == edits
    assert basket_of(arm) == ()
