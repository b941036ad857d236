"""How good an SAE is, as it was measured."""

from dataclasses import dataclass

from saif_core.records.as_json import Record
from saif_core.records.saes import SaeCard

# On fewer tokens, latents that are merely rare look dead.
LEAST_DEAD_TOKENS = 100_000


@dataclass(frozen=True)
class TextMeasurement(Record):
    """An SAE on one kind of text.

    Attributes:
        sink_share: share of tokens after the first that were left out as attention sinks.
    """

    card: SaeCard
    sink_share: float


@dataclass(frozen=True)
class Finding(Record):
    """One measure against its threshold; ``passed`` None means that it is not known."""

    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class DensityReport(Record):
    """How often the latents of an SAE fire on a corpus.

    Attributes:
        n_dead: latents that fire on no token.
        n_dense: latents that fire on more than a tenth of the tokens.
        bins: (log10 of the density from, to, latents), without the dead ones.
    """

    n_tokens: int
    d_sae: int
    n_dead: int
    n_dense: int
    bins: tuple[tuple[float, float, int], ...]

    @property
    def dead_fraction(self) -> float | None:
        """Share of dead latents; None where the corpus is too small to tell dead from rare."""
        return self.n_dead / self.d_sae if self.n_tokens >= LEAST_DEAD_TOKENS else None
