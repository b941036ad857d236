"""Evaluator ``ifeval``: does the text pass one of IFEval's checks?

strict: the check passes on the text as it is.
loose: it passes on the text without its first line, its last line or both, or on one of these
without asterisks, as IFEval loosens texts.
none: it passes on none of them, or the text is empty.
Not judged: the check needs data of NLTK that is not on this machine (``number_sentences`` and
``capital_word_frequency`` do); nothing is ever downloaded.

The check of a language takes a text without letters as followed, as IFEval does.

Source: IFEval (https://arxiv.org/abs/2311.07911), by its checks in the package if-verifiable.
IFEval draws an argument that is missing or impossible at random; here it is an error.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from saif_core.errors import EvaluatorError
from saif_core.judging.words import clean, is_blank
from saif_core.parameters import describe_value
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_MAX_LETTERS = 50_000
# These checks put their arguments into regular expressions, which could run for ever.
_SEARCHING = ("keywords:", "detectable_content:postscript", "detectable_format:multiple_sections")
_NOT_LITERAL = re.compile(r"[\\^$*+?{}\[\]|()]")
_TEXT_LISTS = ("keywords", "forbidden_words")
_NUMBER = re.compile(r"num_.+|nth_paragraph|(?:\w+_)?frequency")


def ifeval(
    pair: PromptPair,  # noqa: ARG001, the checks see the text alone
    generation: str,
    *,
    instruction_id: str,
    arguments: str = "{}",
) -> Judgement:
    """Whether the text passes a check of IFEval.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
        instruction_id: IFEval's name of the check, such as "change_case:english_capital".
        arguments: its arguments as a JSON object, as IFEval's kwargs, such as
            {"num_words": 50, "relation": "less than"}.

    Raises:
        EvaluatorError: there is no such check, or the arguments do not fit it.
    """
    check = _build_check(instruction_id, arguments)
    text = clean(generation)[:_MAX_LETTERS]
    if is_blank(text):
        return Judgement("none", "The text is empty.")
    from if_verifiable.common import get_loose_transformations  # type: ignore[import-untyped]

    try:
        if check.check_following(text):
            return Judgement("strict", f"The text passes the check {instruction_id!r}.")
        loosened = filter(str.strip, get_loose_transformations(text))
        if any(map(check.check_following, loosened)):
            return Judgement(
                "loose",
                f"The text passes the check {instruction_id!r} without its first or last line or "
                "its asterisks.",
            )
    except LookupError:
        return Judgement(
            None,
            f"The check {instruction_id!r} needs NLTK's data, which is not on this machine; "
            "install its package punkt_tab, or choose another check.",
        )
    return Judgement("none", f"The text does not pass the check {instruction_id!r}.")


@lru_cache(maxsize=256)
def _build_check(instruction_id: str, arguments: str) -> Any:
    # Imported at the first use: the package takes a second.
    import langdetect  # type: ignore[import-untyped]
    from if_verifiable.ifeval import INSTRUCTION_DICT  # type: ignore[import-untyped]

    # Without a seed a text's language may change from one look to the next.
    langdetect.DetectorFactory.seed = 0
    if instruction_id not in INSTRUCTION_DICT:
        raise EvaluatorError(
            f"The evaluator 'ifeval' has no check {describe_value(instruction_id)}; some of its "
            f"{len(INSTRUCTION_DICT)} are change_case:english_capital, keywords:existence, "
            "length_constraints:number_words and punctuation:no_comma."
        )
    check = INSTRUCTION_DICT[instruction_id](instruction_id)
    given = _read_arguments(instruction_id, arguments, check.get_instruction_args_keys())
    try:
        check.build_description(**given)
    except (KeyError, ValueError) as error:
        raise _argument_error(instruction_id, "hold a word that it does not know") from error
    used = check.get_instruction_args() or {}
    for name, value in given.items():
        if _comparable(used[name]) != _comparable(value):
            raise _argument_error(instruction_id, f"have a value of {name!r} that it cannot use")
    return check


def _read_arguments(instruction_id: str, arguments: str, names: list[str]) -> dict[str, Any]:
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise _argument_error(instruction_id, "are no JSON") from error
    if not isinstance(given, Mapping):
        raise _argument_error(instruction_id, "are no JSON object")
    # IFEval's own file names the arguments of every check and sets those of others to null.
    given = {name: value for name, value in given.items() if value is not None}
    if set(given) != set(names):
        wanted = ", ".join(names) or "none"
        raise _argument_error(instruction_id, f"have other names than it takes ({wanted})")
    for name, value in given.items():
        if not _fits(name, value):
            raise _argument_error(instruction_id, f"have a value of {name!r} that it cannot use")
        marked = any(_NOT_LITERAL.search(str(item)) for item in _texts(value))
        if marked and instruction_id.startswith(_SEARCHING):
            raise _argument_error(instruction_id, f"have marks in {name!r} that are no plain text")
    # IFEval's draw in place of such a paragraph may give the same number again.
    if given.get("nth_paragraph", 0) > given.get("num_paragraphs", math.inf):
        raise _argument_error(instruction_id, "have a value of 'nth_paragraph' past the last one")
    return given


def _fits(name: str, value: Any) -> bool:
    if _NUMBER.fullmatch(name):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if name in _TEXT_LISTS and not isinstance(value, list):
        return False
    return bool(value) and all(isinstance(v, str) and v.strip() for v in _texts(value))


def _texts(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _comparable(value: Any) -> list[str]:
    return sorted({str(item).strip().lower() for item in _texts(value)})


def _argument_error(instruction_id: str, problem: str) -> EvaluatorError:
    return EvaluatorError(
        f"The arguments of the evaluator 'ifeval' for the check {instruction_id!r} {problem}; give "
        "a JSON object as in IFEval's kwargs."
    )
