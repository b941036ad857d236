"""Evaluator ``list``: is the text a bulleted list?

strict: at least two items with text, each on a line that starts with a bullet mark, and nothing
else but blank lines and lines indented under an item.
loose: at least one such item beside other text, or at least two numbered items.
none: anything else. Items that repeat items of the prompt word for word do not count.
"""

import re

from saif_core.judging.words import clean, words
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_BULLET = re.compile(r"\s*(?:[-*+–—]\s|[•‣◦▪▫●○■□·・⁃➢➤✓✔])(.*)")
_NUMBERED = re.compile(r"\s*(?:\(?\d{1,3}[.)]|\(?[a-zA-Z][.)])\s+(.*)")
_MIN_ITEMS = 2


def list(pair: PromptPair, generation: str) -> Judgement:
    """Whether the text is a list with bullets.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
    """
    text = clean(generation)
    if not text:
        return Judgement("none", "The text is empty.")
    given = {line.strip() for prompt in (pair.positive, pair.negative) for line in _lines(prompt)}
    lines = _lines(text)
    bullets = _own_items(lines, _BULLET, given)
    if len(bullets) >= _MIN_ITEMS and all(_belongs(line) for line in lines):
        return Judgement("strict", f"The text is a list of {len(bullets)} items.")
    if bullets:
        return Judgement("loose", "The text has an item with a bullet, but is no whole list.")
    if len(_own_items(lines, _NUMBERED, given)) >= _MIN_ITEMS:
        return Judgement("loose", "The text is a list with numbers, not with bullets.")
    return Judgement("none", "No line of the text is an item of a list.")


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line for line in clean(text).splitlines() if line.strip())


def _own_items(
    lines: tuple[str, ...], pattern: re.Pattern[str], given: set[str]
) -> tuple[str, ...]:
    matches = ((line, pattern.fullmatch(line)) for line in lines)
    return tuple(
        line
        for line, match in matches
        if match and words(match.group(1)) and line.strip() not in given
    )


def _belongs(line: str) -> bool:
    return _BULLET.fullmatch(line) is not None or line[:1].isspace()
