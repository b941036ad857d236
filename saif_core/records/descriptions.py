"""A latent described in words, what that was based on, and how it was tested."""

from dataclasses import dataclass
from typing import Any

from saif_core.records.as_json import Record


@dataclass(frozen=True)
class ActivatingExample(Record):
    """A text on which the latent fires; ``activations`` has one value per token."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True)
class Evidence(Record):
    """What is known of a latent before anybody describes it; strongest first, all optional.

    Attributes:
        promoted, suppressed: tokens that its decoder direction does most for and against
            (VocabProj).
        raised, lowered: tokens whose logits change most when it is set (TokenChange).
        examples: texts with its largest activations (MaxAct).
    """

    promoted: tuple[str, ...] = ()
    suppressed: tuple[str, ...] = ()
    raised: tuple[str, ...] = ()
    lowered: tuple[str, ...] = ()
    examples: tuple[ActivatingExample, ...] = ()


@dataclass(frozen=True)
class Description(Record):
    """A description, and what it was made from.

    Attributes:
        prompt: all that the model was told.
        model: name of the model that wrote it.
        evidence: as JSON data.
    """

    text: str
    prompt: str
    model: str
    evidence: dict[str, Any]


@dataclass(frozen=True)
class InputScore(Record):
    """Whether the latent fires on what its description says.

    Attributes:
        success: the mean of the largest activations is higher on activating sentences than on
            neutral ones; None if the model wrote no sentences that could be read.
        auc: chance that an activating sentence is above a neutral one, ties half; 0.5 is chance.
        activating, neutral: sentences with the latent's largest activation on each.
    """

    success: bool | None
    auc: float | None
    activating: tuple[tuple[str, float], ...]
    neutral: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class OutputScore(Record):
    """How often a judge finds the steered texts by the description; by chance in 1/3 of trials.

    Attributes:
        n_success: trials in which the judge picked the steered texts.
        n_judged: trials in which it picked any.
        n_unjudged: trials in which it could not judge.
    """

    n_success: int
    n_judged: int
    n_unjudged: int

    @property
    def rate(self) -> float | None:
        """Share of judged trials that succeeded; None without any."""
        return self.n_success / self.n_judged if self.n_judged else None
