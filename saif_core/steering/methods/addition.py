"""Steering method ``addition``: add the steering vector to the residual stream.

Source: SAIF (arXiv 2502.11356), reconstructed; CAA adds its vector in the same way.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.target import SteeringTarget


def addition(
    resid: Float[Tensor, "batch pos d_model"],
    target: SteeringTarget,
    sae: LoadedSae | None,
) -> Float[Tensor, "batch pos d_model"]:
    """The steering vector in the residual stream's own scale, the same at every position."""
    precise = resid.float()
    scale = torch.ones_like(precise[..., :1]) if sae is None else sae.resid_scale(precise)
    return (target.direction.to(resid.device) * scale).to(resid.dtype)
