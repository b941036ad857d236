"""What a ranking was asked for, and the latents that it found."""

from dataclasses import dataclass, field
from typing import Any, Literal

from saif_core.records.as_json import new_id
from saif_core.records.prompts import PromptPair

ReadPosition = Literal["last-token", "response"]


@dataclass(frozen=True)
class RankingRequest:
    """Everything that decides a ranking.

    Attributes:
        chat: put prompts through the model's chat template.
        read: position whose activations are compared.
        response_tokens: how many tokens of the model's own answer are read (read="response").
        top: how many latents the steering vector takes.
    """

    sae_id: str
    instruction: str
    pairs: tuple[PromptPair, ...]
    chat: bool = True
    read: ReadPosition = "response"
    response_tokens: int = 24
    selector: str = "sensitivity"
    selector_parameters: dict[str, Any] = field(default_factory=dict)
    top: int = 15


@dataclass(frozen=True)
class LatentScore:
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
class Ranking:
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
    n_selective: int  # fire on >= 80% of positives and <= 5% of negatives
    seconds: float
    tokens_total: int
    tokens_computed: int
    cached: bool
    id: str = field(default_factory=new_id)


@dataclass(frozen=True)
class ChosenLatent:
    """A latent to steer with; ``coefficient`` is its activation at strength 1 (SAIF's α)."""

    index: int
    coefficient: float


@dataclass(frozen=True)
class LatentDetail:
    """What one latent's weights say: logit lens, neighbours."""

    sae: str
    hook_point: str
    index: int
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    neighbours: tuple[tuple[int, float], ...]
    decoder_norm: float
    encoder_bias: float


@dataclass(frozen=True)
class PairActivations:
    """Activation of one latent on every pair, with and without the instruction.

    For read="response" a value is the mean over the response tokens.
    """

    index: int
    positive: tuple[float, ...]
    negative: tuple[float, ...]


@dataclass(frozen=True)
class WorkEstimate:
    """What a ranking would cost before it runs."""

    n_pairs: int
    tokens_total: int
    tokens_to_compute: int
    cached: bool
