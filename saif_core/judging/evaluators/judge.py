"""Evaluator ``judge``: does a language model say that the text follows the instruction?

strict: the model says that the whole text does what was asked, and nothing else.
loose: it says that the text does so in part, or shows the behaviour among other things.
none: it says that the text does not, or there is no text.
Not judged: no endpoint is set or it fails, its answer names no grade or more than one, or there is
neither an instruction nor a question to judge by.

The model sees the content, the instruction (or the ``question`` in its place) and the text as
marked data. It is asked greedily, but nothing makes its grades right or the same for ever.
"""

from saif_core.errors import SaifError
from saif_core.judging.judge_endpoint import (
    DATA_RULE,
    MAX_ANSWER_TOKENS,
    judge_endpoint,
    mark_data,
    read_choice,
)
from saif_core.judging.words import clean, content_of, instruction_of, is_blank
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Grade, Judgement

_GRADES: dict[str, Grade] = {"strict": "strict", "loose": "loose", "none": "none"}
_TASK = (
    "You judge whether a text meets a demand. The demand was made about a content, and the text is "
    f"what was written in answer. {DATA_RULE}\n\n"
    "There are three grades.\n"
    "strict: the whole text does what the demand says, and it holds nothing beside that.\n"
    "loose: the text meets the demand in part, or shows what was demanded among other things.\n"
    "none: the text does not meet it; a text that only repeats the demand does not.\n\n"
    "Write one short sentence with your reason. Then write the grade, one of the words strict, "
    "loose and none, alone on the last line."
)
_SHOWN_REASON = 200


def judge(pair: PromptPair, generation: str, *, question: str = "") -> Judgement:
    """Whether a language model says that the text follows the instruction.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
        question: what to judge the text by instead of the instruction, such as "Is it polite?".
    """
    text = clean(generation)
    if is_blank(text):
        return Judgement("none", "The text is empty.")
    demand = clean(question) or instruction_of(pair)
    if not demand:
        return Judgement(None, "There is neither an instruction nor a question to judge by.")
    parts = (("content", content_of(pair)), ("demand", demand), ("text", text))
    try:
        endpoint = judge_endpoint()
        answer = endpoint.complete(
            [
                {"role": "system", "content": _TASK},
                {"role": "user", "content": "\n\n".join(mark_data(*part) for part in parts)},
            ],
            max_tokens=MAX_ANSWER_TOKENS,
        )
    except SaifError as error:
        return Judgement(None, str(error))
    grade = read_choice(answer, "grade", tuple(_GRADES))
    if grade is None:
        return Judgement(
            None, f"Model {endpoint.model!r} answered with something else than one of the grades."
        )
    return Judgement(_GRADES[grade], f"Model {endpoint.model!r} judged: {_reason(answer)}.")


def _reason(answer: str) -> str:
    """The longest line of the answer, which is its reason, cut to one short line."""
    line = max(answer.splitlines(), key=len).strip().rstrip(".")
    return line if len(line) <= _SHOWN_REASON else line[: _SHOWN_REASON - 1] + "…"
