"""Steering method ``ablate``: take the chosen latents out of the residual stream.

Source: Analyze Feature Flow (arXiv 2502.03032), deactivation: strength 1 removes a latent, 2
reverses it, a negative strength amplifies what is there.
"""

from jaxtyping import Float
from torch import Tensor

from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.target import SteeringTarget


def ablate(
    resid: Float[Tensor, "batch pos d_model"],
    target: SteeringTarget,
    sae: LoadedSae,
) -> Float[Tensor, "batch pos d_model"]:
    """Minus what the chosen latents contribute where they fire; nothing where they do not."""
    indices = target.indices
    activations = sae.encode(resid.float().flatten(0, 1))[:, indices]
    removed = (activations @ sae.W_dec[indices]).to(resid.device).view_as(resid)
    return (-removed * sae.resid_scale(resid.float())).to(resid.dtype)
