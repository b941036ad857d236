"""Step 5: chosen latents → coefficients → steering vector.

Source: SAIF (arXiv 2502.11356), reconstructed: α_i = μ_i + β·σ_i, v = Σ α_i · W_dec[i].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saif_core.errors import SteeringError
from saif_core.records.ranking import ChosenLatent
from saif_core.saes.loaded_sae import LoadedSae


@dataclass(frozen=True, eq=False)
class SteeringTarget:
    """What a steering method works towards.

    Attributes:
        direction: Σ coefficient × decoder direction, in the SAE's own scale (see
            ``LoadedSae.resid_scale``).
        indices: the chosen latents.
        coefficients: their activations at strength 1.
    """

    direction: Float[Tensor, " d_model"]
    indices: Int[Tensor, " k"]
    coefficients: Float[Tensor, " k"]


def build_target(sae: LoadedSae, latents: Sequence[ChosenLatent]) -> SteeringTarget:
    """Chosen latents with their steering vector.

    Raises:
        SteeringError: no latent was chosen, or a latent was chosen twice.
        UnknownLatentError: a latent does not exist.
    """
    indices = [sae.check_index(latent.index) for latent in latents]
    if not indices:
        raise SteeringError("No latent was chosen; choose at least one to steer with.")
    if len(set(indices)) < len(indices):
        raise SteeringError("A latent was chosen twice; give each latent once.")
    device = sae.W_dec.device
    coefficients = torch.tensor(
        [latent.coefficient for latent in latents], device=device, dtype=sae.W_dec.dtype
    )
    return SteeringTarget(
        coefficients @ sae.W_dec[indices], torch.tensor(indices, device=device), coefficients
    )


def build_steering_vector(
    sae: LoadedSae, latents: Sequence[ChosenLatent]
) -> Float[Tensor, " d_model"]:
    """The direction of ``build_target``, which raises what this does."""
    return build_target(sae, latents).direction
