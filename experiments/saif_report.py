"""Tables of docs/results/saif.md from the evaluations of `saif_findings.py`, and the page itself.

The words are in `saif_template.md`; a line `{{name}}` in it is replaced by the table of that name.
"""

import csv
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

TEMPLATE = Path(__file__).with_name("saif_template.md")
SAE_ARMS = ("saif", "denoised")
LEAST_OF_PROMPTING, WORST_DISORDER, SIGNIFICANT = 0.6, 0.2, 0.01

Data = dict[str, Any]


class Findings:
    """The evaluations of a folder, by instruction and title."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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
                return {**found, "chosen": evaluation["cells"][found["cell"]]}
        return None

    def loose_p(self, instruction: str, cell: int, other: Data) -> float | None:
        """McNemar's exact test of loose grades on the reporting half, against another setting."""
        data = self.read(instruction, "main")
        assert data is not None
        cells = data["evaluation"]["cells"]
        matching = [
            number
            for number, one in enumerate(cells)
            if all(one["setting"][name] == value for name, value in other.items())
        ]
        if not matching:
            return None
        sides = [
            [t["grade"] in ("strict", "loose") for t in data["texts"] if t["cell"] == number][1::2]
            for number in (cell, matching[0])
        ]
        n_only = sum(one and not two for one, two in zip(*sides, strict=True))
        n_differ = sum(one != two for one, two in zip(*sides, strict=True))
        return float(stats.binomtest(n_only, n_differ).pvalue) if n_differ else 1.0

    def prompting(self, instruction: str) -> tuple[float, float]:
        """Strict accuracy of prompting: mean over the wordings, and that of the best one."""
        shares = [
            cell["rates"]["strict"]
            for number in range(20)
            for cell in self.cells(instruction, f"prompting-{number}", arm="prompted")
        ]
        return (statistics.mean(shares), max(shares)) if shares else (0.0, 0.0)


def write_report(folder: Path, report: Path, instructions: Sequence[str]) -> None:
    """Write the page and, beside it, the figures of every cell as CSV."""
    findings = Findings(folder)
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
        arm = best_sae_arm(findings, name)
        if arm is None:
            continue
        best = findings.best(name, "main", arm)
        assert best is not None
        mean, top = findings.prompting(name)
        rates = best["rates"]
        beats = all(
            p is not None and p < SIGNIFICANT for p in (best["p_unsteered"], best["p_random"])
        )
        reaches = (
            top > 0
            and rates["strict"] >= LEAST_OF_PROMPTING * top
            and rates["disorder"] <= WORST_DISORDER
        )
        n_beats, n_reaches = n_beats + beats, n_reaches + reaches
        unsteered = findings.cells(name, "main", arm="unsteered")[0]["reporting"]
        control = _control_rates(findings, name, best["chosen"]["setting"])
        difference = findings.best(name, "main", "mean-difference")
        rows.append(
            [
                name,
                f"{unsteered['strict']:.2f}",
                f"{mean:.2f} / {top:.2f}",
                f"{arm}, {_setting(best['chosen']['setting'])}",
                _share(rates, "strict"),
                f"{rates['loose']:.2f}",
                f"{rates['disorder']:.2f}",
                f"{rates['perplexity'] or 0:.0f}",
                f"{control['strict']:.2f}" if control else "–",
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
        arm = best_sae_arm(findings, name)
        if arm is None:
            continue
        best = findings.best(name, "main", arm)
        assert best is not None
        setting = best["chosen"]["setting"]
        tests = [
            findings.loose_p(name, best["cell"], other)
            for other in ({"arm": "unsteered"}, {**setting, "arm": "random", "of": arm})
        ]
        beats = all(p is not None and p < SIGNIFICANT for p in tests)
        n_beats += beats
        prompted = findings.cells(name, "main", arm="prompted")[0]["reporting"]
        rows.append(
            [
                name,
                f"{arm}, {_setting(setting)}",
                _share(best["rates"], "loose"),
                f"{prompted['loose']:.2f}",
                f"{_p(tests[0])} / {_p(tests[1])}",
                "yes" if beats else "no",
            ]
        )
    head = ["instruction", "arm", "loose", "prompted", "p: unsteered / random", "beats controls"]
    return _table(head, rows) + f"\n\nBeats both at p < .01: **{n_beats} of {len(rows)}**."


def best_sae_arm(findings: Findings, name: str) -> str | None:
    """The arm with an SAE that did best on the choosing half of the main evaluation."""
    data = findings.read(name, "main")
    return data["evaluation"]["best_sae_arm"] if data else None


def arms(findings: Findings, instructions: Sequence[str]) -> str:
    """Strict accuracy and disorder of each arm's chosen setting, and SAIF as published."""
    rows = []
    for name in instructions:
        row = [name]
        for title, arm in (
            ("main", "saif"),
            ("main", "denoised"),
            ("main", "mean-difference"),
            ("published", "saif"),
        ):
            best = findings.best(name, title, arm)
            row.append(
                f"{best['rates']['strict']:.2f} / {best['rates']['loose']:.2f} / "
                f"{best['rates']['disorder']:.2f} ({_setting(best['chosen']['setting'])})"
                if best
                else "–"
            )
        rows.append(row)
    head = ["instruction", "SAIF", "denoised", "mean difference", "SAIF as published"]
    return _table(head, rows)


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
                        f"{setting[field]:g}",
                        _share(rates, "strict"),
                        f"{rates['loose']:.2f}",
                        f"{rates['disorder']:.2f}",
                        f"{rates['perplexity'] or 0:.0f}",
                        f"{control[0]['rates']['strict']:.2f}" if control else "–",
                    ]
                )
        head = ["instruction", field, "strict", "loose", "disorder", "perplexity", "random strict"]
        return _table(head, rows)

    return table


def variants(findings: Findings, instructions: Sequence[str]) -> str:
    """Each variation's chosen setting, on the reporting half."""
    rows = []
    for name in instructions:
        for title in VARIANTS:
            for arm in ("saif", "denoised", "clamp", "one-latent"):
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


def examples(findings: Findings, instructions: Sequence[str]) -> str:
    """Every twentieth text behind the headline figures."""
    lines = []
    for name in instructions:
        data, arm = findings.read(name, "main"), best_sae_arm(findings, name)
        if data is None or arm is None:
            continue
        best = findings.best(name, "main", arm)
        assert best is not None
        lines.append(f"\n**{name}** ({arm}, {_setting(best['chosen']['setting'])})\n")
        texts = [text for text in data["texts"] if text["cell"] == best["cell"]]
        for text in texts[1::20]:
            shown = " ".join(text["text"].split())[:160].replace("`", "'")
            lines.append(f"- {text['grade']}, {text['outcome']}: `{shown}`")
    return "\n".join(lines)


VARIANTS = {
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
    "decay": "strength decays by 1 / (1 + .05 t)",
    "together": "layers 14, 22 and 29 apart and together",
}
TABLES: dict[str, Callable[[Findings, Sequence[str]], str]] = {
    "headline": headline,
    "loosely": loosely,
    "arms": arms,
    "layers": layers,
    "controls": controls,
    "k": curve("k", "k"),
    "k-last-layer": curve("k-last-layer", "k"),
    "strength": curve("strength", "strength"),
    "beta": curve("beta", "beta"),
    "variants": variants,
    "examples": examples,
}


def _control_rates(findings: Findings, name: str, setting: Data) -> Data | None:
    cells = findings.cells(name, "main", **{**setting, "arm": "random", "of": setting["arm"]})
    return cells[0]["reporting"] if cells else None


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
    if setting["k"]:
        parts.append(f"k {setting['k']}")
    if setting["strength"] is not None:
        parts.append(f"strength {setting['strength']:g}")
    return ", ".join(parts)


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
        setting = ["arm", "of", "layers", "k", "beta", "strength"]
        tests = ["resid_share", "p_unsteered", "p_random"]
        writer.writerow(["instruction", "stage", *setting, "n", *figures, "distinct_2", *tests])
        for source in sorted(folder.glob("*.json")):
            instruction, title = source.stem.split(".", 1)
            for cell in json.loads(source.read_text(encoding="utf-8"))["evaluation"]["cells"]:
                chosen = [cell["setting"][name] for name in setting]
                chosen[2] = " ".join(map(str, chosen[2]))
                values = [cell["rates"][name] for name in ("n", *figures, "distinct_2")]
                values += [cell[name] for name in tests]
                shown = [f"{v:.4g}" if isinstance(v, float) else v for v in values]
                writer.writerow([instruction, title, *chosen, *shown])
