"""Feature flow: which latents of the layers around continue a latent, by their decoder directions.

Data-free: it reads decoder directions alone. Whether two matched latents really fire together is
a question for token numbers, which ``coactivation`` answers. It knows no model and no text.

Source: Laptev et al. (arXiv 2502.03032), reconstructed; SAEs of the residual stream only, so what
attention and MLP write in between is not told apart.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saif_core.errors import HookPointError, check_latent
from saif_core.records.flow import Coactivation, FlowEdge, FlowGraph, FlowNode, FlowOrigin

# The paper cuts its flow graphs where the best residual match falls below this.
KEPT_COSINE = 0.5
# Just above 0.18, what the best of 65,536 random directions in 576 dimensions comes to: a best
# match below it says nothing. Wider models have less chance, narrower ones more.
CHANCE_COSINE = 0.2
# Cosines that are in memory at once: 64 MB.
_BLOCK_COSINES = 1 << 24


class LatentMatches(NamedTuple):
    """Most similar decoder directions of each latent, best first."""

    indices: Int[Tensor, "n k"]
    cosines: Float[Tensor, "n k"]


@torch.no_grad()
def match_latents(
    decoder_from: Float[Tensor, "n_from d_model"],
    decoder_to: Float[Tensor, "n_to d_model"],
    latents: Sequence[int],
    k: int,
) -> LatentMatches:
    """The ``k`` decoder directions of one SAE with the largest cosine to each latent of another.

    Norms are divided out here, and a zero direction has cosine 0 with everything. Cosines are
    computed in blocks of latents, so that all of them never stand in memory.

    Args:
        decoder_from: ``W_dec`` that ``latents`` belong to.
        decoder_to: ``W_dec`` that is searched.
        latents: indices into ``decoder_from``.
        k: matches per latent; at most the latents that there are.
    """
    to = decoder_to.float()
    norms = to.norm(dim=-1).clamp_min(torch.finfo(to.dtype).tiny)
    n_rows = max(_BLOCK_COSINES // len(to), 1)
    k = min(k, len(to))
    blocks = []
    for start in range(0, len(latents), n_rows):
        rows = decoder_from[list(latents[start : start + n_rows])].to(to)
        cosines = torch.nn.functional.normalize(rows, dim=-1) @ to.T / norms
        blocks.append(cosines.topk(k, dim=-1))
    if not blocks:
        return LatentMatches(torch.zeros(0, k, dtype=torch.long), torch.zeros(0, k))
    return LatentMatches(
        torch.cat([block.indices for block in blocks]).cpu(),
        torch.cat([block.values for block in blocks]).cpu(),
    )


def classify_origin(cosine: float | None) -> FlowOrigin:
    """Where a latent comes from, by its best match in the layer before.

    - "kept": the best match has a cosine of at least KEPT_COSINE; the direction was there before.
    - "newborn": the best match lies between CHANCE_COSINE and KEPT_COSINE; it has relatives in the
      layer before, but the direction itself is new.
    - "unmatched": nothing can be said. The layer before was not read, or its best match is no
      better than a random direction's.

    Args:
        cosine: largest cosine with a decoder direction of the layer before; None if there is none.
    """
    if cosine is None or cosine < CHANCE_COSINE:
        return "unmatched"
    return "kept" if cosine >= KEPT_COSINE else "newborn"


def flow_graph(
    latent: int,
    layer: int,
    decoders: Mapping[int, Float[Tensor, "d_sae d_model"]],
    *,
    breadth: int = 2,
    depth: int = 3,
) -> FlowGraph:
    """Predecessors and successors of a latent, layer by layer, as long as the direction is kept.

    The layer before is the nearest lower one among ``decoders``: with layers left out in between,
    a direction had more blocks in which to change. Edges below KEPT_COSINE are cut.

    Args:
        latent: index of the latent that the walk starts from.
        layer: its layer.
        decoders: {layer: W_dec}, all of one model.
        breadth: matches that are followed from each latent.
        depth: layers that are walked each way.

    Raises:
        HookPointError: ``layer`` is not among the decoders.
        UnknownLatentError: the SAE of that layer has no such latent.
    """
    if layer not in decoders:
        raise HookPointError(
            f"The flow of a latent of layer {layer} was asked for, but SAEs are loaded for layers "
            f"{', '.join(map(str, sorted(decoders))) or 'none'}; choose one of these."
        )
    check_latent(latent, len(decoders[layer]), f"the SAE of layer {layer}")
    layers = sorted(decoders)
    place = layers.index(layer)
    edges = {
        *_walk(latent, layers[place::-1][: depth + 1], decoders, breadth),
        *_walk(latent, layers[place:][: depth + 1], decoders, breadth),
    }
    reached = {(layer, latent)}
    reached |= {(edge.layer_from, edge.latent_from) for edge in edges}
    reached |= {(edge.layer_to, edge.latent_to) for edge in edges}
    nodes = []
    for at in sorted({at for at, _ in reached}):
        latents = sorted(index for where, index in reached if where == at)
        before = layers[layers.index(at) - 1] if at > layers[0] else None
        best: list[float | None] = [None] * len(latents)
        if before is not None:
            best = match_latents(decoders[at], decoders[before], latents, 1).cosines[:, 0].tolist()
        nodes += [
            FlowNode(at, index, classify_origin(cosine))
            for index, cosine in zip(latents, best, strict=True)
        ]
    order = sorted(edges, key=lambda e: (e.layer_from, e.latent_from, e.layer_to, e.latent_to))
    return FlowGraph(tuple(nodes), tuple(order))


def _walk(
    latent: int, layers: Sequence[int], decoders: Mapping[int, Tensor], breadth: int
) -> list[FlowEdge]:
    """Edges found by following matches through ``layers``; each points to the higher layer."""
    edges: list[FlowEdge] = []
    frontier = [latent]
    for here, there in zip(layers, layers[1:], strict=False):
        matches = match_latents(decoders[here], decoders[there], frontier, breadth)
        found = set()
        for index, row in enumerate(frontier):
            for other, cosine in zip(
                matches.indices[index].tolist(), matches.cosines[index].tolist(), strict=True
            ):
                if cosine < KEPT_COSINE:
                    continue
                found.add(other)
                ends = ((here, row), (there, other))
                (low, low_latent), (high, high_latent) = sorted(ends)
                edges.append(FlowEdge(low, low_latent, high, high_latent, cosine))
        frontier = sorted(found)
    return edges


def coactivation(
    fires_a: Int[np.ndarray, " n_a"], fires_b: Int[np.ndarray, " n_b"], n_tokens: int
) -> Coactivation:
    """How often two latents fire on the same token.

    Args:
        fires_a: numbers of the tokens on which one latent fires, each once.
        fires_b: the same for the other latent.
        n_tokens: tokens that were read.
    """
    n_a, n_b = len(fires_a), len(fires_b)
    n_both = len(np.intersect1d(fires_a, fires_b, assume_unique=True))
    return Coactivation(
        n_a=n_a,
        n_b=n_b,
        n_both=n_both,
        b_given_a=n_both / n_a if n_a else None,
        a_given_b=n_both / n_b if n_b else None,
        lift=n_both * n_tokens / (n_a * n_b) if n_a and n_b else None,
    )
