"""What is asked and found out about single latents."""

from dataclasses import dataclass

from saif_core.records.as_json import Record


@dataclass(frozen=True)
class TokenChange(Record):
    """Tokens with their mean logit difference, the largest change first.

    Attributes:
        promoted: tokens whose logits rise most.
        suppressed: tokens whose logits fall most.
        n_tokens: token positions that the mean is over.
    """

    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    n_tokens: int


@dataclass(frozen=True)
class Neighbour(Record):
    """A latent with a decoder direction like that of the one asked for."""

    sae_id: str
    layer: int
    latent: int
    cosine: float


@dataclass(frozen=True)
class TextReading(Record):
    """A text, token by token.

    Attributes:
        tokens: as texts, special tokens flagged in ``special``.
        latents: for each token the latents that fire most on it, (index, activation), best first.
        maxima: (latent, largest activation on any token but the first, number of that token), the
            largest first; the first token, an attention sink, fires latents of its own.
    """

    tokens: tuple[str, ...]
    special: tuple[bool, ...]
    latents: tuple[tuple[tuple[int, float], ...], ...]
    maxima: tuple[tuple[int, float, int], ...]


@dataclass(frozen=True)
class LatentDetail(Record):
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
class PairActivations(Record):
    """Activation of one latent on every pair, with and without the instruction.

    For read="response" a value is the mean over the response tokens.
    """

    index: int
    positive: tuple[float, ...]
    negative: tuple[float, ...]
