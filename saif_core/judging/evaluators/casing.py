"""Evaluator ``casing``: is the text in capital letters, or in small letters, only?

strict: no letter of the text is in the other case, and it has at least three words.
loose: letters of both cases, but at least one sentence of three or more words is wholly in the
case that was asked for.
none: anything else. Sentences that repeat the prompt letter for letter do not count. A text that
repeats a content that already had no letter of the other case cannot be judged.

Letters without case (Chinese, Arabic, …) and ß, which has no common capital, are in either case.
"""

import unicodedata
from typing import Literal

from saif_core.judging.words import clean, content_of, only_repeats, own_sentences, words
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_MIN_WORDS = 3


def casing(pair: PromptPair, generation: str, *, casing: Literal["upper", "lower"]) -> Judgement:
    """Whether the text is in capital letters, or in small letters, only.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
        casing: the case that was asked for: upper (capital letters) or lower (small letters).
    """
    text = clean(generation)
    kind = "capital" if casing == "upper" else "small"
    if not text:
        return Judgement("none", "The text is empty.")
    right, wrong = _count_cases(text, casing)
    if only_repeats(pair, text):
        content_right, content_wrong = _count_cases(content_of(pair), casing)
        if content_right and not content_wrong and not wrong:
            return Judgement(None, f"The content itself has {kind} letters only.")
        return Judgement("none", "The text only repeats the prompt.")
    if right and not wrong and len(words(text)) >= _MIN_WORDS:
        return Judgement("strict", f"Every letter is a {kind} letter.")
    if any(_is_cased(sentence, casing) for sentence in own_sentences(pair, text)):
        return Judgement("loose", f"At least one sentence is in {kind} letters only.")
    if not right and not wrong:
        return Judgement("none", "The text has no letter that has a case.")
    return Judgement("none", f"No sentence of three words or more is in {kind} letters only.")


def _is_cased(sentence: str, casing: str) -> bool:
    right, wrong = _count_cases(sentence, casing)
    return right > 0 and wrong == 0 and len(words(sentence)) >= _MIN_WORDS


def _count_cases(text: str, casing: str) -> tuple[int, int]:
    kinds = [unicodedata.category(letter) for letter in text if letter != "ß"]
    upper, lower, title = kinds.count("Lu"), kinds.count("Ll"), kinds.count("Lt")
    return (upper, lower + title) if casing == "upper" else (lower, upper + title)
