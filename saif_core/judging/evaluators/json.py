"""Evaluator ``json``: is the text a JSON object?

strict: the whole text is one JSON object with at least one key, bare or in one code fence.
loose: the whole text is a JSON array, or it holds an object or an array of objects beside other
text, or it has an object that starts with a key and its value and is then cut off or broken.
none: anything else. JSON that stands in the prompt in the same letters does not count.
"""

import re
from collections.abc import Iterator
from json import JSONDecoder
from typing import Any

from saif_core.judging.words import clean
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_STARTED = re.compile(r'\{\s*"(?:[^"\\\n]|\\.){1,200}"\s*:\s*(?:"[^"\n]|[-\d\[{]|true|false|null)')
_START = re.compile(r"[{\[]")
_MAX_LETTERS = 50_000
_MAX_STARTS = 200
_DECODER = JSONDecoder()


def json(pair: PromptPair, generation: str) -> Judgement:
    """Whether the text is a JSON object.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
    """
    text = clean(generation)[:_MAX_LETTERS]
    if not text:
        return Judgement("none", "The text is empty.")
    prompt = clean(pair.positive) + "\n" + clean(pair.negative)
    bare = _inside_fence(text)
    value = _decode(bare)
    if _is_object(value) and bare not in prompt:
        return Judgement("strict", "The whole text is a JSON object.")
    if isinstance(value, list) and value and bare not in prompt:
        return Judgement("loose", "The text is a JSON array, not an object.")
    if any(found not in prompt for found in _find_json(text)):
        return Judgement("loose", "The text holds JSON, but is not one JSON object as a whole.")
    if any(match.group() not in prompt for match in _STARTED.finditer(text)):
        return Judgement("loose", "The text has the start of a JSON object that is not whole.")
    return Judgement("none", "The text holds no JSON object that is not in the prompt.")


def _inside_fence(text: str) -> str:
    """What stands in a code fence that holds the whole text; else the text."""
    if len(text) < 6 or not (text.startswith("```") and text.endswith("```")):
        return text
    inside = text[3:-3]
    for name in ("json", "JSON"):
        inside = inside.removeprefix(name)
    return inside.strip()


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _decode(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _find_json(text: str) -> Iterator[str]:
    position = 0
    for _ in range(_MAX_STARTS):
        start = _START.search(text, position)
        if start is None:
            return
        position = start.start() + 1
        try:
            value, end = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        if _is_object(value) or (isinstance(value, list) and any(map(_is_object, value))):
            yield text[start.start() : end]
            position = end
