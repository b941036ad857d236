"""How well texts that are right are found to be about their contents, and wrong ones are not.

``python -m experiments.content_calibration`` reads the shipped contents with their translations,
and files of further pairs where they are given. It writes the figures that
saif_core/judging/content_measures.py reads; docs/results/content.md tells of them.
"""

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.settings import load_settings
from saif_core.catalog import Catalog
from saif_core.inputs.prompt_pairs import join_instruction
from saif_core.inputs.shipped import shipped_contents, shipped_instructions, shipped_references
from saif_core.judging.content import (
    N_OTHERS,
    ContentVerdict,
    choose_others,
    content_verdicts,
    encode_text,
)
from saif_core.judging.content_measures import (
    CalibrationRow,
    Scorer,
    by_embedding,
    by_log_prob,
    by_references,
)
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.text_embeddings import TextEmbedder, is_installed

LANGUAGES = {"fr": "french", "de": "german", "es": "spanish", "zh": "chinese"}
OUT = Path(__file__).parent.parent / "saif_core" / "defaults" / "content_calibration.json"
POOL, SEED = 240, 0
# As many as an evaluation lets a text have; the rest of a gold text would only make it easier.
MAX_TOKENS = 32
_CLAUSE = re.compile(r"(?<=[.!?,;:])\s+")


class Gold(NamedTuple):
    """Texts that are right by construction.

    Attributes:
        texts: where they are from.
        kind: their language, or the evaluator they satisfy.
        instruction: name of the shipped instruction that they follow.
        by_content: the gold text of each content.
    """

    texts: str
    kind: str
    instruction: str
    by_content: dict[str, str]


def shipped_gold() -> Iterator[Gold]:
    """Translations of the shipped contents, and these as JSON and as lists, clause by clause."""
    for language, name in LANGUAGES.items():
        yield Gold("shipped", language, f"translate-to-{name}", shipped_references(language))
    clauses = {content: _CLAUSE.split(content) for content in shipped_contents()}
    as_json = {one: json.dumps({"text": parts}) for one, parts in clauses.items()}
    as_list = {one: "\n".join(f"- {part}" for part in parts) for one, parts in clauses.items()}
    yield Gold("shipped", "json", "answer-in-json", as_json)
    yield Gold("shipped", "list", "bullet-list", as_list)


def gold_of_file(path: Path) -> Iterator[Gold]:
    """Translations in a JSONL file whose rows have "en" and codes of further languages.

    Taken are 240 rows spread over the file; of rows with the same English text, the first.
    """
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    distinct = list({row["en"]: row for row in reversed(rows)}.values())[::-1]
    step = max(1, len(distinct) // POOL)
    for language, name in LANGUAGES.items():
        kept = {r["en"]: r[language] for r in distinct[::step][:POOL] if r.get(language)}
        if len(kept) > N_OTHERS + 1:
            yield Gold(path.stem, language, f"translate-to-{name}", kept)


def half_of(gold: Gold) -> Gold:
    """The same texts without half of their words, for Chinese of their characters, by chance."""

    def thin(text: str) -> str:
        draw = random.Random(f"{SEED}{text}")
        parts = list(text) if gold.kind == "zh" else text.split()
        kept = [part for part in parts if draw.random() < 0.5] or parts[:1]
        return ("" if gold.kind == "zh" else " ").join(kept)

    thinned = {content: thin(text) for content, text in gold.by_content.items()}
    return gold._replace(texts=f"{gold.texts}, half of the words", by_content=thinned)


def shortened(gold: Gold, model: LoadedModel) -> Gold:
    """The same texts, broken off where an evaluation would end them."""
    cut = {
        content: model.decode(encode_text(model, text)[:MAX_TOKENS])
        for content, text in gold.by_content.items()
    }
    return gold._replace(by_content=cut)


def measure(name: str, model_id: str, gold: Gold, scorer: Scorer, n: int) -> CalibrationRow:
    """Verdicts of gold texts with their own contents, and with another's taken for it.

    Each text is scored with one content more than a verdict needs, so that without its own there
    are still 19 others to the wrong one, and the text is read no further time.
    """
    pool, draw = list(gold.by_content), random.Random(SEED)
    contents = draw.sample(pool, min(n, len(pool)))
    rows = [[content, *choose_others(content, pool, N_OTHERS + 1)] for content in contents]
    scores = scorer([gold.by_content[content] for content in contents], rows)
    own = content_verdicts(scores[:, :-1])
    others = content_verdicts(
        np.array([draw.sample(row, len(row)) for row in scores[:, 1:].tolist()])
    )
    return CalibrationRow(
        texts=gold.texts,
        measure=name,
        model=model_id,
        kind=gold.kind,
        n=len(own),
        hits=_share(own),
        false_alarms=_share(others),
        lift=round(sum(one.lift for one in own) / len(own), 4),
    )


def _share(verdicts: Sequence[ContentVerdict]) -> float:
    return round(sum(one.is_about for one in verdicts) / len(verdicts), 4)


def prompt_maker(model: LoadedModel, instruction: str) -> Callable[[str], list[int]]:
    """Prompts of contents with the first wording of an instruction after them."""
    wording = shipped_instructions()[instruction].wordings[0].text
    return lambda content: model.encode_prompt(
        join_instruction(content, wording, "after"), chat=True
    )


def measured(
    golds: Sequence[Gold], model: LoadedModel | None, n: int, n_log_prob: int
) -> Iterator[CalibrationRow]:
    """Every measure on every kind of gold texts that it may be used for."""
    embedder = TextEmbedder() if is_installed() else None
    for gold in golds:
        if gold.kind in LANGUAGES:
            # The gold text of a content is its reference, so the texts to score are thinned.
            scorer = by_references(gold.by_content)
            yield measure("chrf", "", half_of(gold), scorer, n)
        if embedder:
            yield measure("embedding", "", gold, by_embedding(embedder), n)
        if model:
            scorer = by_log_prob(model, prompt_maker(model, gold.instruction), _show_progress)
            yield measure("log_prob", model.id, shortened(gold, model), scorer, n_log_prob)


def _show_progress(n_done: int, n_all: int) -> None:
    print(f"\r{n_done} of {n_all} texts read", end="", file=sys.stderr)  # noqa: T201


def main() -> None:
    """Measure, and write the file of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, nargs="*", default=[], help="JSONL files of pairs")
    parser.add_argument("--kinds", nargs="*", help="languages and evaluators; all if left out")
    parser.add_argument("--n", type=int, default=POOL, help="texts of each kind")
    parser.add_argument("--n-log-prob", type=int, default=30, help="the same for log-probabilities")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="'' leaves log-probabilities out")
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args()
    model = Catalog(load_settings().home).load_model(asked.model) if asked.model else None
    golds = [*shipped_gold(), *(gold for path in asked.pairs for gold in gold_of_file(path))]
    rows = []
    for row in measured(
        [gold for gold in golds if not asked.kinds or gold.kind in asked.kinds],
        model,
        asked.n,
        asked.n_log_prob,
    ):
        rows.append(row)
        print(row, flush=True)  # noqa: T201
        write(rows, asked.out)


def write(rows: Sequence[CalibrationRow], out: Path) -> None:
    """Put figures into the file; those of the same texts, measure, model and kind are replaced."""
    document = json.loads(out.read_text("utf-8")) if out.is_file() else {"rows": []}
    found = {_key(row): row for old in document["rows"] for row in [CalibrationRow(**old)]}
    found |= {_key(row): row for row in rows}
    document = {
        "made_by": "python -m experiments.content_calibration",
        "rows": [row._asdict() for _, row in sorted(found.items())],
    }
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _key(row: CalibrationRow) -> tuple[str, ...]:
    return row.measure, row.texts, row.kind, row.model


if __name__ == "__main__":
    main()
