"""Plain records that pass between the layers: no tensors, no SQL, standard library only.

Ids are uuid strings made with the record. Every record turns into JSON and back with ``to_json``
and ``from_json``; no NaN or infinity is ever stored.
"""

from dataclasses import dataclass
from typing import Literal

from saif_core.records.steering import SteeringRecipe

Grade = Literal["strict", "loose", "none"]


@dataclass(frozen=True)
class TokenEvent:
    """One new token of one arm; ``text`` is that arm's whole text so far."""

    prompt_index: int
    arm: str
    text: str
    n_tokens: int
    sample: int = 0


@dataclass(frozen=True)
class TokenDivergence:
    """What an arm did to one token of its text.

    Attributes:
        log_prob: natural logarithm of its probability under the unsteered model, which sees the
            prompt without instruction.
        change: the arm's own log-probability minus that.
        kl: of the arm's next-token distribution from the unsteered one, in nats.
        strength: what the arm steered with as it wrote the token; 0 where it did not.
    """

    token: str
    log_prob: float
    change: float
    kl: float
    strength: float


@dataclass(frozen=True)
class Generation:
    """One finished text."""

    prompt_index: int
    prompt: str
    arm: str
    text: str
    token_ids: tuple[int, ...]
    stopped: Literal["end", "length"]
    perplexity: float | None = None  # of the text under the unsteered model
    sample: int = 0
    changes: tuple[TokenDivergence, ...] = ()


@dataclass(frozen=True)
class GenerationResult:
    """All arms of a request, with the size of what was added to the residual stream.

    Attributes:
        vector_norm: Euclidean norm of strength x steering vector.
        resid_share: vector_norm over the median residual norm at the steered positions.
    """

    recipe: SteeringRecipe
    generations: tuple[Generation, ...]
    vector_norm: float
    resid_share: float
    seconds: float


@dataclass(frozen=True)
class Judgement:
    """Whether a text follows the instruction; ``grade`` None means it could not be judged."""

    grade: Grade | None
    reason: str
