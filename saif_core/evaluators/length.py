"""Evaluator ``length``: is the text a shorter version of the content?

strict: at most ``max_share`` of the content's words, and at least two of its content words (one
if it has fewer than four).
loose: shorter than the content, with at least one of its content words.
none: anything else: as long or longer, no content word kept, or the start of the content broken
off in the middle of a clause. A content of fewer than four words cannot be judged.

Words are counted without regard to language; a Chinese character counts as a word. Content words
are words of four letters or more outside a list of common English words, compared by their first
five letters. Sentences that repeat the instruction are left out first; those of the content are
not, because a summary may take them over.
"""

from saif_core.errors import EvaluatorError
from saif_core.evaluators._text import (
    clean,
    content_of,
    count_content_words,
    instruction_of,
    own_sentences,
    shared_content_words,
    words,
)
from saif_core.records import Judgement, PromptPair

_MIN_CONTENT_WORDS = 4
_CLAUSE_END = tuple(".,;:!?…。，、；：！？—–)")


def length(pair: PromptPair, generation: str, *, max_share: float = 0.6) -> Judgement:
    """Whether the text is a shorter version of the content.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
        max_share: most words that the text may have, as a share of the content's words; above 0
            and below 1.

    Raises:
        EvaluatorError: the share is not between 0 and 1.
    """
    if not 0 < max_share < 1:
        raise EvaluatorError(
            f"max_share of the evaluator 'length' is {max_share:g}; give a share above 0 and "
            "below 1."
        )
    content, instruction = content_of(pair), PromptPair(instruction_of(pair), "")
    text = " ".join(own_sentences(instruction, clean(generation)))
    n_content, n_text = len(words(content)), len(words(text))
    if not n_text:
        return Judgement("none", "The text has no words of its own.")
    if n_content < _MIN_CONTENT_WORDS:
        return Judgement(None, "The content is too short to be made shorter.")
    if n_text >= n_content:
        return Judgement("none", f"The text has {n_text} words, the content {n_content}.")
    if _is_broken_off(text, content):
        return Judgement("none", "The text is the start of the content, broken off.")
    return _judge_kept(text, content, max_share)


def _judge_kept(text: str, content: str, max_share: float) -> Judgement:
    share = len(words(text)) / len(words(content))
    kept, needed = shared_content_words(content, text), 1
    if count_content_words(content) >= _MIN_CONTENT_WORDS:
        needed = 2
    if not kept:
        return Judgement("none", "The text has no content word of the content.")
    size = f"The text has {share:.0%} of the content's words"
    if share <= max_share and kept >= needed:
        return Judgement("strict", f"{size} and keeps its subject.")
    if share <= max_share:
        return Judgement("loose", f"{size} but keeps little of its subject.")
    return Judgement("loose", f"{size}; {max_share:.0%} was asked for.")


def _is_broken_off(text: str, content: str) -> bool:
    start = text.rstrip(" .…")
    whole = " ".join(content.split())
    if not whole.startswith(start):
        return False
    rest = whole[len(start) :].lstrip()
    return not (rest.startswith(_CLAUSE_END) or start.endswith(_CLAUSE_END))
