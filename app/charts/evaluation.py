"""An evaluation as charts: curves by strength, a Pareto plot, heat maps of parameters."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import altair as alt

from app.presentation.arms import arm_words
from app.presentation.evaluation import (
    FIXED_COLOURS,
    arm_colours,
    arm_order,
    describe_setting,
    layer_parts,
    parameter_parts,
    percent_interval,
    primary_measure,
    value_words,
)
from app.presentation.figures import number_words
from saif_core.records.evaluation import (
    WORST_DISORDER,
    Cell,
    CellSetting,
    Evaluation,
    Rates,
)

Measure = Literal["useful", "strict", "loose"]
CELL_CLICK = "cell_click"

_SHAPES = (
    *("circle", "square", "triangle-up", "diamond", "cross", "triangle-down"),
    *("triangle-right", "triangle-left"),
)
_RULE_GREY = FIXED_COLOURS["unsteered"]
# Marks at one strength stand beside each other, so that no interval hides another.
_DODGE = 0.012
# All lines together stay within this share of the distance between two strengths.
_DODGED_SHARE = 0.4
# Axes of this width put the same strength at the same place in every panel.
_AXIS_EXTENT = 48
# In characters; the names of arms are shorter.
_LONGEST_IN_TWO_COLUMNS = 24
_DASHES: dict[Measure, list[int]] = {"useful": [1, 0], "strict": [8, 3], "loose": [3, 3]}
# Titles of axes.
_TITLES: dict[Measure, str] = {
    "useful": "useful texts",
    "strict": "strict accuracy",
    "loose": "loose accuracy",
}
_HEAT = ("#dcebf7", "#08416e")


class HeatGroup(NamedTuple):
    """Cells that differ in strength and in one parameter alone."""

    parameter: str
    cells: tuple[int, ...]


def _variants(cells: Sequence[Cell]) -> list[str]:
    """What tells the lines of one arm apart, per cell: without what all of them share."""
    values: dict[tuple[str, str], set[str]] = {}
    for setting in (cell.setting for cell in cells if cell.setting.strength is not None):
        for name, value in _traits(setting).items():
            values.setdefault((setting.arm, name), set()).add(repr(value))

    def variant(setting: CellSetting) -> str:
        own = _traits(setting)
        told = [name for name in own if len(values.get((setting.arm, name), ())) > 1]
        return " · ".join(
            ([f"for {arm_words(setting.of)}"] if "of" in told else [])
            + (layer_parts(setting) if "layers" in told else [])
            + parameter_parts({n: v for n, v in setting.parameters.items() if f"{n}=" in told})
        )

    return [variant(cell.setting) for cell in cells]


def _traits(setting: CellSetting) -> dict[str, Any]:
    """Everything but the strength, each under a name of its own."""
    parameters = {f"{name}=": value for name, value in setting.parameters.items()}
    return {"of": setting.of, "layers": setting.layers, **parameters}


def measures(evaluation: Evaluation) -> tuple[Measure, ...]:
    """What charts can count, the main figure first."""
    if primary_measure(evaluation) == "strict":
        return "strict", "loose"
    return "useful", "strict", "loose"


def cell_rows(evaluation: Evaluation, measure: Measure) -> list[dict[str, Any]]:
    """One row per cell, as the charts take it; ``x`` is the strength, set slightly apart by line.

    Args:
        measure: what ``value`` and its 95% interval ``low`` to ``high`` count, one of
            ``measures``.
    """
    cells = evaluation.cells
    variants = _variants(cells)
    lines = [
        (cell.setting.arm, variant) if cell.setting.strength is not None else None
        for cell, variant in zip(cells, variants, strict=True)
    ]
    order = list(dict.fromkeys(line for line in lines if line is not None))
    step = _dodge([cell.setting.strength for cell in cells], len(order))
    rows = []
    for number, (cell, line) in enumerate(zip(cells, lines, strict=True)):
        rates, setting = cell.rates, cell.setting
        value, (low, high) = _measured(rates, measure)
        shift = 0.0 if line is None else step * (order.index(line) - (len(order) - 1) / 2)
        rows.append(
            {
                "cell": number,
                "arm": arm_words(setting.arm),
                "variant": "" if line is None else line[1],
                "shape": (line[1] if line else "") or arm_words(setting.arm),
                "line": " ".join(line) if line else "",
                "setting": describe_setting(evaluation.request, setting),
                "strength": setting.strength,
                "x": None if setting.strength is None else setting.strength + shift,
                "value": value,
                "low": low,
                "high": high,
                "interval": percent_interval((low, high)),
                "strict": rates.strict,
                "loose": rates.loose,
                "n": rates.n,
                "disorder": rates.disorder,
                "disorder_low": rates.disorder_ci[0],
                "disorder_high": rates.disorder_ci[1],
                "disorder_interval": percent_interval(rates.disorder_ci),
                "n_all": rates.n + rates.unjudged,
                "perplexity": rates.perplexity,
            }
        )
    return rows


def _primary_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    return cell_rows(evaluation, primary_measure(evaluation))


def _dodge(strengths: Sequence[float | None], n_lines: int) -> float:
    """Distance between neighbouring lines at one strength."""
    known = sorted({strength for strength in strengths if strength is not None})
    if len(known) < 2 or not n_lines:
        return 0.0
    gap = min(after - before for before, after in pairwise(known))
    return min(_DODGE * (known[-1] - known[0]), _DODGED_SHARE * gap / n_lines)


def _measured(rates: Rates, measure: Measure) -> tuple[float, tuple[float, float]]:
    if measure == "useful":
        return rates.primary, rates.primary_ci
    if measure == "strict":
        return rates.strict, rates.strict_ci
    return rates.loose, rates.loose_ci


def accuracy_chart(evaluation: Evaluation, measure: Measure) -> alt.LayerChart:
    """Share of texts that count against strength, with 95% intervals.

    Lines of useful texts are solid, others dashed. A click on a point selects its cell.
    """
    rows = cell_rows(evaluation, measure)
    y = alt.Y(
        "value:Q",
        title=_TITLES[measure],
        scale=alt.Scale(domain=[0, 1]),
        axis=_share_axis(),
    )
    tooltip = [
        alt.Tooltip("setting:N"),
        *_value_tooltips(measure),
        alt.Tooltip("n:Q", title="texts judged"),
        alt.Tooltip("disorder:Q", title="disorder", format=".0%"),
        alt.Tooltip("perplexity:Q", title="median perplexity", format=".3g"),
    ]
    return _panel(
        evaluation,
        rows,
        y,
        interval=("low", "high"),
        tooltip=tooltip,
        dash=_DASHES[measure],
        legend=True,
        height=420,
    )


def _value_tooltips(measure: Measure) -> list[alt.Tooltip]:
    """What a point counts with its interval, and the other rates beside it."""
    others = [name for name in ("strict", "loose") if name != measure]
    return [
        alt.Tooltip("value:Q", title=measure, format=".0%"),
        alt.Tooltip("interval:N", title="95% interval"),
        *(alt.Tooltip(f"{name}:Q", format=".0%") for name in others),
    ]


def disorder_chart(evaluation: Evaluation) -> alt.LayerChart:
    """Share of broken texts against strength, with 95% intervals and the most that is accepted."""
    rows = [
        row | {"low": row["disorder_low"], "high": row["disorder_high"]}
        for row in _primary_rows(evaluation)
    ]
    y = alt.Y("disorder:Q", title="disorder", scale=alt.Scale(domain=[0, 1]), axis=_share_axis())
    tooltip = [
        alt.Tooltip("setting:N"),
        alt.Tooltip("disorder:Q", format=".0%"),
        alt.Tooltip("disorder_interval:N", title="95% interval"),
        alt.Tooltip("n_all:Q", title="texts"),
    ]
    worst = (
        alt.Chart(alt.InlineData(values=[{"disorder": WORST_DISORDER}]))
        .mark_rule(strokeDash=[2, 3], color=_RULE_GREY)
        .encode(y=y, tooltip=[alt.Tooltip("disorder:Q", title="most accepted", format=".0%")])
    )
    return _panel(
        evaluation,
        rows,
        y,
        interval=("low", "high"),
        tooltip=tooltip,
        height=240,
        below=[worst],
    )


def perplexity_chart(evaluation: Evaluation) -> alt.LayerChart:
    """Median perplexity of the texts under the unsteered model against strength, log scale."""
    rows = [row for row in _primary_rows(evaluation) if row["perplexity"] is not None]
    y = alt.Y(
        "perplexity:Q",
        title="median perplexity",
        scale=alt.Scale(type="log", nice=True),
        axis=alt.Axis(minExtent=_AXIS_EXTENT, maxExtent=_AXIS_EXTENT, tickCount=4, format="~s"),
    )
    tooltip = [
        alt.Tooltip("setting:N"),
        alt.Tooltip("perplexity:Q", title="median perplexity", format=".3g"),
        alt.Tooltip("n_all:Q", title="texts"),
    ]
    return _panel(evaluation, rows, y, interval=None, tooltip=tooltip, height=220)


def _share_axis() -> alt.Axis:
    return alt.Axis(
        format="%", minExtent=_AXIS_EXTENT, maxExtent=_AXIS_EXTENT, values=[0, 0.25, 0.5, 0.75, 1]
    )


def _panel(
    evaluation: Evaluation,
    rows: Sequence[dict[str, Any]],
    y: alt.Y,
    *,
    interval: tuple[str, str] | None,
    tooltip: Sequence[alt.Tooltip],
    height: int,
    dash: Sequence[int] = (1, 0),
    legend: bool = False,
    below: Sequence[alt.Chart] = (),
) -> alt.LayerChart:
    """Cells that have a strength as lines, those that have none as rules across the panel."""
    strengths = sorted(
        {cell.setting.strength for cell in evaluation.cells if cell.setting.strength is not None}
    )
    ends = (strengths[0], strengths[-1]) if strengths else (0.0, 1.0)
    margin = max(0.06 * (ends[1] - ends[0]), 0.05)
    x = alt.X(
        "x:Q",
        title="strength",
        scale=alt.Scale(domain=[ends[0] - 2 * margin, ends[1] + margin], nice=False),
        # Left without a precision, Vega would take that of the ticks and write 0.8 for 0.75.
        axis=alt.Axis(values=strengths, format=".12~g", grid=False, labelOverlap=True),
    )
    curves = [row for row in rows if row["strength"] is not None]
    flat = [row for row in rows if row["strength"] is None]
    colour = _arm_colour(evaluation, rows, legend=legend)
    base = alt.Chart(alt.InlineData(values=curves))
    layers: list[Any] = [*below]
    if flat:
        rules = alt.Chart(alt.InlineData(values=flat))
        layers.append(
            rules.mark_rule(strokeDash=[6, 4], strokeWidth=1.5).encode(
                y=y, color=colour, tooltip=list(tooltip)
            )
        )
        if legend:
            layers.append(
                rules.mark_text(align="left", dx=4, dy=-6).encode(
                    x=alt.value(0), y=y, text="arm:N", color=colour
                )
            )
    if interval is not None:
        low, high = interval
        layers.append(
            base.mark_rule(strokeWidth=1.5, opacity=0.55).encode(
                x=x, y=alt.Y(f"{low}:Q"), y2=f"{high}:Q", color=colour
            )
        )
    layers.append(
        base.mark_line(strokeWidth=2, strokeDash=list(dash)).encode(
            x=x, y=y, color=colour, detail="line:N"
        )
    )
    layers.append(
        base.mark_point(filled=True, size=70, opacity=1, cursor="pointer")
        .encode(x=x, y=y, color=colour, shape=_shape(curves, legend=legend), tooltip=list(tooltip))
        .add_params(_click())
    )
    return alt.LayerChart(layer=layers).properties(height=height)


def _click() -> alt.Parameter:
    return alt.selection_point(name=CELL_CLICK, fields=["cell"], toggle=False, clear=False)


def _arm_colour(
    evaluation: Evaluation, rows: Sequence[dict[str, Any]], *, legend: bool
) -> alt.Color:
    used, colours = {row["arm"] for row in rows}, arm_colours(evaluation)
    arms = [arm for arm in arm_order(evaluation) if arm_words(arm) in used]
    names = [arm_words(arm) for arm in arms]
    scale = alt.Scale(domain=names, range=[colours[arm] for arm in arms])
    shown = _legend(names, symbolOpacity=1) if legend else None
    return alt.Color("arm:N", scale=scale, legend=shown)


def _legend(labels: Sequence[str], **more: Any) -> alt.Legend:
    # Two columns of long labels would be cut at the edge.
    columns = 2 if all(len(label) <= _LONGEST_IN_TWO_COLUMNS for label in labels) else 1
    return alt.Legend(orient="top", title=None, columns=columns, labelLimit=0, **more)


def _shape(rows: Sequence[dict[str, Any]], *, legend: bool) -> alt.Shape:
    """Shapes tell the lines of an arm apart, and the arms of one line each from each other."""
    variants = list(dict.fromkeys(row["variant"] for row in rows if row["variant"]))
    shapes = [*variants, *dict.fromkeys(row["arm"] for row in rows if not row["variant"])]
    # In a grey that is seen on both backgrounds; left alone, the symbols would be black.
    grey = {"symbolFillColor": _RULE_GREY, "symbolStrokeColor": _RULE_GREY}
    return alt.Shape(
        "shape:N",
        scale=alt.Scale(domain=shapes, range=_cycle(len(shapes))),
        legend=_legend(variants, values=variants, **grey) if legend and variants else None,
    )


def _cycle(n: int) -> list[str]:
    return [_SHAPES[at % len(_SHAPES)] for at in range(n)]


def pareto_front(cells: Sequence[Cell]) -> list[int]:
    """Numbers of the steered cells that no other beats in useful texts and disorder alike.

    In the order of rising disorder. In evaluations of before, strict texts count.
    """
    steered = [
        (cell.rates.disorder, -cell.rates.primary, number)
        for number, cell in enumerate(cells)
        if cell.setting.strength is not None and not cell.setting.of and cell.rates.n
    ]
    front: list[int] = []
    best = 1.0
    for disorder, missed, number in sorted(steered):
        level = cells[front[-1]].rates if front else None
        ties = level is not None and (disorder, missed) == (level.disorder, -level.primary)
        if missed < best or ties:
            front.append(number)
            best = missed
    return front


def pareto_chart(evaluation: Evaluation) -> alt.LayerChart:
    """Useful texts against disorder, one point per cell, the front of what is steered joined."""
    rows = _primary_rows(evaluation)
    measure = primary_measure(evaluation)
    front = [rows[number] for number in pareto_front(evaluation.cells)]
    share = alt.Scale(domain=[0, 1])
    x = alt.X("disorder:Q", title="disorder", scale=share, axis=alt.Axis(format="%"))
    y = alt.Y("value:Q", title=_TITLES[measure], scale=share, axis=_share_axis())
    colour = _arm_colour(evaluation, rows, legend=True)
    line = (
        alt.Chart(alt.InlineData(values=front))
        .mark_line(color=_RULE_GREY, strokeWidth=1.5, interpolate="step-after")
        .encode(x=x, y=y)
    )
    rings = (
        alt.Chart(alt.InlineData(values=front))
        .mark_point(filled=False, size=190, strokeWidth=1.5, color=_RULE_GREY)
        .encode(x=x, y=y)
    )
    dots = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_point(filled=True, size=70, opacity=0.9, cursor="pointer")
        .encode(
            x=x,
            y=y,
            color=colour,
            shape=_shape(rows, legend=False),
            tooltip=[
                alt.Tooltip("setting:N"),
                *_value_tooltips(measure),
                alt.Tooltip("disorder:Q", format=".0%"),
                alt.Tooltip("n_all:Q", title="texts"),
            ],
        )
        .add_params(_click())
    )
    return alt.LayerChart(layer=[line, rings, dots]).properties(height=420)


def heat_groups(evaluation: Evaluation) -> dict[str, HeatGroup]:
    """Cells by everything but strength and one parameter, where that has several values."""
    groups: dict[tuple[CellSetting, str], list[int]] = {}
    for number, cell in enumerate(evaluation.cells):
        setting = cell.setting
        for parameter in setting.parameters if setting.strength is not None else ():
            others = {n: v for n, v in setting.parameters.items() if n != parameter}
            alike = replace(setting, parameters=others, strength=None)
            groups.setdefault((alike, parameter), []).append(number)
    return {
        f"{describe_setting(evaluation.request, alike)}: {parameter.replace('_', ' ')}": group
        for (alike, parameter), cells in groups.items()
        if len(_values(evaluation, group := HeatGroup(parameter, tuple(cells)))) > 1
    }


def _values(evaluation: Evaluation, group: HeatGroup) -> list[str]:
    """The different values of the parameter, the largest first."""
    found = [_value(evaluation, number, group) for number in group.cells]
    if all(isinstance(value, int | float) for value in found):
        found.sort(reverse=True)
    return list(dict.fromkeys(map(value_words, found)))


def _value(evaluation: Evaluation, number: int, group: HeatGroup) -> Any:
    return evaluation.cells[number].setting.parameters[group.parameter]


def heat_map(evaluation: Evaluation, group: HeatGroup) -> alt.LayerChart:
    """Share of useful texts by strength and a parameter; of strict ones in evaluations of before.

    Args:
        group: one of ``heat_groups``.
    """
    rows = [
        row
        | {
            "value_of_parameter": value_words(_value(evaluation, row["cell"], group)),
            "strength_words": number_words(row["strength"]),
        }
        for row in _primary_rows(evaluation)
        if row["cell"] in group.cells
    ]
    strengths = sorted({row["strength"] for row in rows})
    x = alt.X(
        "strength_words:O",
        title="strength",
        sort=[number_words(strength) for strength in strengths],
        axis=alt.Axis(labelAngle=0),
    )
    y = alt.Y(
        "value_of_parameter:O",
        title=group.parameter.replace("_", " "),
        sort=_values(evaluation, group),
        axis=alt.Axis(minExtent=_AXIS_EXTENT, maxExtent=_AXIS_EXTENT),
    )
    base = alt.Chart(alt.InlineData(values=rows))
    # The colours run from light to dark in both themes, as the figures are written upon them.
    fields = base.mark_rect(cursor="pointer").encode(
        x=x,
        y=y,
        color=alt.Color("value:Q", scale=alt.Scale(domain=[0, 1], range=list(_HEAT)), legend=None),
        tooltip=[
            alt.Tooltip("setting:N"),
            *_value_tooltips(primary_measure(evaluation)),
            alt.Tooltip("disorder:Q", format=".0%"),
            alt.Tooltip("n:Q", title="texts judged"),
        ],
    )
    figures = base.mark_text().encode(
        x=x,
        y=y,
        text=alt.Text("value:Q", format=".0%"),
        color=alt.condition("datum.value < 0.5", alt.value("#1c2530"), alt.value("#ffffff")),
    )
    return alt.LayerChart(layer=[fields.add_params(_click()), figures]).properties(
        height=alt.Step(38)
    )


def chart_words(evaluation: Evaluation, column: str, measure: Measure | None = None) -> str:
    """The figures of a chart as a text for those who cannot see it.

    Args:
        column: which figure of ``cell_rows`` the chart shows.
        measure: what its values count; None for the main figure.
    """
    shown = ".3g" if column == "perplexity" else ".0%"
    return "; ".join(
        f"{row['setting']}: {row[column]:{shown}}"
        for row in cell_rows(evaluation, measure or primary_measure(evaluation))
        if row[column] is not None
    )
