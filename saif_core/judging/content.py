"""Is a text about its content? Scores against its own and other contents, and one rule on top.

A text may be fluent French and have nothing to do with what it was to translate. So it is scored
against its own content and against others, by one of three measures:

- chrF with a reference translation (Popović 2015, "chrF: character n-gram F-score for automatic MT
  evaluation", reconstructed; sacrebleu computes it);
- the log-probability that the unsteered model gives the text after a prompt with the content and
  the instruction. Content@1 is the share of texts that win with their own content;
- the cosine of sentence embeddings of text and content, for texts in the language of the content.

The rule is the same for all three: a text is about its content if it goes with its own content
better than with each of 19 others. It is a rank test. Were the text about nothing, its own content
would be one of 20 that nothing tells apart, and come first by chance in 1 of 20 cases: 5% false
alarms for every measure, language and length of text. A threshold learned from other texts, such as
the 95% quantile of the lifts of gold texts with wrong contents, promises that only for texts like
those, and what steering writes is shorter and rougher; the spread of a lift depends on both. With 9
others, first place would come by chance in a tenth of the cases; so there are 19, also where they
are dear. A verdict depends on the text, its content and the pool of contents that others are taken
from, never on other texts that are judged with it.

The others are those nearest to the content in length. Long contents are answered at length, and a
text should not win only because it is as long as its content.

The lift, own score minus the mean score with the others, is for reading; it decides nothing. The
mean and the sum of the log-probabilities of one text rank contents alike; the mean is used, as its
lifts can be compared between texts.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

from saif_core.judging.perplexity import read_log_probs
from saif_core.judging.words import is_blank
from saif_core.models.activations import OnRow, read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.text_embeddings import TextEmbedder

if TYPE_CHECKING:
    from sacrebleu.metrics.chrf import CHRF

# 1 of 20: the fewest others with which first place by chance is as rare as that.
N_OTHERS = 19
MOST_BY_CHANCE = 0.05
# Residual streams of so many texts are held at once: 40 MB on the default model.
_TEXTS_PER_BATCH = 512

_PromptAndText = tuple[tuple[int, ...], tuple[int, ...]]


class ContentVerdict(NamedTuple):
    """Whether one text is about its content.

    Attributes:
        lift: own score minus the mean of the others, in the unit of the measure.
        p: share of contents, its own included, that it goes with at least as well as with its own.
        is_about: p is at most 5%.
    """

    lift: float
    p: float
    is_about: bool


def choose_others(content: str, pool: Iterable[str], n: int = N_OTHERS) -> list[str]:
    """Contents to compare with: those of a pool that are nearest in length, always the same ones.

    Args:
        content: the text's own content, which is never among them.
        pool: contents in any order; repeated ones count once.
        n: how many; there are fewer where the pool is too small.
    """

    def order(other: str) -> tuple[int, bytes]:
        # Contents of one length come in an order that has nothing to do with the alphabet.
        mixed = hashlib.sha256(other.encode("utf-8", "surrogatepass")).digest()
        return abs(len(other) - len(content)), mixed

    return sorted(set(pool) - {content}, key=order)[:n]


def compared_contents(
    contents: Sequence[str], pool: Iterable[str], n: int = N_OTHERS
) -> list[list[str]]:
    """For each content a row of itself and its others, as the scores below take it."""
    kept = set(pool)
    return [[content, *choose_others(content, kept, n)] for content in contents]


def chrf_scores(
    texts: Sequence[str], references: Sequence[Sequence[str]]
) -> Float64[np.ndarray, "n_texts n_compared"]:
    """ChrF of each text with references, from 0 to 100: up to 6 characters, no words, beta 2.

    Args:
        texts: what was written.
        references: for each text a row of translations, its own content's first.
    """
    rows = [
        [0.0 if is_blank(text) else _chrf().sentence_score(text, [one]).score for one in row]
        for text, row in zip(texts, references, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def log_prob_scores(
    model: LoadedModel,
    texts: Sequence[Sequence[int]],
    prompts: Sequence[Sequence[Sequence[int]]],
    *,
    on_row: OnRow | None = None,
) -> Float64[np.ndarray, "n_texts n_compared"]:
    """Mean log-probability of each text's tokens after prompts, in nats a token.

    Texts of like contents share prompts, which are then read once. Reading costs about as many
    tokens as there are in all texts, times the prompts of each.

    Args:
        model: unsteered.
        texts: token ids of what was written, without a closing token.
        prompts: for each text a row of prompts as token ids, its own content's first, each as the
            prompted arm would put it.
        on_row: told (sequences done, sequences in all) after each row that is read.
    """
    asked = [
        (at, tuple(text), tuple(prompt))
        for at, (text, row) in enumerate(zip(texts, prompts, strict=True))
        for prompt in row
    ]
    distinct = list(dict.fromkeys((prompt, text) for _, text, prompt in asked if text))
    found = _mean_log_probs(model, distinct, on_row)
    scores: list[list[float]] = [[] for _ in texts]
    for at, text, prompt in asked:
        scores[at].append(found.get((prompt, text), 0.0))
    return np.array(scores, dtype=np.float64)


def embedding_scores(
    embedder: TextEmbedder, texts: Sequence[str], contents: Sequence[Sequence[str]]
) -> Float64[np.ndarray, "n_texts n_compared"]:
    """Cosine of the embeddings of each text and contents, from -1 to 1.

    Args:
        embedder: understands English.
        texts: what was written.
        contents: for each text a row of contents, its own first.

    Raises:
        ModelError: the embedder's model is not installed.
    """
    distinct = list(dict.fromkeys([*texts, *(one for row in contents for one in row)]))
    vectors = dict(zip(distinct, embedder.embed(distinct).astype(np.float64), strict=True))
    rows = [
        [0.0 if is_blank(text) else float(vectors[text] @ vectors[one]) for one in row]
        for text, row in zip(texts, contents, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def content_verdicts(
    scores: Float64[np.ndarray, "n_texts n_compared"],
) -> list[ContentVerdict]:
    """The verdict of each row of scores, of which the first is with the text's own content.

    Others that score as high as the own content count against it, so that a text that goes with
    all contents alike, such as an empty one, is never about its own.

    Source: ranks as p-values with the observed one among them, as in Phipson and Smyth 2010,
    "Permutation P-values should never be zero" (reconstructed).
    """
    verdicts = []
    for row in scores:
        own, others = float(row[0]), row[1:]
        p = (1 + int((others >= own).sum())) / len(row)
        lift = own - float(others.mean()) if len(others) else 0.0
        verdicts.append(ContentVerdict(lift, p, p <= MOST_BY_CHANCE))
    return verdicts


def encode_text(model: LoadedModel, text: str) -> list[int]:
    """Token ids of a text as an answer, without special tokens; none for a blank one."""
    if is_blank(text):
        return []
    return [int(i) for i in model.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _mean_log_probs(
    model: LoadedModel, pairs: Sequence[_PromptAndText], on_row: OnRow | None
) -> dict[_PromptAndText, float]:
    """Mean log-probability of the second of each pair of token ids after the first."""
    last, found = model.n_layers - 1, {}
    # In this order, those of one prompt are read together.
    ordered = sorted(pairs)
    for start in range(0, len(ordered), _TEXTS_PER_BATCH):
        batch = ordered[start : start + _TEXTS_PER_BATCH]

        def of_batch(n_done: int, _n_all: int, start: int = start) -> None:
            if on_row:
                on_row(start + n_done, len(ordered))

        # The residual stream at a token predicts the next one.
        wanted = [
            list(range(len(prompt) - 1, len(prompt) + len(text) - 1)) for prompt, text in batch
        ]
        sequences = [prompt + text for prompt, text in batch]
        resid, _ = read_resid(model, sequences, [last], wanted, on_row=of_batch)
        for pair, mine in zip(batch, resid[last], strict=True):
            found[pair] = float(read_log_probs(model, mine, pair[1]).mean())
    return found


@lru_cache(maxsize=1)
def _chrf() -> "CHRF":
    # Imported at the first use, as most texts are judged without it.
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(char_order=6, word_order=0)
