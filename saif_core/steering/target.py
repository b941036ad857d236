"""Step 5: an edit → what its steering method works towards.

Source: SAIF (arXiv 2502.11356), reconstructed: v = Σ α_i · W_dec[i].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saif_core.errors import SteeringError
from saif_core.records.steering import Edit
from saif_core.saes.loaded_sae import LoadedSae

# The tensor of an edit that is a steering vector, in the residual stream's own scale.
VECTOR = "vector"


@dataclass(frozen=True, eq=False)
class SteeringTarget:
    """What a steering method works towards.

    Attributes:
        direction: Σ coefficient × decoder direction, in the SAE's own scale (see
            ``LoadedSae.resid_scale``); without latents the edit's vector, or zeros if it has none.
        indices: the chosen latents.
        coefficients: their activations at strength 1.
        tensors: what else the edit was given, by name.
    """

    direction: Float[Tensor, " d_model"]
    indices: Int[Tensor, " k"]
    coefficients: Float[Tensor, " k"]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def build_target(
    edit: Edit, sae: LoadedSae | None, tensors: Mapping[str, Tensor], d_model: int
) -> SteeringTarget:
    """The target of an edit.

    Args:
        sae: that the edit's latents belong to; None without latents.
        tensors: the edit's own, by name.
        d_model: size of the residual stream.

    Raises:
        SteeringError: there is nothing to steer with, a latent was chosen twice, or a vector has
            another size.
        UnknownLatentError: a latent does not exist.
    """
    if sae is not None:
        return _of_latents(edit, sae, tensors)
    if not tensors:
        raise SteeringError("No latent was chosen; choose at least one to steer with.")
    direction = tensors.get(VECTOR, torch.zeros(d_model))
    if direction.shape != (d_model,):
        raise SteeringError(
            f"A vector of shape {tuple(direction.shape)} was given, but the residual stream has "
            f"{d_model} dimensions; give one number for each."
        )
    return SteeringTarget(
        direction.float(), torch.zeros(0, dtype=torch.long), torch.zeros(0), tensors
    )


def _of_latents(edit: Edit, sae: LoadedSae, tensors: Mapping[str, Tensor]) -> SteeringTarget:
    indices = [sae.check_index(latent.index) for latent in edit.latents]
    if not indices:
        raise SteeringError("No latent was chosen; choose at least one to steer with.")
    if len(set(indices)) < len(indices):
        raise SteeringError("A latent was chosen twice; give each latent once.")
    device = sae.W_dec.device
    coefficients = torch.tensor(
        [latent.coefficient for latent in edit.latents], device=device, dtype=sae.W_dec.dtype
    )
    return SteeringTarget(
        coefficients @ sae.W_dec[indices],
        torch.tensor(indices, device=device),
        coefficients,
        tensors,
    )
