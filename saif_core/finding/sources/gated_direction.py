"""Source ``gated_direction``: one direction whose strength a trained gate decides at every token.

delta(h) = ReLU(w · u + b) · v, where u is the residual stream h at norm √d_model. It needs no SAE,
and is what ``gated_latents`` is to be compared with: one gate, and a dense direction.

Source: PSR (arXiv 2605.03907), reconstructed; there the direction is that of a mean difference.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.finding.study import Study
from saif_core.finding.training import (
    AnswerTokens,
    Contents,
    Share,
    Steps,
    gate,
    share_of_norm,
    train,
)
from saif_core.records.steering import Edit
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.target import VECTOR, SteeringTarget

WEIGHT, BIAS = "gate_weight", "gate_bias"
WEIGHT_RATE, BIAS_RATE = 0.004, 0.03


def gated_direction(
    study: Study,
    *,
    direction: Literal["trained", "mean difference"] = "trained",
    contents: Contents = 160,
    tokens: AnswerTokens = 48,
    steps: Steps = 80,
    share: Share = 0.15,
) -> Iterator[Edit]:
    """A direction whose strength a trained gate decides at every token.

    Args:
        direction: trained too, from the mean difference on; or the mean difference as it is.
        contents: answers to learn from at most.
        tokens: of an answer at most.
        steps: of training.
        share: norm that a gate of 1 adds at first, as a share of the residual stream's.
    """
    targets = study.targets(n=contents, max_new_tokens=tokens)
    for layer in study.layers:
        here = study.at((layer,))
        first = share_of_norm(study.model, layer, study.mean_difference(layer), share)
        start = {
            VECTOR: first,
            WEIGHT: torch.zeros(1, study.model.d_model, device=first.device),
            BIAS: torch.ones(1, device=first.device),
        }
        # A step of Adam is as long for every entry, so it has to suit the direction's own size.
        rates = {WEIGHT: WEIGHT_RATE, BIAS: BIAS_RATE}
        if direction == "trained":
            rates[VECTOR] = 0.05 * float(first.abs().mean())

        def written(
            tensors: Mapping[str, Tensor], layer: int = layer
        ) -> Mapping[int, partial[Tensor]]:
            return {layer: partial(_delta, tensors=tensors)}

        trained = train(here, start, written, targets, steps=steps, rates=rates).tensors
        yield study.edit(
            layer,
            method="gated_direction",
            vector=trained[VECTOR],
            gate_weight=trained[WEIGHT],
            gate_bias=trained[BIAS],
        )


def write(
    resid: Float[Tensor, "batch pos d_model"], target: SteeringTarget, sae: LoadedSae | None
) -> Float[Tensor, "batch pos d_model"]:
    """The direction, as far as its gate is open at the token."""
    del sae
    return _delta(resid, target.tensors)


def gates(
    resid: Float[Tensor, "batch pos d_model"], target: SteeringTarget, sae: LoadedSae | None
) -> Float[Tensor, "batch pos 1"]:
    """How far the gate is open at each token; 0 is closed."""
    del sae
    return gate(resid, target.tensors[WEIGHT], target.tensors[BIAS])


def _delta(resid: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    direction = tensors[VECTOR].to(resid.device)
    opened = gate(resid, tensors[WEIGHT], tensors[BIAS])
    return (opened * direction).to(resid.dtype)
