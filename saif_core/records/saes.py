"""What is known of an SAE before it is loaded."""

from collections.abc import Iterable
from dataclasses import dataclass

from saif_core.records.as_json import Record


@dataclass(frozen=True)
class SaeCard(Record):
    """Measured quality of an SAE on one kind of text that was not trained on."""

    text: str
    n_tokens: int
    fvu: float
    explained_variance: float
    ce_recovered: float
    l0: float


@dataclass(frozen=True)
class SaeInfo(Record):
    """An SAE the catalog knows; figures are None where nothing was measured.

    Attributes:
        model_id: the model it was trained on, as its maker names it.
        hook_point: where it reads, by the name that it was published with; "" if unknown.
        layer: block after which it reads, or which its hook point is in; None if there is none.
        d_sae: number of latents; None where only loading it tells.
        unsupported: why it cannot be used, in a sentence; "" if nothing is known against it.
    """

    id: str
    model_id: str
    hook_point: str
    layer: int | None
    d_sae: int | None
    path: str
    dead_fraction: float | None = None
    tokens_seen: int | None = None
    sources: tuple[str, ...] = ()
    cards: tuple[SaeCard, ...] = ()
    unsupported: str = ""


def layers_of(saes: Iterable[SaeInfo]) -> dict[str, int]:
    """Layer of every SAE that has one, by its id."""
    return {info.id: info.layer for info in saes if info.layer is not None}
