"""Evaluator ``keyword``: does the text use a given word?

strict: the keyword stands as a word of its own, in any letter case, in a sentence with at least
three other distinct words.
loose: it stands alone or nearly so, or only as the start of a longer word ("rivers" for "river").
none: anything else. Sentences that repeat the prompt word for word do not count, so repeating the
instruction, or a content that has the keyword already, is none.
"""

from saif_core.errors import EvaluatorError
from saif_core.judging.words import clean, only_repeats, own_sentences, words
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

_MIN_OTHER_WORDS = 3


def keyword(pair: PromptPair, generation: str, *, keyword: str) -> Judgement:
    """Whether the text uses the keyword.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
        keyword: the word or words that the text has to contain, in any letter case.

    Raises:
        EvaluatorError: the keyword has no letter or digit.
    """
    wanted = _words(keyword)
    if not wanted:
        raise EvaluatorError(
            f"The keyword to look for has to be a word, but is {keyword[:40]!r}; give at least "
            "one letter or digit."
        )
    text = clean(generation)
    if not text:
        return Judgement("none", "The text is empty.")
    if only_repeats(pair, text):
        return Judgement("none", "The text only repeats the prompt.")
    sentences = [_words(sentence) for sentence in own_sentences(pair, text)]
    with_keyword = [sentence for sentence in sentences if _contains(sentence, wanted)]
    if any(len(set(sentence) - set(wanted)) >= _MIN_OTHER_WORDS for sentence in with_keyword):
        return Judgement("strict", "A sentence of the text uses the keyword.")
    if with_keyword:
        return Judgement("loose", "The keyword is in the text, but not in a sentence.")
    start = " " + " ".join(wanted)
    if any(start in " " + " ".join(sentence) for sentence in sentences):
        return Judgement("loose", "The keyword is only the start of a longer word in the text.")
    return Judgement("none", "The keyword is not in what the text adds to the prompt.")


def _words(text: str) -> list[str]:
    return words(clean(text).casefold())


def _contains(sentence: list[str], wanted: list[str]) -> bool:
    size = len(wanted)
    return any(sentence[at : at + size] == wanted for at in range(len(sentence) - size + 1))
