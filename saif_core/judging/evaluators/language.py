"""Evaluator ``language``: is the text written in a given language?

strict: the text as a whole is detected as the language, and no clause of it that is long enough
to tell (four words) is detected as another one; at most a tenth of the letters (for Chinese, three
tenths) are of a foreign script, and at least two words differ.
loose: at least one clause of four words or more is detected as the language.
none: anything else. Sentences that repeat the prompt word for word do not count: an answer that
repeats the prompt and then translates it is loose, one that only repeats it is none.

Source: lingua (n-gram models, offline), as ``saif_core/judging/languages.py`` asks it.
"""

import re
import unicodedata
from typing import Literal

from saif_core.judging.languages import language_of
from saif_core.judging.words import (
    clean,
    only_repeats,
    own_sentences,
    split_sentences,
    words,
)
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_NAMES = {"fr": "French", "de": "German", "es": "Spanish", "zh": "Chinese", "en": "English"}
_CLAUSE = re.compile(r"[:;：；«»“”\"()（）\[\]{}<>|*]+|\s[-–—]\s")
_MIN_CLAUSE_WORDS = 4
_MIN_CONFIDENCE = 0.4
_MAX_LETTERS = 20_000
_FOREIGN_SHARE = {"zh": 0.3}


def language(
    pair: PromptPair, generation: str, *, language: Literal["fr", "de", "es", "zh", "en"]
) -> Judgement:
    """Whether the text is in the language.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
        language: ISO 639-1 code of the language that was asked for.
    """
    text, name = clean(generation)[:_MAX_LETTERS], _NAMES[language]
    if not any(map(str.isalpha, text)):
        return Judgement("none", "The text is empty." if not text else "The text has no letters.")
    if only_repeats(pair, text):
        return Judgement("none", "The text only repeats the prompt.")
    own = own_sentences(pair, text)
    clauses = [clause for sentence in own for clause in _clauses(sentence)]
    found = [language_of(clause, above=_MIN_CONFIDENCE) for clause in clauses]
    repeats = len(own) < len(split_sentences(text))
    mixed = repeats or any(code not in (language, "") for code in found)
    whole = _is_in_script(text, language) and _is_varied(text)
    if whole and not mixed and language_of(text, above=0.0) == language:
        return Judgement("strict", f"The whole text is {name}.")
    if language in found:
        return Judgement("loose", f"A part of the text is {name}.")
    return Judgement("none", f"No clause of four words or more is clearly {name}.")


def _clauses(sentence: str) -> list[str]:
    parts = (part.strip() for part in _CLAUSE.split(sentence))
    return [part for part in parts if len(words(part)) >= _MIN_CLAUSE_WORDS and _is_varied(part)]


def _is_varied(text: str) -> bool:
    return len({word.casefold() for word in words(text)}) > 1


def _is_in_script(text: str, language: str) -> bool:
    letters = [letter for letter in text if letter.isalpha()]
    script = "CJK" if language == "zh" else "LATIN"
    foreign = sum(not unicodedata.name(letter, "").startswith(script) for letter in letters)
    return foreign <= _FOREIGN_SHARE.get(language, 0.1) * len(letters)
