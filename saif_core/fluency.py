"""How well a text reads, whatever it says: repetition, invented words, and what is disorder.

Outcomes are those of SAE-SSV (arXiv 2505.16188): success, retained, disorder. The rules that
decide them here are ours.
"""

import re
from functools import lru_cache

from saif_core.evaluation_records import Outcome
from saif_core.evaluators._text import clean, words
from saif_core.records import Judgement

# A text that repeats itself: under half of its pairs of words are distinct.
LEAST_DISTINCT = 0.5
MIN_WORDS = 8
# A text in invented words: under two thirds are in any word list. Of 600 real sentences each in
# English, French, German, Spanish and Chinese, 0 to 3 fall below.
LEAST_KNOWN = 2 / 3
MIN_LISTED_WORDS = 4
# Beyond it a text is a row of unrelated pieces; what the model writes by itself stays far below,
# and so do its own answers in other languages.
WORST_PERPLEXITY = 1000.0

_LETTERS = re.compile(r"[^\W\d_]+")
_LATIN = re.compile(r"[a-z\u00c0-\u024f]")
# Languages of the shipped instructions in full, down to words of one in ten million (rarer ones in
# the lists are mostly noise); others by their common words.
_FULL_LISTS = ("de", "en", "es", "fr")
_COMMON_LISTS = "bs ca cs da fi fil hu id is it lt lv ms nb nl pl pt ro sh sk sl sv tr vi".split()
_RAREST = 700  # in hundredths of a power of ten, from certainty


@lru_cache(maxsize=1)
def _listed_words() -> frozenset[str]:
    # Imported at the first use: the lists take half a second and 100 MB.
    from wordfreq import available_languages, get_frequency_list

    common = [language for language in _COMMON_LISTS if language in available_languages("small")]
    lists = [get_frequency_list(language, "best")[: _RAREST + 1] for language in _FULL_LISTS]
    lists += [get_frequency_list(language, "small") for language in common]
    return frozenset(word for buckets in lists for bucket in buckets for word in bucket)


def distinct_share(text: str, n: int) -> float:
    """Share of a text's runs of ``n`` words that are distinct; 1 for shorter texts."""
    found = [word.casefold() for word in words(clean(text))]
    runs = list(zip(*(found[start:] for start in range(n)), strict=False))
    return len(set(runs)) / len(runs) if runs else 1.0


def known_share(text: str) -> float:
    """Share of a text's words that are in a list of 26 languages with Latin letters.

    Words in other scripts, and texts of fewer than four words, count as known.
    """
    found = _LETTERS.findall(clean(text).casefold())
    if len(found) < MIN_LISTED_WORDS:
        return 1.0
    listed = _listed_words()
    return sum(word in listed or not _LATIN.match(word) for word in found) / len(found)


def is_disordered(text: str, perplexity: float | None) -> bool:
    """Whether a text has no words, repeats itself, invents its words, or makes no sense.

    Args:
        text: what was written.
        perplexity: under the unsteered model, None for a text without tokens.
    """
    n_words = len(words(clean(text)))
    if n_words == 0:
        return True
    if n_words >= MIN_WORDS and distinct_share(text, 2) < LEAST_DISTINCT:
        return True
    if known_share(text) < LEAST_KNOWN:
        return True
    return perplexity is not None and perplexity > WORST_PERPLEXITY


def outcome(judgement: Judgement, text: str, perplexity: float | None) -> Outcome:
    """Disorder before all else; success = follows at least loosely; otherwise retained."""
    if is_disordered(text, perplexity):
        return "disorder"
    return "success" if judgement.grade in ("strict", "loose") else "retained"
