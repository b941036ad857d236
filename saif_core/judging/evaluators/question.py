"""Evaluator ``question``: is the content rewritten as a question?

strict: every sentence of the text ends with a question mark, and one of them has three or more
words.
loose: at least one sentence of three or more words ends with a question mark, among others.
none: anything else. Sentences that repeat the prompt word for word do not count, so a prompt that
is a question is not judged as an answer.
"""

from saif_core.judging.words import clean, only_repeats, own_sentences, split_sentences, words
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_MARKS = ("?", "？", "؟", "⁇", "⁈", "‽")
_CLOSING = " \"'”’»)]*_"
_MIN_WORDS = 3


def question(pair: PromptPair, generation: str) -> Judgement:
    """Whether the text is a question.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
    """
    text = clean(generation)
    if not text:
        return Judgement("none", "The text is empty.")
    if only_repeats(pair, text):
        return Judgement("none", "The text only repeats the prompt.")
    asked = [sentence for sentence in own_sentences(pair, text) if _is_question(sentence)]
    if not any(len(words(sentence)) >= _MIN_WORDS for sentence in asked):
        return Judgement("none", "No sentence of three words or more ends with a question mark.")
    if len(asked) == len(split_sentences(text)):
        return Judgement("strict", "Every sentence ends with a question mark.")
    return Judgement("loose", "Some sentences end with a question mark, others do not.")


def _is_question(sentence: str) -> bool:
    return sentence.rstrip(_CLOSING).endswith(_MARKS)
