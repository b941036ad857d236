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

from saif_core.judging.words import (
    MIN_CONTENT_WORDS,
    check_max_share,
    compare_length,
    count_content_words,
    shared_content_words,
)
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement


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
    check_max_share("length", max_share)
    shorter = compare_length(pair, generation)
    if isinstance(shorter, Judgement):
        return shorter
    kept, needed = shared_content_words(shorter.content, shorter.text), 1
    if count_content_words(shorter.content) >= MIN_CONTENT_WORDS:
        needed = 2
    if not kept:
        return Judgement("none", "The text has no content word of the content.")
    size = f"The text has {shorter.share:.0%} of the content's words"
    if shorter.share <= max_share and kept >= needed:
        return Judgement("strict", f"{size} and keeps its subject.")
    if shorter.share <= max_share:
        return Judgement("loose", f"{size} but keeps little of its subject.")
    return Judgement("loose", f"{size}; {max_share:.0%} was asked for.")
