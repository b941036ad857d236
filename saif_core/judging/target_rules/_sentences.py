"""The sentences of an answer that come to an end: it may break off at its limit."""

from saif_core.judging.words import split_sentences

_ENDS = ".!?…。！？\"'”’»)"


def whole_sentences(answer: str) -> list[str]:
    """Sentences of an answer, without one that is broken off."""
    return [sentence for sentence in split_sentences(answer.strip()) if sentence[-1] in _ENDS]
