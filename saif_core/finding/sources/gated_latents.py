"""Source ``gated_latents``: latents whose strength is decided at every token by a trained gate.

delta(h) = Σ_i ReLU(w_i · u + b_i) · c_i · d_i, where u is the residual stream h at norm √d_model,
d_i the decoder direction of a chosen latent and c_i its coefficient. Only w and b are trained, by
the language model's loss on answers that follow the instruction, so a gate can be read: where it
opened and how far.

Source: ours. PSR (arXiv 2605.03907) gates one dense direction in this way; reconstructed.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from saif_core.finding.study import Study, Target
from saif_core.finding.training import (
    AnswerTokens,
    Contents,
    Share,
    Steps,
    attribute,
    gate,
    train,
    unit_steps,
)
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Edit
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.target import SteeringTarget

Chosen = Literal["effect", "ranking", "random"]
WEIGHT, BIAS = "gate_weight", "gate_bias"
WEIGHT_RATE, BIAS_RATE = 0.004, 0.03


def gated_latents(
    study: Study,
    *,
    k: Annotated[int, Interval(ge=1, le=256)] = 32,
    chosen: Chosen = "effect",
    strengths: Literal["by token", "constant"] = "by token",
    answers: Literal["own", "of other contents"] = "own",
    prompts: Literal["bare", "instructed"] = "bare",
    contents: Contents = 160,
    tokens: AnswerTokens = 48,
    steps: Steps = 80,
    share: Share = 0.03,
) -> Iterator[Edit]:
    """Latents whose strength a trained gate decides at every token.

    Args:
        k: how many latents.
        chosen: the latents whose directions would make the answers likeliest, the best of the
            ranking, or, as a control, random ones.
        strengths: by token, as the gates decide; or, as a control, trained alike and constant.
        answers: learned from those to the content itself; or, as a control, from shuffled ones.
        prompts: learned on without the instruction; or with it, for steering on top of prompting.
        contents: answers to learn from at most.
        tokens: of an answer at most.
        steps: of training.
        share: norm that a gate of 1 adds, as a share of the residual stream's.
    """
    targets = study.targets(n=contents, max_new_tokens=tokens, told=prompts == "instructed")
    if answers == "of other contents":
        targets = _shuffled(targets)
    for layer in study.layers:
        here, sae = study.at((layer,)), study.sae(layer)
        indices = _choose(here, layer, targets, chosen, k)
        coefficients = unit_steps(study.model, sae, indices, share)
        directions = coefficients[:, None] * sae.W_dec[indices].float()
        start = {WEIGHT: torch.zeros(k, study.model.d_model), BIAS: torch.ones(k)}
        start = {name: tensor.to(directions.device) for name, tensor in start.items()}
        rates = {WEIGHT: WEIGHT_RATE if strengths == "by token" else 0.0, BIAS: BIAS_RATE}

        def written(
            tensors: Mapping[str, Tensor],
            layer: int = layer,
            directions: Tensor = directions,
            sae: LoadedSae = sae,
        ) -> Mapping[int, partial[Tensor]]:
            return {layer: partial(_delta, tensors=tensors, directions=directions, sae=sae)}

        trained = train(here, start, written, targets, steps=steps, rates=rates)
        latents = [
            ChosenLatent(index, float(coefficient))
            for index, coefficient in zip(indices, coefficients, strict=True)
        ]
        yield study.edit(
            layer,
            latents=latents,
            method="gated_latents",
            gate_weight=trained.tensors[WEIGHT],
            gate_bias=trained.tensors[BIAS],
        )


def write(
    resid: Float[Tensor, "batch pos d_model"], target: SteeringTarget, sae: LoadedSae
) -> Float[Tensor, "batch pos d_model"]:
    """The chosen latents' directions, each as far as its gate is open at the token."""
    directions = target.coefficients[:, None] * sae.W_dec[target.indices]
    return _delta(resid, target.tensors, directions.float(), sae)


def gates(
    resid: Float[Tensor, "batch pos d_model"], target: SteeringTarget, sae: LoadedSae
) -> Float[Tensor, "batch pos k"]:
    """How far the gate of each latent is open at each token; 0 is closed."""
    del sae
    return gate(resid, target.tensors[WEIGHT], target.tensors[BIAS])


def _delta(
    resid: Tensor, tensors: Mapping[str, Tensor], directions: Tensor, sae: LoadedSae
) -> Tensor:
    added = gate(resid, tensors[WEIGHT], tensors[BIAS]) @ directions.to(resid.device)
    return (added * sae.resid_scale(resid.float())).to(resid.dtype)


def _choose(
    study: Study, layer: int, targets: Sequence[Target], chosen: Chosen, k: int
) -> list[int]:
    if chosen == "ranking":
        return [latent.index for latent in study.ranking(layer).latents[:k]]
    sae = study.sae(layer)
    if chosen == "random":
        generator = torch.Generator().manual_seed(study.seed)
        return torch.randperm(sae.d_sae, generator=generator)[:k].tolist()
    return attribute(study, layer, targets).topk(min(k, sae.d_sae)).indices.tolist()


def _shuffled(targets: Sequence[Target]) -> list[Target]:
    """Every prompt with the answer to another one."""
    return [
        Target(target.prompt, targets[(number + 1) % len(targets)].answer)
        for number, target in enumerate(targets)
    ]
