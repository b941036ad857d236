"""What the evaluators share: sentences, words, and which of them only repeat the prompt."""

import re
import unicodedata
from typing import NamedTuple

from saif_core.characters import encodable_text
from saif_core.errors import EvaluatorError
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

# A sentence ends at a line break, at Chinese or Japanese closing marks, or at a closing mark
# before a space, so that "3.5" and "e.g." inside a word stay whole.
_SENTENCE_END = re.compile(
    r"[\r\n\u2028\u2029]+|(?<=[。！？])"
    r"|(?<=[.!?…؟][\"'”’»)\]])\s+|(?<=[.!?…؟])\s+"
)
_LOGOGRAM = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3040-\u30ff\U00020000-\U0003134f"
_WORD = re.compile(rf"[{_LOGOGRAM}]|(?:(?![{_LOGOGRAM}_])\w)+(?:['’\-](?:(?![{_LOGOGRAM}_])\w)+)*")
_STOP_WORDS = frozenset(
    "about after again also been before being both could does doing down during each from further "
    "have having here hers into itself just like more most much myself only other ours over same "
    "shall should some such than that their theirs them then there these they this those through "
    "under until very were what when where which while whom will with would your yours".split()
)
_CLAUSE_END = tuple(".,;:!?…。，、；：！？—–)")
_STEM_LETTERS = 5
_MIN_ECHO_WORDS = 3
MIN_CONTENT_WORDS = 4


class Shortening(NamedTuple):
    """A text that is shorter than its content; ``share`` is of the content's words."""

    content: str
    text: str
    share: float


def clean(text: str) -> str:
    """The text in composed form, without what cannot be encoded, stripped."""
    return unicodedata.normalize("NFC", encodable_text(text)).strip()


def is_blank(text: str) -> bool:
    """Whether a text has nothing to see: only spaces, control and format characters."""
    return all(unicodedata.category(character)[0] in "CZ" for character in text)


def split_sentences(text: str) -> list[str]:
    """Sentences and lines of a cleaned text, none blank."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def words(text: str) -> list[str]:
    """Words of a text; a Chinese character or a Japanese sign counts as a word."""
    return _WORD.findall(text)


def content_of(pair: PromptPair) -> str:
    """What the instruction is about: the content, or the prompt without the instruction."""
    return clean(pair.content) or clean(pair.negative)


def instruction_of(pair: PromptPair) -> str:
    """The prompt without its content: the instruction, wherever it stands."""
    positive, content = clean(pair.positive), content_of(pair)
    for rest in (positive.removeprefix(content), positive.removesuffix(content)):
        if rest != positive:
            return rest.strip()
    return clean(pair.instruction)


def own_sentences(pair: PromptPair, text: str) -> list[str]:
    """Sentences of the text that do not repeat a part of the prompt word for word.

    Letter case counts, so that a prompt put into capitals is no repetition; punctuation does
    not. A repetition may break off inside a word, as a text at its token limit does. Up to two
    words are a repetition only of a whole sentence.
    """
    prompts = [clean(pair.positive), clean(pair.negative)]
    whole = {_bare(sentence) for prompt in prompts for sentence in split_sentences(prompt)}
    running = [f" {_bare(prompt)}" for prompt in prompts]

    def repeats(sentence: str) -> bool:
        bare = _bare(sentence)
        if not bare:
            return False
        if len(bare.split()) < _MIN_ECHO_WORDS:
            return bare in whole
        return any(f" {bare}" in prompt for prompt in running)

    return [sentence for sentence in split_sentences(text) if not repeats(sentence)]


def only_repeats(pair: PromptPair, text: str) -> bool:
    """Whether a text that is not empty holds nothing but parts of the prompt."""
    return bool(text) and not own_sentences(pair, text)


def shared_content_words(content: str, text: str) -> int:
    """How many distinct content words of ``content`` are in ``text``, in any ending."""
    return len(_stems(content) & _stems(text))


def count_content_words(text: str) -> int:
    """How many distinct content words a text has."""
    return len(_stems(text))


def check_max_share(evaluator: str, max_share: float) -> None:
    """Refuse a share of words that is not above 0 and below 1.

    Raises:
        EvaluatorError: the share is out of range.
    """
    if not 0 < max_share < 1:
        raise EvaluatorError(
            f"max_share of the evaluator {evaluator!r} is {max_share:g}; give a share above 0 and "
            "below 1."
        )


def compare_length(pair: PromptPair, generation: str) -> Shortening | Judgement:
    """The text as a shorter version of its content, or the judgement where it is none.

    Sentences that repeat the instruction are left out; those of the content are not, because a
    summary may take them over.
    """
    content, instruction = content_of(pair), PromptPair(instruction_of(pair), "")
    text = " ".join(own_sentences(instruction, clean(generation)))
    n_content, n_text = len(words(content)), len(words(text))
    if not n_text:
        return Judgement("none", "The text has no words of its own.")
    if n_content < MIN_CONTENT_WORDS:
        return Judgement(None, "The content is too short to be made shorter.")
    if n_text >= n_content:
        return Judgement("none", f"The text has {n_text} words, the content {n_content}.")
    if _is_broken_off(text, content):
        return Judgement("none", "The text is the start of the content, broken off.")
    return Shortening(content, text, n_text / n_content)


def _is_broken_off(text: str, content: str) -> bool:
    start = text.rstrip(" .…")
    whole = " ".join(content.split())
    if not whole.startswith(start):
        return False
    rest = whole[len(start) :].lstrip()
    return not (rest.startswith(_CLAUSE_END) or start.endswith(_CLAUSE_END))


def _bare(text: str) -> str:
    return " ".join(words(text))


def _stems(text: str) -> set[str]:
    found = (word.casefold() for word in words(text))
    return {
        word[:_STEM_LETTERS]
        for word in found
        if word not in _STOP_WORDS and (len(word) > 3 or not word.isascii())
    }
