"""How well a text reads, whatever it says: repetition, words, scripts, and what is disorder.

Outcomes are those of SAE-SSV (arXiv 2505.16188): success, retained, disorder. The rules that
decide them here are ours.
"""

import gzip
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

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
# A sound clause that comes again and again, which runs of five characters do not show, above all in
# Chinese: over 36% of the words are in a run of three that was there before. The highest share in
# the same sentences is 0.30, in four of them at a time 0.35, and in the 240 shipped contents and
# their translations 0.12.
MOST_AGAIN = 0.36
RUN_WORDS = 3
MIN_WORDS = 8
# A text in invented words: under three fifths of its letters are in listed ones. Of the same
# sentences, 0 to 6 of 600 fall below, most of them German compounds.
LEAST_KNOWN = 0.6
MIN_LETTERS = 20
# Chinese characters in no order: under two fifths of them are in a listed word of two to four
# characters, or are one of the 19 most common words of a single character. Of real texts with at
# least twelve characters, none of 594 sentences (FLORES-200; the lowest has 0.54) and none of 212
# shipped translations (0.57) fall below, but 4% of 2,498 short and simple sentences (Tatoeba) that
# string single characters together. With their characters shuffled, 94%, 92% and 65% of them do.
LEAST_IN_WORDS = 0.4
MIN_CHARACTERS = 12
# Scripts in turn: over a third of the neighbouring letters are of two scripts. The highest shares
# in real Chinese, which writes names and measures in Latin letters, are 0.29 (FLORES-200) and 0.31
# (Tatoeba); sentences in the other four languages have none.
MOST_SWITCHES = 0.33
MIN_LETTERS_OF_SCRIPTS = 10
# Some Japanese signs in a Chinese text: Japanese itself has many more (not measured), Chinese has
# none in 600 and 240 texts.
MOST_KANA = 0.12
LEAST_KANA = 2
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
_RAREST_CHINESE, _RAREST_CHARACTER = 650, 240
_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]+")
_LONGEST_CHINESE_WORD = 4
_SCRIPTS_OF_JAPANESE = ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA")


@lru_cache(maxsize=1)
def _listed_words() -> frozenset[str]:
    # Imported at the first use: the lists take half a second and 100 MB.
    from wordfreq import available_languages, get_frequency_list

    common = [language for language in _COMMON_LISTS if language in available_languages("small")]
    lists = [get_frequency_list(language, "best")[: _RAREST + 1] for language in _FULL_LISTS]
    lists += [get_frequency_list(language, "small") for language in common]
    return frozenset(word for buckets in lists for bucket in buckets for word in bucket)


class _ChineseWords(NamedTuple):
    """Words of several characters, those of one, and the simplified form of characters."""

    long: frozenset[str]
    single: frozenset[str]
    simplified: dict[int, str]


@lru_cache(maxsize=1)
def _chinese_words() -> _ChineseWords:
    import msgpack
    from wordfreq import get_frequency_list
    from wordfreq.util import data_path

    buckets = get_frequency_list("zh", "best")
    long = (word for bucket in buckets[: _RAREST_CHINESE + 1] for word in bucket if len(word) > 1)
    single = (w for bucket in buckets[: _RAREST_CHARACTER + 1] for w in bucket if len(w) == 1)
    # The list is in simplified characters. The table comes with it, but the module that reads it
    # needs a tokenizer that is not installed.
    with gzip.open(data_path("_chinese_mapping.msgpack.gz")) as file:
        simplified = msgpack.load(file, raw=False, strict_map_key=False)
    return _ChineseWords(frozenset(long), frozenset(single), simplified)


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
    if len(found) >= MIN_WORDS and share_again(found) > MOST_AGAIN:
        return True
    runs = [plain[start : start + RUN] for start in range(len(plain) - RUN + 1)]
    return len(runs) >= MIN_RUNS and len(set(runs)) < LEAST_DISTINCT * len(runs)


def share_again(found: Sequence[str]) -> float:
    """Share of words that are in a run of three words that was there before; 0 without words."""
    seen: set[tuple[str, ...]] = set()
    again = [False] * len(found)
    for start in range(len(found) - RUN_WORDS + 1):
        run = tuple(found[start : start + RUN_WORDS])
        if run in seen:
            again[start : start + RUN_WORDS] = [True] * RUN_WORDS
        seen.add(run)
    return sum(again) / len(again) if again else 0.0


def share_in_words(text: str) -> float:
    """Share of a text's Chinese characters that make words with their neighbours, or are common.

    Texts of fewer than twelve such characters, and Japanese ones, count as in order.
    """
    plain = clean(text)
    runs = _CHINESE.findall(plain)
    n_characters = sum(map(len, runs))
    if n_characters < MIN_CHARACTERS or _n_kana(plain) > MOST_KANA * n_characters:
        return 1.0
    known = _chinese_words()
    return sum(_n_in_words(run.translate(known.simplified), known) for run in runs) / n_characters


def _n_in_words(run: str, known: _ChineseWords) -> int:
    inside = [character in known.single for character in run]
    for start in range(len(run)):
        for length in range(_LONGEST_CHINESE_WORD, 1, -1):
            if run[start : start + length] in known.long:
                inside[start : start + length] = [True] * len(run[start : start + length])
                break
    return sum(inside)


def mixes_scripts(text: str) -> bool:
    """Whether a text goes to and fro between scripts, or has Japanese signs in Chinese."""
    plain = clean(text)
    scripts = [_script(letter) for letter in plain if letter.isalpha()]
    if len(scripts) < MIN_LETTERS_OF_SCRIPTS:
        return False
    n_switches = sum(one != other for one, other in pairwise(scripts))
    n_chinese = sum(map(len, _CHINESE.findall(plain)))
    strewn = LEAST_KANA <= _n_kana(plain) <= MOST_KANA * n_chinese
    return strewn or n_switches > MOST_SWITCHES * (len(scripts) - 1)


def _n_kana(text: str) -> int:
    return sum("\u3041" <= letter <= "\u30fa" for letter in text)


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The script as the name of the letter begins; Japanese signs go with Chinese characters."""
    name = unicodedata.name(letter, "").split(" ")[0]
    return "CJK" if name in _SCRIPTS_OF_JAPANESE else name


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
    """Whether a text has no words, repeats itself, invents or shuffles them, or makes no sense.

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
    if mixes_scripts(text):
        return "it mixes scripts"
    if share_in_words(text) < LEAST_IN_WORDS:
        return "its characters are in no order"
    if perplexity is not None and perplexity > WORST_PERPLEXITY:
        return "it makes no sense to the unsteered model"
    return ""


def outcome(judgement: Judgement, text: str, perplexity: float | None) -> Outcome:
    """Disorder before all else; success = follows at least loosely; otherwise retained."""
    if is_disordered(text, perplexity):
        return "disorder"
    return "success" if judgement.grade in ("strict", "loose") else "retained"
