"""An evaluation as one page of HTML that needs no network, no script and no SAIF.

Whatever a person or a model wrote is escaped; the page asks for nothing outside of itself.
"""

import html
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from app.presentation.escaping import printable
from app.presentation.evaluation import (
    CANDIDATE_COLOURS,
    arm_colours,
    arm_label,
    arm_order,
    content_sentence,
    content_words,
    describe_setting,
    layer_parts,
    parameter_parts,
    primary_measure,
    told_parameters,
    unqualified_sentence,
)
from app.presentation.evaluation_files import (
    evaluation_data,
    evaluation_sentence,
    p_words,
    setting_headers,
    setting_row,
    share_words,
)
from app.presentation.figures import moment_words, number_words
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import (
    BASELINES,
    BestCell,
    Cell,
    CellSetting,
    Evaluation,
    EvaluationText,
    Rates,
)
from saif_core.records.steering import Edit

SHOWN_TEXTS = 20
_DASHES = ("none", "7 3", "2 3", "9 3 2 3")
# A cell of a table after its heading.
_Columns = list[tuple[str, str]]
_TEXT_HEADERS = ("content", "text", "grade", "reason", "reads as", "what it is about")


def evaluation_html(evaluation: Evaluation, texts: Mapping[int, Sequence[EvaluationText]]) -> bytes:
    """One file that shows the evaluation without a network, a script or SAIF.

    Args:
        texts: texts of the best cells, by the number of the cell; those of others are left out.
    """
    name = evaluation.request.instruction.name
    n = len(evaluation.request.test_contents)
    data = evaluation_data(evaluation)
    counted = "useful texts" if primary_measure(evaluation) == "useful" else "strict grades"
    unqualified = unqualified_sentence(evaluation)
    parts = [
        f"<h1>Does it work? {_escape(name)}</h1>",
        f"<p class=lead>{_escape(evaluation_sentence(evaluation))}</p>",
        f"<p>{_escape(content_sentence(evaluation))}</p>",
        f"<p class=muted>{_escape(evaluation.model)}, {n} test contents, "
        f"{_escape(moment_words(evaluation.created_at))}</p>",
        f"<h2>{_panels(evaluation)[0].title.capitalize()}, and broken text, by strength</h2>",
        _chart_html(evaluation),
        "<h2>Best settings</h2>",
        f"<p class=muted>Chosen on {data['chosen_on']}; the figures are those of "
        f"{data['reported_on']}. Intervals are Wilson's at 95%, p from exact McNemar tests of "
        f"{counted}.</p>",
        *([f"<p>{_escape(unqualified)}</p>"] if unqualified else []),
        _table([_best_row(evaluation, best) for best in evaluation.best]),
        "<h2>All settings</h2>",
        f"<p class=muted>On all {n} test contents.</p>",
        _table([_cell_row(evaluation, number) for number in range(len(evaluation.cells))]),
        "<h2>Texts of the best settings</h2>",
        *(
            _texts_html(_words(evaluation, best.cell), texts[best.cell])
            for best in evaluation.best
            if texts.get(best.cell)
        ),
        _manifest_html(evaluation),
    ]
    page = _PAGE.format(title=_escape(f"Evaluation of {name}"), style=_STYLE, body="\n".join(parts))
    return page.encode()


def _escape(text: object) -> str:
    return html.escape(printable(str(text)), quote=True)


def _words(evaluation: Evaluation, number: int) -> str:
    return describe_setting(evaluation.request, evaluation.cells[number].setting)


def _cell_row(evaluation: Evaluation, number: int) -> _Columns:
    cell = evaluation.cells[number]
    rates = cell.rates
    return [
        ("number", str(number)),
        *_setting_columns(evaluation, cell.setting),
        *_rate_columns(evaluation, rates),
        ("not judged", str(rates.unjudged)),
        ("success", f"{rates.success:.0%}"),
        ("retained", f"{rates.retained:.0%}"),
        ("perplexity", "" if rates.perplexity is None else f"{rates.perplexity:.1f}"),
        ("distinct pairs", f"{rates.distinct_2:.2f}"),
        (
            "share of the residual stream",
            "" if cell.resid_share is None else f"{cell.resid_share:.0%}",
        ),
        *_test_columns(cell),
    ]


def _best_row(evaluation: Evaluation, best: BestCell) -> _Columns:
    return [
        *_setting_columns(evaluation, evaluation.cells[best.cell].setting),
        *_rate_columns(evaluation, best.rates),
        *_test_columns(best),
    ]


def _setting_columns(evaluation: Evaluation, setting: CellSetting) -> _Columns:
    return list(zip(setting_headers(evaluation), setting_row(evaluation, setting), strict=True))


def _rate_columns(evaluation: Evaluation, rates: Rates) -> _Columns:
    """The shares with their intervals; evaluations of before have no useful ones."""
    is_useful = primary_measure(evaluation) == "useful"
    return [
        ("n", str(rates.n)),
        *([("useful", share_words(rates.primary, rates.primary_ci))] if is_useful else []),
        ("strict", share_words(rates.strict, rates.strict_ci)),
        ("loose", share_words(rates.loose, rates.loose_ci)),
        ("broken", share_words(rates.disorder, rates.disorder_ci)),
    ]


def _test_columns(tested: Cell | BestCell) -> _Columns:
    found = (
        ("against unsteered", tested.p_unsteered),
        ("against random", tested.p_random),
        ("against prompted", tested.p_prompted),
    )
    return [(name, "" if p is None else p_words(p)) for name, p in found]


def _table(rows: Sequence[_Columns]) -> str:
    """A table of rows that have the same headings."""
    if not rows:
        return "<p class=muted>None.</p>"
    head = "".join(f"<th>{_escape(header)}</th>" for header, _ in rows[0])
    body = "\n".join(f"<tr>{''.join(_named_cell(*cell) for cell in row)}</tr>" for row in rows)
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>"
    )


def _named_cell(header: str, value: str) -> str:
    """A cell with its heading, which a narrow page writes before it."""
    return f'<td data-name="{_escape(header)}">{_escape(value)}</td>'


def _texts_html(words: str, texts: Sequence[EvaluationText]) -> str:
    shown = texts[:SHOWN_TEXTS]
    rows = "\n".join(f"<tr>{''.join(map(_text_cell, _TEXT_HEADERS, _said(t)))}</tr>" for t in shown)
    head = "".join(f"<th>{header}</th>" for header in _TEXT_HEADERS)
    return (
        f"<details><summary>{_escape(words)}: {len(shown)} of {len(texts)} "
        f"texts</summary><div class=wide><table class=texts><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _said(text: EvaluationText) -> tuple[str, ...]:
    """What stands under ``_TEXT_HEADERS``; a grade says nothing of whether a text is whole."""
    outcome = "disorder" if text.outcome == "disorder" else "whole"
    grade = text.grade or "not judged"
    return text.content, text.text, grade, text.reason, outcome, content_words(text)


def _text_cell(header: str, value: str) -> str:
    return f'<td dir=auto data-name="{header}">{_escape(value)}</td>'


def _manifest_html(evaluation: Evaluation) -> str:
    request = evaluation.request
    entries = {
        "evaluation": evaluation.id,
        "model": evaluation.model,
        "model SHA-256": evaluation.model_sha256,
        "SAEs": "\n".join(request.sae_ids),
        "SAE SHA-256": "\n".join(evaluation.sae_sha256s),
        "dtype": evaluation.dtype,
        "seed": str(request.sampling.seed),
        "versions": "\n".join(f"{name} {of}" for name, of in evaluation.versions.items()),
        "edits of the best settings": "\n".join(_made_lines(evaluation)),
        "seconds": f"{evaluation.seconds:.0f}",
        "content measured by": evaluation.content_measure or "nothing",
        "finished": moment_words(evaluation.created_at),
        "request": json.dumps(to_json(request), ensure_ascii=False, indent=1),
    }
    listed = "\n".join(
        f"<dt>{_escape(name)}</dt><dd>{_escape(value)}</dd>" for name, value in entries.items()
    )
    return f"<details><summary>How it was made</summary><dl>\n{listed}\n</dl></details>"


def _made_lines(evaluation: Evaluation) -> list[str]:
    """What the best settings were steered with, a line for every edit."""
    lines: dict[str, None] = {}
    for best in evaluation.best:
        setting = evaluation.cells[best.cell].setting
        made = evaluation.made_for(setting)
        for edit in made.edits if made else ():
            at = replace(setting, layers=(edit.layer,))
            told = parameter_parts(told_parameters(evaluation.request, setting))
            words = " · ".join([arm_label(setting), *layer_parts(at), *told])
            lines[f"{words}: {_edit_words(edit)}"] = None
    return list(lines)


def _edit_words(edit: Edit) -> str:
    latents = ", ".join(f"{one.index}:{number_words(one.coefficient)}" for one in edit.latents)
    vector = f"tensors {edit.tensors[:12]}" if edit.tensors else ""
    share = "" if edit.share == 1 else f"share {number_words(edit.share)}"
    return " · ".join(filter(None, [latents, vector, edit.method, share]))


@dataclass(frozen=True)
class _Line:
    """Cells of one arm that differ in strength alone, lowest strength first."""

    name: str
    colour: str
    dash: str
    cells: tuple[Cell, ...]


class _Panel(NamedTuple):
    """One of the two charts: which share it shows, and where it stands."""

    title: str
    share: str
    top: float
    height: float

    def y(self, share: float) -> float:
        return self.top + self.height * (1 - share)


# Narrow, so that a phone shows all of it in letters that can be read.
_WIDTH, _LEFT, _RIGHT = 480, 42, 472
_HEIGHT = 476
_DODGE = 4.0
_TICK_GAP = 30.0


def _panels(evaluation: Evaluation) -> tuple[_Panel, _Panel]:
    """The main figure, and below it the broken texts."""
    main = "useful texts" if primary_measure(evaluation) == "useful" else "follows strictly"
    return _Panel(main, "primary", 24, 250), _Panel("broken text", "disorder", 318, 110)


def _lines(evaluation: Evaluation) -> list[_Line]:
    grouped: dict[CellSetting, list[Cell]] = {}
    for cell in evaluation.cells:
        if cell.setting.strength is not None:
            grouped.setdefault(replace(cell.setting, strength=None), []).append(cell)
    colours, arms = arm_colours(evaluation), arm_order(evaluation)
    # A colour that comes round again begins with another dash.
    used = Counter({arm: number // len(CANDIDATE_COLOURS) for number, arm in enumerate(arms)})
    lines = []
    for setting, found in grouped.items():
        dash = _DASHES[used[setting.arm] % len(_DASHES)]
        used[setting.arm] += 1
        found.sort(key=lambda cell: cell.setting.strength or 0.0)
        words = describe_setting(evaluation.request, setting)
        lines.append(_Line(words, colours[setting.arm], dash, tuple(found)))
    return lines


def _chart_html(evaluation: Evaluation) -> str:
    lines = _lines(evaluation)
    strengths = sorted(
        {
            cell.setting.strength
            for line in lines
            for cell in line.cells
            if cell.setting.strength is not None
        }
    )
    if not strengths:
        return "<p>No arm has a strength, so there is no curve.</p>"
    low, high = min(0.0, strengths[0]), strengths[-1]
    scale = (_RIGHT - _LEFT - 40) / ((high - low) or 1.0)

    def x(strength: float) -> float:
        return _LEFT + 20 + scale * (strength - low)

    flat = [cell for cell in evaluation.cells if cell.setting.arm in BASELINES]
    colours = arm_colours(evaluation)
    panels = _panels(evaluation)
    drawn = [_panel_svg(panel, lines, flat, x, colours) for panel in panels]
    bottom = panels[-1].y(0)
    last = float("-inf")
    for strength in strengths:
        if x(strength) - last >= _TICK_GAP:
            last = x(strength)
            place = f'x="{last:.1f}" y="{bottom + 18:.0f}" text-anchor="middle"'
            drawn.append(f"<text {place}>{number_words(strength)}</text>")
    drawn.append(f'<text x="{_RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">strength</text>')
    n = len(evaluation.request.test_contents)
    is_useful = primary_measure(evaluation) == "useful"
    main = "useful texts" if is_useful else "texts that follow the instruction strictly"
    described = (
        f"Share of {main}, and below it the share of broken texts, by steering strength; 95% "
        f"intervals, {n} test contents."
    )
    keys = "\n".join(
        f'<li><svg class="line" color="{line.colour}" width="34" height="10" aria-hidden="true">'
        f'<polyline points="0,5 34,5" stroke-dasharray="{line.dash}"/></svg> '
        f"{_escape(line.name)}</li>"
        for line in lines
    )
    return (
        f'<figure><div class=wide><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{_escape(described)}">\n{chr(10).join(drawn)}\n</svg></div>'
        f"<ul class=legend>{keys}</ul>"
        f"<figcaption class=muted>{_escape(described)} The table below has every figure."
        "</figcaption></figure>"
    )


def _panel_svg(
    panel: _Panel,
    lines: Sequence[_Line],
    flat: Sequence[Cell],
    x: Callable[[float], float],
    colours: Mapping[str, str],
) -> str:
    drawn = [f'<text x="{_LEFT}" y="{panel.top - 10:.0f}" class="title">{panel.title}</text>']
    for percent in (0, 25, 50, 75, 100):
        y = panel.y(percent / 100)
        drawn.append(
            f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" class="grid"/><text x="{_LEFT - 6}" '
            f'y="{y + 4:.1f}" text-anchor="end">{percent}%</text>'
        )
    # One name at each end, as the lines of both baselines may lie close together.
    ends = ((_RIGHT, "end"), (_LEFT, "start"))
    for cell, (at, anchor) in zip(flat, ends, strict=False):
        share, interval = _shown(cell, panel)
        name = _escape(arm_label(cell.setting))
        y = panel.y(share)
        drawn.append(
            f'<g class="flat" color="{colours[cell.setting.arm]}"><title>{name} '
            f'{share_words(share, interval)}</title><path d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
            f'<text x="{at}" y="{y - 4:.1f}" text-anchor="{anchor}">{name}</text></g>'
        )
    # Beside each other, or the intervals of two arms at one strength would hide each other.
    dodge = min(_DODGE, 24 / max(1, len(lines)))
    for number, line in enumerate(lines):
        drawn.append(_line_svg(panel, line, x, dodge * (number - (len(lines) - 1) / 2)))
    return "\n".join(drawn)


def _line_svg(panel: _Panel, line: _Line, x: Callable[[float], float], shift: float) -> str:
    points, marks = [], []
    for cell in line.cells:
        share, interval = _shown(cell, panel)
        strength = cell.setting.strength or 0.0
        at, y = x(strength) + shift, panel.y(share)
        low, high = (panel.y(end) for end in interval)
        points.append(f"{at:.1f},{y:.1f}")
        marks.append(
            f"<g><title>{_escape(line.name)} · strength {number_words(strength)}: "
            f"{share_words(share, interval)}</title>"
            f'<path d="M{at:.1f} {low:.1f}V{high:.1f}"/>'
            f'<circle cx="{at:.1f}" cy="{y:.1f}" r="3.5"/></g>'
        )
    return (
        f'<g class="line" color="{line.colour}"><polyline points="{" ".join(points)}" '
        f'stroke-dasharray="{line.dash}"/>{"".join(marks)}</g>'
    )


def _shown(cell: Cell, panel: _Panel) -> tuple[float, tuple[float, float]]:
    rates = cell.rates
    if panel.share == "primary":
        return rates.primary, rates.primary_ci
    return rates.disorder, rates.disorder_ci


_STYLE = """
:root{color-scheme:light dark;--back:#ffffff;--text:#1c2530;--muted:#5b6672;--line:#d3dae1}
@media (prefers-color-scheme:dark){
:root{--back:#12171d;--text:#e4e9ee;--muted:#a3afbb;--line:#36414c}}
body{font:15px/1.5 system-ui,sans-serif;max-width:90rem;margin:0 auto;padding:1rem;
 background:var(--back);color:var(--text)}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.lead{font-size:1.1rem;max-width:50rem}.muted{color:var(--muted)}
figure{margin:0}figure .wide svg{width:100%;max-width:38rem;height:auto}
figure text{font-size:12px;fill:var(--muted)}figure text.title{fill:var(--text);font-weight:600}
.grid{stroke:var(--line)}.flat path{stroke:currentColor;stroke-dasharray:1 4;stroke-width:2}
.line{fill:none;stroke:currentColor;stroke-width:2}.line path{stroke-width:1.2}
.line circle{fill:currentColor;stroke:none}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.82rem}p{max-width:60rem}
th,td{text-align:left;vertical-align:top;padding:.25rem .4rem;border-bottom:1px solid var(--line)}
.texts td{white-space:pre-wrap;overflow-wrap:anywhere;vertical-align:top;min-width:6rem}
.texts td:nth-child(-n+2){min-width:14rem}
details{margin:1rem 0}summary{cursor:pointer}dt{color:var(--muted)}
dd{margin:0 0 .5rem;white-space:pre-wrap;overflow-wrap:anywhere;font-family:monospace}
@media (max-width:75rem){thead{display:none}tr{display:block;padding:.4rem 0;
 border-bottom:1px solid var(--line)}td{display:inline-block;border:0;min-width:0}
.texts td{display:block}td::before{content:attr(data-name) " ";color:var(--muted)}
td:empty{display:none}}
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
