"""Logit lens of a decoder direction: what it adds to the logits through the final norm.

The final norm's scale is applied to the direction without its centring-and-dividing part: on a
residual stream of fixed norm, that part is a constant factor.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.models.loaded_model import LoadedModel
from saif_core.records.latents import LatentDetail
from saif_core.saes.loaded_sae import LoadedSae


@torch.no_grad()
def read_logits(
    model: LoadedModel, directions: Float[Tensor, "n d_model"]
) -> Float[Tensor, "n d_vocab"]:
    """Logits of decoder directions, less their mean over the vocabulary."""
    logits = model.unembed_directions(directions)
    return logits - logits.mean(dim=-1, keepdim=True)


def promoted_tokens(
    model: LoadedModel, sae: LoadedSae, indices: Sequence[int], *, n: int = 8
) -> list[tuple[str, ...]]:
    """The ``n`` tokens that each latent promotes most."""
    if not indices:
        return []
    rows = sae.W_dec[list(indices)]
    best = [
        read_logits(model, rows[part]).topk(min(n, model.d_vocab), dim=-1).indices
        for part in model.logit_parts(len(rows))
    ]
    return [tuple(model.token_text(int(token)) for token in row) for row in torch.cat(best)]


def strongest_tokens(
    model: LoadedModel, logits: Float[Tensor, " d_vocab"], n: int, *, largest: bool
) -> tuple[tuple[str, float], ...]:
    """The ``n`` tokens with the largest logits or the smallest, the most extreme first."""
    top = logits.topk(min(n, len(logits)), largest=largest)
    return tuple(
        (model.token_text(int(i)), float(v)) for v, i in zip(top.values, top.indices, strict=True)
    )


def describe_latent(
    model: LoadedModel, sae: LoadedSae, index: int, *, n_tokens: int = 20, n_neighbours: int = 10
) -> LatentDetail:
    """Tokens and neighbours of one latent, from the weights alone.

    Raises:
        UnknownLatentError: the SAE has no such latent.
    """
    sae.check_index(index)
    logits = read_logits(model, sae.W_dec[index : index + 1])[0]
    unit = torch.nn.functional.normalize(sae.W_dec, dim=-1)
    cosines = unit @ unit[index]
    cosines[index] = -torch.inf
    nearest = cosines.topk(min(n_neighbours, sae.d_sae - 1))
    bias = getattr(sae.sae, "b_enc", None)
    return LatentDetail(
        sae=sae.id,
        hook_point=sae.hook_point,
        index=index,
        promoted=strongest_tokens(model, logits, n_tokens, largest=True),
        suppressed=strongest_tokens(model, logits, n_tokens, largest=False),
        neighbours=tuple(
            (int(i), float(c)) for c, i in zip(nearest.values, nearest.indices, strict=True)
        ),
        decoder_norm=float(sae.W_dec[index].norm()),
        encoder_bias=float(bias[index]) if bias is not None else 0.0,
    )
