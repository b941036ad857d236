"""Tables of docs/results/constant_vectors.md from the evaluations of `saif_findings.py`.

The words are in `saif_template.md`; a line `{{name}}` in it is replaced by the table of that name.
"""

import csv
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from saif_core.evaluating.rates import merit, paired_p
from saif_core.records.as_json import from_json
from saif_core.records.evaluation import WORST_DISORDER, EvaluationText, Rates

TEMPLATE = Path(__file__).with_name("saif_template.md")
# Stages among whose settings the headline chooses, and how a setting of each is told.
CANDIDATES = {
    "main": "",
    "constant": ", English wordings",
    "opening": ", first 6 tokens",
    "fading": ", fading",
}
LEAST_OF_PROMPTING, SIGNIFICANT = 0.6, 0.01

Data = dict[str, Any]


# (layer, latents) → the tokens that each of them promotes most
Promoted = Callable[[int, Sequence[int]], list[tuple[str, ...]]]


class Findings:
    """The evaluations of a folder, by instruction and title."""

    def __init__(self, folder: Path, promoted: Promoted) -> None:
        self._folder = folder
        self.promoted = promoted

    def read(self, instruction: str, title: str) -> Data | None:
        """An evaluation with its texts; None if it was not run."""
        file = self._folder / f"{instruction}.{title}.json"
        if not file.exists():
            return None
        data: Data = json.loads(file.read_text(encoding="utf-8"))
        return data

    def cells(self, instruction: str, title: str, **wanted: Any) -> list[Data]:
        """Cells of an evaluation whose settings have these values."""
        data = self.read(instruction, title)
        cells = data["evaluation"]["cells"] if data else []
        return [c for c in cells if all(c["setting"][k] == v for k, v in wanted.items())]

    def best(self, instruction: str, title: str, arm: str) -> Data | None:
        """The setting of an arm that was chosen, with its figures on the other half."""
        data = self.read(instruction, title)
        if data is None:
            return None
        evaluation = data["evaluation"]
        for found in evaluation["best"]:
            if found["arm"] == arm:
                return {**found, "title": title, "chosen": evaluation["cells"][found["cell"]]}
        return None

    def chosen(
        self, instruction: str, worst_disorder: float = WORST_DISORDER
    ) -> tuple[str, int, Data] | None:
        """Stage, number and cell of the setting with an SAE that did best on the choosing half."""
        found = [
            (title, number, cell)
            for title in CANDIDATES
            for number, cell in enumerate(self.cells(instruction, title))
            if cell["setting"]["arm"] in self.latent_arms(instruction, title)
        ]

        def by(one: tuple[str, int, Data]) -> tuple[bool, float, float, float]:
            return merit(from_json(Rates, one[2]["choosing"]), worst_disorder=worst_disorder)

        return max(found, key=by, default=None)

    def latent_arms(self, instruction: str, title: str) -> set[str]:
        """Arms of an evaluation that steer with latents."""
        data = self.read(instruction, title)
        made = data["evaluation"]["made"] if data else []
        return {one["arm"] for one in made if any(edit["latents"] for edit in one["edits"])}

    def best_with_sae(self, instruction: str) -> Data | None:
        """The setting chosen of all candidate stages, with its tests against the controls."""
        found = self.chosen(instruction)
        return found and self.best(instruction, found[0], found[2]["setting"]["arm"])

    def p_against(
        self, instruction: str, title: str, cell: int, other: Data, grades: Sequence[str]
    ) -> float | None:
        """McNemar's exact test on the reporting half, of a cell against another setting."""
        data = self.read(instruction, title)
        assert data is not None
        matching = [
            number
            for number, one in enumerate(data["evaluation"]["cells"])
            if all(one["setting"][name] == value for name, value in other.items())
        ]
        if not matching:
            return None
        ours, theirs = (
            [from_json(EvaluationText, t) for t in data["texts"] if t["cell"] == number][1::2]
            for number in (cell, matching[0])
        )
        return paired_p(ours, theirs, counts=lambda text: text.grade in grades)

    def prompting(self, instruction: str) -> tuple[float, float]:
        """Strict accuracy of prompting: mean over the wordings, and that of the best one."""
        shares = [
            cell["rates"]["strict"]
            for number in range(20)
            for cell in self.cells(instruction, f"prompting-{number}", arm="prompted")
        ]
        return (statistics.mean(shares), max(shares)) if shares else (0.0, 0.0)


def write_report(
    folder: Path, report: Path, instructions: Sequence[str], promoted: Promoted
) -> None:
    """Write the page and, beside it, the figures of every cell as CSV."""
    findings = Findings(folder, promoted)
    page = TEMPLATE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        page = page.replace("{{" + name + "}}", table(findings, instructions))
    report.write_text(page, encoding="utf-8")
    _write_cells(folder, report.with_name("saif_cells.csv"))


def headline(findings: Findings, instructions: Sequence[str]) -> str:
    """For each instruction, the best arm with an SAE beside prompting and the controls."""
    rows = []
    n_beats = n_reaches = 0
    for name in instructions:
        best = findings.best_with_sae(name)
        if best is None:
            continue
        mean, top = findings.prompting(name)
        rates = best["rates"]
        beats = all(
            p is not None and p < SIGNIFICANT for p in (best["p_unsteered"], best["p_random"])
        )
        # Where prompting fails, steering must at least do more than nothing.
        reaches = (
            beats
            and rates["strict"] >= LEAST_OF_PROMPTING * top
            and rates["disorder"] <= WORST_DISORDER
        )
        n_beats, n_reaches = n_beats + beats, n_reaches + reaches
        unsteered = findings.cells(name, "main", arm="unsteered")[0]["reporting"]
        control = findings.cells(name, best["title"], **_control(best))
        difference = findings.best(name, "main", "mean_difference")
        rows.append(
            [
                name,
                f"{unsteered['strict']:.2f}",
                f"{mean:.2f} / {top:.2f}",
                _describe(best),
                _share(rates, "strict"),
                f"{rates['loose']:.2f}",
                f"{rates['disorder']:.2f}",
                f"{rates['perplexity'] or 0:.0f}",
                f"{control[0]['reporting']['strict']:.2f}" if control else "–",
                f"{_p(best['p_unsteered'])} / {_p(best['p_random'])}",
                _share(difference["rates"], "strict") if difference else "–",
                "yes" if beats else "no",
                "yes" if reaches else "no",
            ]
        )
    head = (
        "instruction|unsteered|prompted: mean / best wording|best arm with an SAE|strict|loose|"
        "disorder|perplexity|random|p: unsteered / random|mean difference|beats controls|"
        "60% of prompting"
    ).split("|")
    counts = (
        f"\n\nBeats unsteered and random latents at p < .01: **{n_beats} of {len(rows)}**. Reaches "
        f"60% of prompting's best wording with at most 20% disorder: **{n_reaches} of "
        f"{len(rows)}**."
    )
    return _table(head, rows) + counts


def loosely(findings: Findings, instructions: Sequence[str]) -> str:
    """The same arms by loose grades, which tell more where hardly any text is strict."""
    rows = []
    n_beats = 0
    for name in instructions:
        best = findings.best_with_sae(name)
        if best is None:
            continue
        tests = [
            findings.p_against(name, best["title"], best["cell"], other, ("strict", "loose"))
            for other in ({"arm": "unsteered"}, _control(best))
        ]
        beats = all(p is not None and p < SIGNIFICANT for p in tests)
        n_beats += beats
        prompted = findings.cells(name, "main", arm="prompted")[0]["reporting"]
        rows.append(
            [
                name,
                _describe(best),
                _share(best["rates"], "loose"),
                f"{prompted['loose']:.2f}",
                f"{_p(tests[0])} / {_p(tests[1])}",
                "yes" if beats else "no",
            ]
        )
    head = ["instruction", "arm", "loose", "prompted", "p: unsteered / random", "beats controls"]
    return _table(head, rows) + f"\n\nBeats both at p < .01: **{n_beats} of {len(rows)}**."


def limits(findings: Findings, instructions: Sequence[str]) -> str:
    """What comes of asking for other shares of disorder on the choosing half."""
    rows = []
    for limit in (0.1, 0.15, WORST_DISORDER, 0.25):
        chosen = {name: found for name in instructions if (found := findings.chosen(name, limit))}
        rates = [found[2]["reporting"] for found in chosen.values()]
        n_reaches = 0
        for name, (title, cell, found) in chosen.items():
            p = findings.p_against(name, title, cell, {"arm": "unsteered"}, ("strict",))
            n_reaches += (
                found["reporting"]["strict"] >= LEAST_OF_PROMPTING * findings.prompting(name)[1]
                and found["reporting"]["disorder"] <= WORST_DISORDER
                and p is not None
                and p < SIGNIFICANT
            )
        rows.append(
            [
                f"{limit:.2f}",
                f"{statistics.mean(one['strict'] for one in rates):.2f}",
                f"{statistics.mean(one['disorder'] for one in rates):.2f}",
                f"{sum(one['disorder'] <= WORST_DISORDER for one in rates)} of {len(rates)}",
                f"{n_reaches} of {len(rates)}",
            ]
        )
    head = [
        "most disorder, choosing half",
        "mean strict",
        "mean disorder",
        "at most 20% disorder",
        "60% of prompting",
    ]
    return _table(head, rows)


def arms(findings: Findings, instructions: Sequence[str]) -> str:
    """Strict accuracy and disorder of each arm's chosen setting, and SAIF as published."""
    rows = []
    for name in instructions:
        row = [name]
        for title, arm in (
            ("main", "saif"),
            ("main", "denoised"),
            ("main", "mean_difference"),
            ("published", "saif"),
        ):
            best = findings.best(name, title, arm)
            row.append(
                f"{_three(best['rates'])} ({_setting(best['chosen']['setting'])})" if best else "–"
            )
        rows.append(row)
    head = ["instruction", "SAIF", "denoised", "mean difference", "SAIF as published"]
    return _table(head, rows)


def published(findings: Findings, instructions: Sequence[str]) -> str:
    """SAIF as published at every strength, readable or not."""
    rows, strengths = [], (0.5, 1.0, 1.5, 2.0)
    for name in instructions:
        row = [name]
        for strength in strengths:
            cells = findings.cells(name, "published", arm="saif", strength=strength)
            row.append(_three(cells[0]["rates"]) if cells else "–")
        cells = findings.cells(name, "published", arm="logit-bias")
        row.append(
            f"{_three(cells[0]['rates'])} at {cells[0]['setting']['strength']:g}" if cells else "–"
        )
        rows.append(row)
    return _table(["instruction", *map(str, strengths), "logit bias"], rows)


def layers(findings: Findings, instructions: Sequence[str]) -> str:
    """SAIF's best strength in each layer, over all test contents."""
    rows = []
    for name in instructions:
        row = [name]
        for layer in (14, 22, 29):
            cells = findings.cells(name, "main", arm="saif", layers=[layer])
            row.append(_best_of(cells))
        rows.append(row)
    return _table(["instruction", "layer 14", "layer 22", "layer 29"], rows)


def controls(findings: Findings, instructions: Sequence[str]) -> str:
    """The controls of SAIF's chosen setting: strict accuracy over all test contents."""
    rows = []
    for name in instructions:
        best = findings.best(name, "main", "saif")
        if best is None:
            continue
        row = [name, f"{best['chosen']['rates']['strict']:.2f}"]
        for control in ("random", "flipped", "logit-bias"):
            setting = {**best["chosen"]["setting"], "arm": control, "of": "saif"}
            cells = findings.cells(name, "main", **setting)
            row.append(f"{cells[0]['rates']['strict']:.2f}" if cells else "–")
        rows.append(row)
    head = ["instruction", "SAIF", "random latents", "flipped sign", "logit bias"]
    return _table(head, rows)


def curve(title: str, field: str) -> Callable[[Findings, Sequence[str]], str]:
    """A table of one curve: SAIF and its random control against one field of the setting."""

    def table(findings: Findings, instructions: Sequence[str]) -> str:
        rows = []
        for name in instructions:
            for cell in findings.cells(name, title, arm="saif"):
                setting = cell["setting"]
                control = findings.cells(name, title, **{**setting, "arm": "random", "of": "saif"})
                rates = cell["rates"]
                rows.append(
                    [
                        name,
                        f"{_value(setting, field):g}",
                        _share(rates, "strict"),
                        f"{rates['loose']:.2f}",
                        f"{rates['disorder']:.2f}",
                        f"{rates['perplexity'] or 0:.0f}",
                        f"{control[0]['rates']['strict']:.2f}" if control else "–",
                    ]
                )
        head = [
            "instruction",
            _heading(field),
            "strict",
            "loose",
            "disorder",
            "perplexity",
            "random strict",
        ]
        return _table(head, rows)

    return table


def variants(findings: Findings, instructions: Sequence[str]) -> str:
    """Each variation's chosen setting, on the reporting half."""
    rows = []
    for name in instructions:
        for title in VARIANTS:
            for arm in ("saif", "denoised", "saif by clamp", "one_latent"):
                best = findings.best(name, title, arm)
                if best is None:
                    continue
                rates = best["rates"]
                rows.append(
                    [
                        name,
                        VARIANTS[title],
                        f"{arm}, {_setting(best['chosen']['setting'])}",
                        _share(rates, "strict"),
                        f"{rates['loose']:.2f}",
                        f"{rates['disorder']:.2f}",
                        _p(best["p_random"]),
                    ]
                )
    head = ["instruction", "variation", "setting", "strict", "loose", "disorder", "p: random"]
    return _table(head, rows)


def latents(findings: Findings, instructions: Sequence[str]) -> str:
    """The best-ranked latents of each instruction with the tokens that they promote."""
    rows = []
    for name in instructions:
        data = findings.read(name, "main")
        for layer in ("14", "29") if data else ():
            assert data is not None
            best = _best_latents(data["evaluation"], int(layer))[:6]
            shown = [
                f"{index}: {' '.join(_token(token) for token in tokens[:3])}"
                for index, tokens in zip(best, findings.promoted(int(layer), best), strict=True)
            ]
            rows.append([name, layer, "; ".join(shown)])
    return _table(["instruction", "layer", "latent: tokens that it promotes"], rows)


def examples(findings: Findings, instructions: Sequence[str]) -> str:
    """Every twentieth text behind the headline figures."""
    lines = []
    for name in instructions:
        best = findings.best_with_sae(name)
        if best is None:
            continue
        data = findings.read(name, best["title"])
        assert data is not None
        lines.append(f"\n**{name}** ({_describe(best)})\n")
        texts = [text for text in data["texts"] if text["cell"] == best["cell"]]
        for text in texts[1::20]:
            shown = " ".join(text["text"].split())[:160].replace("`", "'")
            lines.append(f"- {text['grade']}, {text['outcome']}: `{shown}`")
    return "\n".join(lines)


VARIANTS = {
    "constant": "English wordings; layers 14 and 22 apart and together",
    "opening": "the same, only the first 6 tokens steered",
    "fading": "the same, strength over 1 + .2 t at token t",
    "fading-mixed": "the same, fading, all wordings",
    "before": "instruction before the content",
    "last-token": "read at the last prompt token",
    "english-wordings": "ranked on English wordings only",
    "other-wordings": "ranked on wordings in other languages only",
    "scope-last-token": "steered at the last prompt token only",
    "scope-first": "steered at the first 5 tokens",
    "scope-prompt": "steered at the prompt",
    "scope-all": "steered at prompt and answer",
    "clamp": "clamped; one latent",
    "greedy": "greedy instead of sampled",
    "correlation": "selected by correlation (CorrSteer)",
    "output-score": "only latents with S_out ≥ .01",
    "keep-norm": "norm kept",
    "together": "layers 14 and 22 apart and together",
}
TABLES: dict[str, Callable[[Findings, Sequence[str]], str]] = {
    "headline": headline,
    "loosely": loosely,
    "limits": limits,
    "arms": arms,
    "published": published,
    "layers": layers,
    "controls": controls,
    "k": curve("k", "top"),
    "k-last-layer": curve("k-last-layer", "top"),
    "strength": curve("strength", "strength"),
    "beta": curve("beta", "beta"),
    "variants": variants,
    "latents": latents,
    "examples": examples,
}


def _control(best: Data) -> Data:
    """The setting of the random latents that are matched to a chosen setting."""
    return {**best["chosen"]["setting"], "arm": "random", "of": best["arm"]}


def _describe(best: Data) -> str:
    return f"{best['arm']}, {_setting(best['chosen']['setting'])}{CANDIDATES[best['title']]}"


def _three(rates: Data) -> str:
    return f"{rates['strict']:.2f} / {rates['loose']:.2f} / {rates['disorder']:.2f}"


def _best_of(cells: Iterable[Data]) -> str:
    """The most accurate of the readable settings, or of all where none is readable."""
    found = list(cells)
    if not found:
        return "–"
    readable = [c for c in found if c["rates"]["disorder"] <= WORST_DISORDER]
    best = max(readable or found, key=lambda c: c["rates"]["strict"])
    rates = best["rates"]
    return f"{rates['strict']:.2f} ({rates['disorder']:.2f}) at {best['setting']['strength']:g}"


def _setting(setting: Data) -> str:
    parts = []
    if setting["layers"]:
        parts.append("layer " + " + ".join(map(str, setting["layers"])))
    top = _value(setting, "top")
    if top:
        parts.append(f"k {top}")
    if setting["strength"] is not None:
        parts.append(f"strength {setting['strength']:g}")
    return ", ".join(parts)


def _value(setting: Data, name: str) -> Any:
    """A field of a setting, or one of its parameters; None if it has neither."""
    return setting.get(name, setting["parameters"].get(name))


def _heading(name: str) -> str:
    """A field of a setting as tables head it: SAIF's paper calls the number of latents k."""
    return "k" if name == "top" else name


def _best_latents(evaluation: Data, layer: int) -> list[int]:
    """What SAIF steered with in a layer, the best first."""
    for made in evaluation["made"]:
        if made["arm"] == "saif" and made["layers"] == [layer]:
            return [latent["index"] for edit in made["edits"] for latent in edit["latents"]]
    return []


def _token(token: str) -> str:
    """A token as code that is safe in a table cell."""
    shown = token.replace("\n", "↵").replace("|", "\\|").replace("`", "'")
    return f"`{shown}`"


def _share(rates: Data, name: str) -> str:
    low, high = rates[f"{name}_ci"]
    return f"{rates[name]:.2f} [{low:.2f}–{high:.2f}]"


def _p(value: float | None) -> str:
    if value is None:
        return "–"
    return "< .0001" if value < 1e-4 else f"{value:.4f}".lstrip("0") if value < 1 else "1"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _write_cells(folder: Path, file: Path) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        figures = ["strict", "loose", "unjudged", "success", "retained", "disorder", "perplexity"]
        setting = ["arm", "of", "layers", "top", "beta", "strength"]
        tests = ["resid_share", "p_unsteered", "p_random"]
        heads = [_heading(name) for name in setting]
        writer.writerow(["instruction", "stage", *heads, "n", *figures, "distinct_2", *tests])
        for source in sorted(folder.glob("*.json")):
            instruction, title = source.stem.split(".", 1)
            for cell in json.loads(source.read_text(encoding="utf-8"))["evaluation"]["cells"]:
                chosen = [_value(cell["setting"], name) for name in setting]
                chosen[2] = " ".join(map(str, chosen[2]))
                values = [cell["rates"][name] for name in ("n", *figures, "distinct_2")]
                values += [cell[name] for name in tests]
                shown = [f"{v:.4g}" if isinstance(v, float) else v for v in values]
                writer.writerow([instruction, title, *chosen, *shown])
