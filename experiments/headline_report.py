"""The page of the headline experiment, docs/results/saif.md, from the texts that it reported.

    python -m experiments.headline_report [--collect]

With `--collect` the texts that `experiments.headline` kept under SAIF_HOME are gathered into
`docs/results/headline_texts.jsonl.gz` first. Every figure of the page is computed from that file.
The words are in `headline_template.md`; a line `{{name}}` in it is replaced by the table of that
name.
"""

import argparse
import gzip
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.headline import PROMPTED, UNSTEERED, folder_of, read_plan
from saif_core.evaluating.rates import paired_p, rates_of
from saif_core.records.evaluation import EvaluationText, Rates

TEMPLATE = Path(__file__).with_name("headline_template.md")
TEXTS = Path("docs/results/headline_texts.jsonl.gz")
PAGE = Path("docs/results/saif.md")
SIGNIFICANT = 0.01
SAIF, MEAN, GATED, TOLD = "SAIF", "mean difference", "gated latents", "gated latents and prompted"
TEXTS_SHOWN = 12

Row = Mapping[str, Any]
Key = tuple[str, int]


def rates(rows: Iterable[Row]) -> dict[Key, Rates]:
    """Rates by arm and seed, in the order of the rows."""
    return {key: rates_of(texts) for key, texts in _by_arm(rows).items()}


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for looking at all of them, by Holm's method."""
    order = sorted(range(len(ps)), key=lambda at: ps[at])
    corrected, least = [1.0] * len(ps), 0.0
    for rank, at in enumerate(order):
        least = max(least, min(1.0, (len(ps) - rank) * ps[at]))
        corrected[at] = least
    return corrected


class Results:
    """The reported texts.

    Attributes:
        arms: by instruction, then by arm and seed.
        instructions: those that were run, in the order of the plan.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.arms: dict[str, dict[Key, list[EvaluationText]]] = {}
        by_instruction: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_instruction[row["instruction"]].append(row)
        for name, some in by_instruction.items():
            self.arms[name] = _by_arm(some)
        self.instructions = [n for n in read_plan()[0]["instructions"] if n in self.arms]

    def has(self, name: str, arm: str, seed: int = 0) -> bool:
        """Whether an arm was run."""
        return (arm, seed) in self.arms[name]

    def rates(self, name: str, arm: str, seed: int = 0) -> Rates:
        """Rates of an arm."""
        return rates_of(self.arms[name][arm, seed])

    def p(self, name: str, arm: str, other: str) -> float:
        """McNemar's exact test of useful texts."""
        found = paired_p(self.arms[name][arm, 0], self.arms[name][other, 0])
        return 1.0 if found is None else found

    def corrected(self, arm: Callable[[str], str], other: Callable[[str], str]) -> dict[str, float]:
        """P of an arm against another for every instruction, by Holm's method."""
        ps = [self.p(name, arm(name), other(name)) for name in self.instructions]
        return dict(zip(self.instructions, holm(ps), strict=True))

    def constant(self, name: str) -> str:
        """The constant vector with the higher useful rate."""
        return max((SAIF, MEAN), key=lambda arm: self.rates(name, arm).primary)

    def latents(self, name: str) -> str:
        """The arm with latents, without the instruction, that has the higher useful rate."""
        return max((SAIF, GATED), key=lambda arm: self.rates(name, arm).primary)

    def setting(self, name: str, arm: str) -> Row:
        """The first row of an arm, which has its strength and wording."""
        return next(r for r in self.rows if r["instruction"] == name and r["arm"] == arm)


def headline(results: Results) -> str:
    """Useful rates of the main arms."""
    arms = [UNSTEERED, PROMPTED, SAIF, MEAN, GATED, TOLD]
    lines = []
    for name in results.instructions:
        best = max(results.rates(name, arm).primary for arm in arms)
        cells = []
        for arm in arms:
            rate = results.rates(name, arm).primary
            cells.append(f"**{_share(rate)}**" if rate == best else _share(rate))
        lines.append([name, *cells])
    return _table(["instruction", *arms], lines)


def details(results: Results) -> str:
    """Every arm: useful with interval, strict, disorder, and tests of useful texts."""
    lines = []
    for name in results.instructions:
        arms = [arm for arm, seed in results.arms[name] if not seed]
        for arm in arms:
            found, setting = results.rates(name, arm), results.setting(name, arm)
            strength = "" if setting["strength"] is None else f"{setting['strength']:g}"
            control = f"{arm}: random"
            lines.append(
                [
                    name,
                    arm,
                    strength,
                    _with_interval(found),
                    _share(found.strict),
                    _share(found.disorder),
                    "" if arm == PROMPTED else _p(results.p(name, arm, PROMPTED)),
                    _p(results.p(name, arm, control)) if results.has(name, control) else "",
                ]
            )
    header = ["instruction", "arm", "strength", "useful", "strict", "disorder"]
    return _table([*header, "p: prompted", "p: its random control"], lines)


def seeds(results: Results) -> str:
    """Useful rates of the same settings with other draws."""
    lines = []
    for name in results.instructions:
        for arm in (PROMPTED, GATED, TOLD):
            ran = sorted(seed for a, seed in results.arms[name] if a == arm)
            if len(ran) > 1:
                shares = [_share(results.rates(name, arm, seed).primary) for seed in ran]
                lines.append([name, arm, *shares])
    if not lines:
        return "Not run yet."
    return _table(["instruction", "arm", "seed 0", "seed 1", "seed 2"], lines)


def claims(results: Results) -> str:
    """What was claimed beforehand, and what came of it."""
    plan, _ = read_plan()
    names = results.instructions
    useful = {
        arm: {n: results.rates(n, arm).primary for n in names}
        for arm in (PROMPTED, SAIF, MEAN, GATED, TOLD)
    }
    random_p = results.corrected(results.latents, lambda n: f"{results.latents(n)}: random")
    above_random = [
        n
        for n in names
        if random_p[n] < SIGNIFICANT
        and results.rates(n, results.latents(n)).primary
        > results.rates(n, f"{results.latents(n)}: random").primary
    ]
    constant = {n: useful[results.constant(n)][n] for n in names}
    beaten = [n for n in names if useful[PROMPTED][n] > constant[n]]
    gap = [
        n
        for n in names
        if useful[GATED][n] - constant[n] >= (useful[PROMPTED][n] - constant[n]) / 2
        and useful[GATED][n] > constant[n]
    ]
    as_good = [n for n in names if useful[GATED][n] >= useful[PROMPTED][n]]
    told_p = results.corrected(lambda _: TOLD, lambda _: PROMPTED)
    on_top = [n for n in names if useful[TOLD][n] > useful[PROMPTED][n]]
    surely = [n for n in on_top if told_p[n] < SIGNIFICANT]
    worse = [n for n in names if useful[TOLD][n] < useful[PROMPTED][n] and told_p[n] < SIGNIFICANT]
    n = len(names)
    found = [
        f"{len(above_random)} of {n}: {_names(above_random)}.",
        f"{len(beaten)} of {n}: {_names(beaten)}.",
        f"{len(gap)} of {n}: {_names(gap)}.",
        f"{len(as_good)} of {n}: {_names(as_good)}.",
        f"Above on {len(on_top)} of {n} ({len(surely)} of them at p < .01: {_names(surely)}); "
        f"significantly below on {_names(worse)}.",
        _formats(results),
        _languages(results),
    ]
    rows = [[claim, came] for claim, came in zip(plan["claims"], found, strict=True)]
    return _table(["claimed before", "found"], rows)


def examples(results: Results) -> str:
    """Texts of the best arm with latents, drawn by chance."""
    parts = []
    for name in results.instructions:
        arm = results.latents(name)
        rows = [
            r for r in results.rows if (r["instruction"], r["arm"], r["seed"]) == (name, arm, 0)
        ]
        drawn = random.Random(name).sample(rows, min(TEXTS_SHOWN, len(rows)))  # noqa: S311
        lines = [f"**{name}** ({arm}, strength {rows[0]['strength']:g})", ""]
        for row in drawn:
            lines.append(
                f"- {_verdict(row)}: {_quoted(row['content'], 70)} → {_quoted(row['text'], 160)}"
            )
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def missing(results: Results) -> str:
    """What of the plan was not run."""
    plan, _ = read_plan()
    left = [name for name in plan["instructions"] if name not in results.instructions]
    said = [f"the instructions {', '.join(left)}"] if left else []
    arms = {arm for texts in results.arms.values() for arm, _ in texts}
    wider = [arm["name"] for arm in plan["wider"]["arms"] if arm["name"] not in arms]
    if wider:
        said.append(f"the wider arms ({', '.join(wider)})")
    if not any(seed for texts in results.arms.values() for _, seed in texts):
        said.append("the same settings with other draws")
    return f"Not run yet: {'; '.join(said)}." if said else "All of the plan was run."


TABLES: dict[str, Callable[[Results], str]] = {
    "headline": headline,
    "claims": claims,
    "details": details,
    "seeds": seeds,
    "examples": examples,
    "missing": missing,
    "plan": lambda _: f"`experiments/headline_plan.json`, SHA-256 `{read_plan()[1]}`",
}


def page(results: Results) -> str:
    """The whole page."""
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = text.replace("{{" + name + "}}", table(results))
    return text


def read_texts(file: Path = TEXTS) -> list[dict[str, Any]]:
    """The reported texts."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def collect(home: Path, file: Path = TEXTS) -> None:
    """Gather the texts of all instructions and stages of the plan as it is."""
    start = f"{read_plan()[1][:12]}."
    kept = sorted(path for path in folder_of(home).iterdir() if path.name.startswith(start))
    data = b"".join(path.read_bytes() for path in kept)
    # Without the time of day, so that the same texts make the same file.
    file.write_bytes(gzip.compress(data, mtime=0))


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collect", action="store_true", help="gather the texts first")
    if parser.parse_args().collect:
        from app.settings import load_settings

        collect(load_settings().home)
    PAGE.write_text(page(Results(read_texts())), encoding="utf-8")


def _by_arm(rows: Iterable[Row]) -> dict[Key, list[EvaluationText]]:
    found: dict[Key, list[EvaluationText]] = defaultdict(list)
    for row in rows:
        found[row["arm"], row["seed"]].append(
            EvaluationText(
                0,
                row["content"],
                row["text"],
                row["grade"],
                "",
                row["outcome"],
                row["perplexity"],
                row["about"],
            )
        )
    return dict(found)


def _formats(results: Results) -> str:
    said = []
    for name in ("answer-in-json", "bullet-list"):
        found = results.rates(name, GATED)
        said.append(f"{name}: strict {_share(found.strict)}, useful {_share(found.primary)}")
        for control in (f"{GATED}: cue-token", "gates on random latents"):
            if results.has(name, control):
                useful, p = results.rates(name, control).primary, results.p(name, GATED, control)
                said.append(f"{control.removeprefix(GATED + ': ')} {_share(useful)} (p {_p(p)})")
    return "; ".join(said) + "."


def _languages(results: Results) -> str:
    said = []
    for name in ("translate-to-french", "translate-to-german", "translate-to-spanish"):
        found, constant = results.rates(name, GATED), results.constant(name)
        said.append(
            f"{name}: disorder {_share(found.disorder)}, useful {_share(found.primary)} against "
            f"{_share(results.rates(name, constant).primary)} "
            f"(p {_p(results.p(name, GATED, constant))})"
        )
    return ". ".join(said) + "."


def _verdict(row: Row) -> str:
    if row["outcome"] == "disorder":
        return "disorder"
    if row["grade"] != "strict":
        return "does not follow" if row["grade"] == "none" else "follows loosely"
    return {True: "useful", False: "about something else", None: "follows"}[row["about"]]


def _quoted(text: str, length: int) -> str:
    line = text.replace("\n", "↵").replace("`", "ʼ").replace("|", "\\|")
    return f"`{line[:length]}{'…' if len(line) > length else ''}`"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _share(share: float) -> str:
    return "1.00" if share == 1 else f"{share:.2f}"[1:]


def _with_interval(found: Rates) -> str:
    low, high = found.primary_ci
    return f"{_share(found.primary)} [{_share(low)}–{_share(high)}]"


def _p(p: float) -> str:
    return "< .0001" if p < 0.0001 else "1" if p == 1 else f"{p:.4f}"[1:]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
