"""Evaluator ``commas``: is the content rewritten without commas?

strict: no comma anywhere in the text.
loose: commas, but at most half as many per word as in the content.
none: anything else. A text that repeats a part of the prompt with a comma in it is none, and so is
one with fewer than three words of its own, or with no content word of the content: short or
unrelated texts have no commas by chance. A text that only repeats a content without commas cannot
be judged.

Commas of Chinese, Japanese and Arabic count, and so do commas inside numbers.
"""

from saif_core.judging.words import (
    clean,
    content_of,
    count_content_words,
    only_repeats,
    own_sentences,
    shared_content_words,
    words,
)
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_COMMAS = frozenset(",،⸲，、﹐﹑､︐︑")
_MIN_WORDS = 3


def commas(pair: PromptPair, generation: str) -> Judgement:
    """Whether the text does without commas.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
    """
    text, content = clean(generation), content_of(pair)
    if not text:
        return Judgement("none", "The text is empty.")
    own = " ".join(own_sentences(pair, text))
    if only_repeats(pair, text):
        if content and not _count(content) and not _count(text) and _covers(text, content):
            return Judgement(None, "The content has no comma that could be left out.")
        return Judgement("none", "The text only repeats the prompt.")
    if len(words(own)) < _MIN_WORDS:
        return Judgement("none", "The text has fewer than three words of its own.")
    if not _covers(text, content):
        return Judgement("none", "The text has no content word of the content.")
    if not _count(text):
        return Judgement("strict", "The text has no comma.")
    if _count(text) > _count(own):
        return Judgement("none", "The text repeats the prompt and has commas.")
    if _rate(own) <= _rate(content) / 2:
        return Judgement("loose", "The text has commas, but at most half as many as the content.")
    return Judgement("none", f"The text has {_count(text)} comma(s).")


def _covers(text: str, content: str) -> bool:
    return shared_content_words(content, text) > 0 or not count_content_words(content)


def _count(text: str) -> int:
    return sum(letter in _COMMAS for letter in text)


def _rate(text: str) -> float:
    return _count(text) / max(1, len(words(text)))
