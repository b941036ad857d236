"""Latents followed through the layers."""

from dataclasses import dataclass
from typing import Literal

from saif_core.records.as_json import Record

FlowOrigin = Literal["kept", "newborn", "unmatched"]


@dataclass(frozen=True)
class FlowNode(Record):
    """A latent in a flow graph."""

    layer: int
    latent: int
    origin: FlowOrigin


@dataclass(frozen=True)
class FlowEdge(Record):
    """Two latents of neighbouring layers whose decoder directions are alike."""

    layer_from: int
    latent_from: int
    layer_to: int
    latent_to: int
    cosine: float


@dataclass(frozen=True)
class FlowGraph(Record):
    """Where a latent comes from and goes to; nodes and edges are sorted by layer and latent."""

    nodes: tuple[FlowNode, ...]
    edges: tuple[FlowEdge, ...]


@dataclass(frozen=True)
class Coactivation(Record):
    """How often two latents fire on the same token; None where a rate has no denominator.

    Attributes:
        n_a, n_b, n_both: tokens on which a, b and both fire.
        b_given_a: share of a's tokens on which b fires too, P(b|a).
        a_given_b: share of b's tokens on which a fires too, P(a|b).
        lift: P(a, b) / (P(a) P(b)); 1 is what independent latents have.
    """

    n_a: int
    n_b: int
    n_both: int
    b_given_a: float | None
    a_given_b: float | None
    lift: float | None
