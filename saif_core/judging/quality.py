"""Quality of a steered text in three ratings from 0 to 2 by a language model.

A text can show a concept and be useless: it may ignore what was asked, or fall apart. So concept,
instruction and fluency are rated apart, and one that is 0 makes the whole 0.

Source: AxBench (https://arxiv.org/abs/2501.17148), its three judge scores and their harmonic mean;
the prompts are ours.
"""

from dataclasses import dataclass
from statistics import harmonic_mean
from typing import TYPE_CHECKING

from saif_core.judging.judge_endpoint import DATA_RULE, MAX_ANSWER_TOKENS, mark_data, read_choice

if TYPE_CHECKING:
    from saif_core.models.language_endpoint import LanguageEndpoint

_CONCEPT = (
    "You rate how far a text shows a concept, whatever else it is worth.\n"
    "0: the concept is not there.\n"
    "1: the concept is there, but little, in passing or awkwardly.\n"
    "2: the concept is clearly there and part of what the text says."
)
_INSTRUCT = (
    "You rate how far a text deals with the prompt that it answers, whatever its style.\n"
    "0: it has nothing to do with the prompt.\n"
    "1: it has to do with the prompt but meets it in part only.\n"
    "2: it does what the prompt asks for."
)
_FLUENCY = (
    "You rate how well a text reads, whatever it is about.\n"
    "0: it cannot be read: broken, garbled or repeating itself.\n"
    "1: it can be read but is unnatural, repetitive or has mistakes.\n"
    "2: it reads like the text of a fluent writer; being cut at its end is no mistake."
)
_ANSWER = (
    "Write one short sentence with your reason. Then write the rating, one of the digits 0, 1 and "
    "2, alone on the last line."
)


@dataclass(frozen=True)
class Ratings:
    """Three ratings of a text from 0 to 2; None where the answer was none."""

    concept: int | None
    instruct: int | None
    fluency: int | None

    @property
    def overall(self) -> float | None:
        """Their harmonic mean: 0 when any is 0, None when any is missing."""
        found = [r for r in (self.concept, self.instruct, self.fluency) if r is not None]
        return float(harmonic_mean(found)) if len(found) == 3 else None


def rate_text(endpoint: "LanguageEndpoint", *, concept: str, prompt: str, text: str) -> Ratings:
    """How well a text shows a concept, answers its prompt and reads.

    Args:
        endpoint: asked once for each of the three.
        concept: what the text was steered towards, in words.
        prompt: what the text answers.
        text: the text to rate.

    Raises:
        SaifError: the endpoint cannot be reached, refuses or answers no text.
    """
    shown = ("text", text)
    return Ratings(
        concept=_rate(endpoint, _CONCEPT, ("concept", concept), shown),
        instruct=_rate(endpoint, _INSTRUCT, ("prompt", prompt), shown),
        fluency=_rate(endpoint, _FLUENCY, shown),
    )


def _rate(endpoint: "LanguageEndpoint", scale: str, *parts: tuple[str, str]) -> int | None:
    answer = endpoint.complete(
        [
            {"role": "system", "content": f"{scale}\n\n{DATA_RULE}\n\n{_ANSWER}"},
            {"role": "user", "content": "\n\n".join(mark_data(*part) for part in parts)},
        ],
        max_tokens=MAX_ANSWER_TOKENS,
    )
    rating = read_choice(answer, "rating", ("0", "1", "2"))
    return None if rating is None else int(rating)
