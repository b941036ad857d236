"""What a ranking was asked for, and the latents that it found."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from saif_core.records.as_json import Record, new_id
from saif_core.records.prompts import Instruction, PromptPair

ReadPosition = Literal["last-token", "response"]
MAX_COEFFICIENT = 1e6
# A selective latent fires on at least so many of the positions with the instruction, and on at
# most so many without.
SELECTIVE_WITH, SELECTIVE_WITHOUT = 0.8, 0.05


@dataclass(frozen=True)
class RankingRequest(Record):
    """Everything that decides a ranking.

    Attributes:
        chat: put prompts through the model's chat template.
        read: position whose activations are compared.
        response_tokens: how many tokens of the model's own answer are read (read="response").
        top: how many latents the steering vector takes.
        judged_by: the instruction whole, for selectors and sources that judge answers.
    """

    sae_id: str
    instruction: str
    pairs: tuple[PromptPair, ...]
    chat: bool = True
    read: ReadPosition = "response"
    response_tokens: Annotated[int, Interval(ge=1, le=256)] = 24
    selector: str = "sensitivity"
    selector_parameters: dict[str, Any] = field(default_factory=dict)
    top: Annotated[int, Interval(ge=1, le=1000)] = 15
    judged_by: Instruction | None = None


@dataclass(frozen=True)
class LatentScore(Record):
    """One latent in a ranking.

    Attributes:
        score: the selector's score.
        mean, std: of its activation over the positive positions where it fires (μ, σ).
        rate_positive, rate_negative: share of positions where it fires with / without.
        mean_difference: mean activation with minus without, zeros included.
        top_tokens: tokens its decoder direction promotes most.
    """

    index: int
    score: float
    mean: float
    std: float
    rate_positive: float
    rate_negative: float
    mean_difference: float
    top_tokens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ranking(Record):
    """Latents ordered by score, best first, with what is needed to compute them again."""

    model: str
    model_sha256: str
    sae: str
    sae_sha256: str
    hook_point: str
    d_sae: int
    instruction: str
    read: ReadPosition
    selector: str
    selector_parameters: dict[str, Any]
    n_pairs: int
    top: int
    latents: tuple[LatentScore, ...]
    n_selective: int
    seconds: float
    tokens_total: int
    tokens_computed: int
    cached: bool
    id: str = field(default_factory=new_id)


@dataclass(frozen=True)
class ChosenLatent(Record):
    """A latent to steer with; ``coefficient`` is its activation at strength 1 (SAIF's α)."""

    index: Annotated[int, Ge(0)]
    coefficient: Annotated[float, Interval(ge=-MAX_COEFFICIENT, le=MAX_COEFFICIENT)]


@dataclass(frozen=True)
class WorkEstimate(Record):
    """What a ranking would cost before it runs."""

    n_pairs: int
    tokens_total: int
    tokens_to_compute: int
    cached: bool
