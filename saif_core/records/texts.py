"""Plain records that pass between the layers: no tensors, no SQL, standard library only.

Ids are uuid strings made with the record. Every record turns into JSON and back with ``to_json``
and ``from_json``; no NaN or infinity is ever stored.
"""

from dataclasses import dataclass
from typing import Literal

from saif_core.records.as_json import Record
from saif_core.records.steering import GenerationRequest, SteeringRecipe

Grade = Literal["strict", "loose", "none"]


@dataclass(frozen=True)
class TokenEvent(Record):
    """One new token of one arm; ``text`` is that arm's whole text so far."""

    prompt_index: int
    arm: str
    text: str
    n_tokens: int
    sample: int = 0


@dataclass(frozen=True)
class TokenDivergence(Record):
    """What an arm did to one token of its text.

    Attributes:
        log_prob: natural logarithm of its probability under the unsteered model, which sees the
            prompt without instruction.
        change: the arm's own log-probability minus that.
        kl: of the arm's next-token distribution from the unsteered one, in nats.
        strength: what the arm steered with as it wrote the token; 0 where it did not.
        gates: how far each gate of the arm was open then, those of its edits one after the other;
            nothing for an arm without gates.
    """

    token: str
    log_prob: float
    change: float
    kl: float
    strength: float
    gates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Generation(Record):
    """One finished text."""

    prompt_index: int
    prompt: str
    arm: str
    text: str
    token_ids: tuple[int, ...]
    stopped: Literal["end", "length", "stop"]
    perplexity: float | None = None  # of the text under the unsteered model
    sample: int = 0
    changes: tuple[TokenDivergence, ...] = ()


@dataclass(frozen=True)
class ArmSize(Record):
    """How large what an arm adds is, at the end of a neutral prompt; mean over its layers.

    Attributes:
        norm: Euclidean norm of strength × what is added.
        resid_share: that over the norm of the residual stream there.
    """

    norm: float
    resid_share: float


@dataclass(frozen=True)
class GenerationResult(Record):
    """The texts of a request.

    Attributes:
        sizes: for every arm, in order, how large what it adds is; None where it adds nothing to
            the residual stream.
    """

    recipe: SteeringRecipe
    generations: tuple[Generation, ...]
    seconds: float
    sizes: tuple[ArmSize | None, ...] = ()

    @property
    def request(self) -> GenerationRequest:
        """What was asked for."""
        return self.recipe.request


@dataclass(frozen=True)
class Judgement(Record):
    """Whether a text follows the instruction; ``grade`` None means it could not be judged."""

    grade: Grade | None
    reason: str
