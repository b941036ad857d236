"""What is known of an SAE before it is loaded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SaeCard:
    """Measured quality of an SAE on one kind of text that was not trained on."""

    text: str
    n_tokens: int
    fvu: float
    explained_variance: float
    ce_recovered: float
    l0: float


@dataclass(frozen=True)
class SaeInfo:
    """An SAE the catalog can load; figures are None where nothing was measured."""

    id: str
    model_id: str
    hook_point: str
    layer: int
    d_sae: int
    path: str
    dead_fraction: float | None = None
    tokens_seen: int | None = None
    sources: tuple[str, ...] = ()
    cards: tuple[SaeCard, ...] = ()
