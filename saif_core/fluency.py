"""How well a text reads, whatever it says: repetition, and when it counts as disorder.

Outcomes are those of SAE-SSV (arXiv 2505.16188): success, retained, disorder. The rules that
decide them here are ours.
"""

from saif_core.evaluation_records import Outcome
from saif_core.evaluators._text import clean, words
from saif_core.records import Judgement

# A text that repeats itself: under half of its pairs of words are distinct.
LEAST_DISTINCT = 0.5
MIN_WORDS = 8
# Beyond it a text is a row of unrelated pieces; what the model writes by itself stays far below,
# and so do its own answers in other languages.
WORST_PERPLEXITY = 1000.0


def distinct_share(text: str, n: int) -> float:
    """Share of a text's runs of ``n`` words that are distinct; 1 for shorter texts."""
    found = [word.casefold() for word in words(clean(text))]
    runs = list(zip(*(found[start:] for start in range(n)), strict=False))
    return len(set(runs)) / len(runs) if runs else 1.0


def is_disordered(text: str, perplexity: float | None) -> bool:
    """Whether a text is empty of words, repeats itself, or is nothing the model could mean.

    Args:
        text: what was written.
        perplexity: under the unsteered model, None for a text without tokens.
    """
    n_words = len(words(clean(text)))
    if n_words == 0:
        return True
    if n_words >= MIN_WORDS and distinct_share(text, 2) < LEAST_DISTINCT:
        return True
    return perplexity is not None and perplexity > WORST_PERPLEXITY


def outcome(judgement: Judgement, text: str, perplexity: float | None) -> Outcome:
    """Disorder before all else; success = follows at least loosely; otherwise retained."""
    if is_disordered(text, perplexity):
        return "disorder"
    return "success" if judgement.grade in ("strict", "loose") else "retained"
