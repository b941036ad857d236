"""Steering method ``clamp``: set the chosen latents to their coefficients, whatever they were.

Source: Steering Language Model Refusal with Sparse Autoencoders (arXiv 2411.11296),
reconstructed. It replaces the residual stream by the reconstruction; here the difference is
added, so that what the SAE does not explain stays in place.
"""

from jaxtyping import Float
from torch import Tensor

from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.target import SteeringTarget


def clamp(
    resid: Float[Tensor, "batch pos d_model"],
    target: SteeringTarget,
    sae: LoadedSae,
) -> Float[Tensor, "batch pos d_model"]:
    """What moves each chosen latent from its activation to its coefficient."""
    indices = target.indices
    rows = resid.float().flatten(0, 1)
    activations = sae.encode(rows)[:, indices]
    added = (target.coefficients - activations) @ sae.W_dec[indices]
    return (added.to(resid.device).view_as(resid) * sae.resid_scale(resid.float())).to(resid.dtype)
