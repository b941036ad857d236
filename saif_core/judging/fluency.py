"""How well a text reads, whatever it says: repetition, invented words, and what is disorder.

Outcomes are those of SAE-SSV (arXiv 2505.16188): success, retained, disorder. The rules that
decide them here are ours.
"""

import re
from functools import lru_cache

from saif_core.judging.words import clean, words
from saif_core.records.evaluation import Outcome
from saif_core.records.texts import Judgement

# A text that repeats itself: under three fifths of its runs of five characters are distinct. Of 600
# real sentences each in English, French, German, Spanish and Chinese, the lowest share is 0.67.
LEAST_DISTINCT = 0.6
RUN = 5
MIN_RUNS = 20
# A loop too short for that: "la la la la".
LEAST_LOOP = 4
LOOP_SHARE = 0.25
# A text in invented words: under three fifths of its letters are in listed ones. Of the same
# sentences, 0 to 6 of 600 fall below, most of them German compounds.
LEAST_KNOWN = 0.6
MIN_LETTERS = 20
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


def repeats_itself(text: str) -> bool:
    """Whether a text goes round in circles, be it in words or within one."""
    plain = " ".join(clean(text).casefold().split())
    found = words(plain)
    if LEAST_LOOP <= len(found) and len(set(found)) <= LOOP_SHARE * len(found):
        return True
    runs = [plain[start : start + RUN] for start in range(len(plain) - RUN + 1)]
    return len(runs) >= MIN_RUNS and len(set(runs)) < LEAST_DISTINCT * len(runs)


def known_share(text: str) -> float:
    """Share of a text's letters whose words are in a list of 26 languages with Latin letters.

    Words in other scripts, and texts of fewer than 20 letters, count as known.
    """
    found = _LETTERS.findall(clean(text).casefold())
    n_letters = sum(map(len, found))
    if n_letters < MIN_LETTERS:
        return 1.0
    listed = _listed_words()
    known = [word for word in found if word in listed or not _LATIN.match(word)]
    return sum(map(len, known)) / n_letters


def is_disordered(text: str, perplexity: float | None) -> bool:
    """Whether a text has no words, repeats itself, invents its words, or makes no sense.

    Args:
        text: what was written.
        perplexity: under the unsteered model, None for a text without tokens.
    """
    return bool(disorder_reason(text, perplexity))


@lru_cache(maxsize=4096)
def disorder_reason(text: str, perplexity: float | None) -> str:
    """What breaks a text, in a few words; "" for one that is whole."""
    if not words(clean(text)):
        return "it has no words"
    if repeats_itself(text):
        return "it repeats itself"
    if known_share(text) < LEAST_KNOWN:
        return "most of it is in no known words"
    if perplexity is not None and perplexity > WORST_PERPLEXITY:
        return "it makes no sense to the unsteered model"
    return ""


def outcome(judgement: Judgement, text: str, perplexity: float | None) -> Outcome:
    """Disorder before all else; success = follows at least loosely; otherwise retained."""
    if is_disordered(text, perplexity):
        return "disorder"
    return "success" if judgement.grade in ("strict", "loose") else "retained"
