"""Turns of a chat as token ids, by the model's own template, on every day the same."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from saif_core.errors import PromptPairError

# What a template that asks for the date is told, or its prompts would be others every day: noon of
# Wednesday, 1 January 2025.
PINNED_DAY = {
    **{"%Y": "2025", "%y": "25", "%m": "01", "%-m": "1", "%B": "January", "%b": "Jan", "%h": "Jan"},
    **{"%d": "01", "%-d": "1", "%e": " 1", "%j": "001", "%-j": "1", "%A": "Wednesday", "%a": "Wed"},
    **{"%w": "3", "%u": "3", "%H": "12", "%-H": "12", "%I": "12", "%-I": "12", "%p": "PM"},
    **{"%M": "00", "%-M": "0", "%S": "00", "%-S": "0", "%f": "000000", "%z": "", "%Z": ""},
    **{"%F": "2025-01-01", "%D": "01/01/25", "%x": "01/01/25", "%X": "12:00:00", "%T": "12:00:00"},
    **{"%R": "12:00", "%c": "Wed Jan  1 12:00:00 2025", "%G": "2025", "%V": "01", "%%": "%"},
}
_ASKS_FOR_THE_DATE = "strftime_now"
# A template sees data and no functions of ours, so the pinned clock is a macro before it.
_CLOCK = (
    "{%- macro strftime_now(format) -%}"
    + "{%- set said = namespace(text=format) -%}"
    + "{%- for code, word in pinned_day.items() -%}"
    + "{%- set said.text = said.text.replace(code, word) -%}"
    + "{%- endfor -%}{{ said.text }}{%- endmacro %}\n"
)
# Templates run code of their own; what it can raise on turns that it was not made for.
_REFUSALS = (TemplateError, TypeError, ValueError, LookupError, ArithmeticError)


def encode_turns(
    tokenizer: Any, turns: Sequence[Mapping[str, str]], *, answers_next: bool = False
) -> list[int]:
    """Token ids of a chat.

    Where the template knows no system turn, its text stands before the first user turn.

    Args:
        turns: each with "role" and "content".
        answers_next: end where the model is to answer.

    Raises:
        PromptPairError: the template refuses the turns.
    """
    plain = [dict(turn) for turn in turns]
    if plain and plain[0]["role"] == "system" and _leaves_system_out(tokenizer):
        plain = _fold_system(plain)
    try:
        return _apply(tokenizer, plain, answers_next)
    except _REFUSALS as error:
        without_system = _fold_system(plain)
        if without_system == plain:
            raise _refused(plain, error) from error
    try:
        return _apply(tokenizer, without_system, answers_next)
    except _REFUSALS as error:
        raise _refused(plain, error) from error


def _leaves_system_out(tokenizer: Any) -> bool:
    """Whether the template takes a system turn and does not write what it says."""
    said = "You are asked."
    probe = [{"role": "system", "content": said}, {"role": "user", "content": "."}]
    try:
        return said not in tokenizer.apply_chat_template(probe, tokenize=False)
    except _REFUSALS:
        return False


def _apply(tokenizer: Any, turns: list[dict[str, str]], answers_next: bool) -> list[int]:
    options: dict[str, Any] = {}
    template = tokenizer.get_chat_template()
    if _ASKS_FOR_THE_DATE in template:
        options = {"chat_template": _CLOCK + template, "pinned_day": PINNED_DAY}
    # The template writes its own special tokens, so the tokenizer must add none.
    encoded = tokenizer.apply_chat_template(
        turns, add_generation_prompt=answers_next, tokenize=True, return_dict=True, **options
    )
    ids: list[int] = encoded["input_ids"]
    return ids


def _fold_system(turns: list[dict[str, str]]) -> list[dict[str, str]]:
    """The turns with what system turns at their beginning say before the first user turn."""
    n_system = next((at for at, turn in enumerate(turns) if turn["role"] != "system"), len(turns))
    said, rest = [turn["content"] for turn in turns[:n_system]], turns[n_system:]
    first = next((at for at, turn in enumerate(rest) if turn["role"] == "user"), None)
    if not said or first is None:
        return turns
    content = "\n\n".join([*said, rest[first]["content"]])
    return [*rest[:first], {**rest[first], "content": content}, *rest[first + 1 :]]


def _refused(turns: list[dict[str, str]], error: Exception) -> PromptPairError:
    roles = ", ".join(turn["role"] for turn in turns[:6]) + (", …" if len(turns) > 6 else "")
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    return PromptPairError(
        f"The model's chat template does not take turns of {roles or 'nobody'} ({reason}); let "
        "user and assistant take turns, beginning with the user."
    )
