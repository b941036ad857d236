"""Selector ``mean_difference``: how much more active a latent is with the instruction."""

import numpy as np
from jaxtyping import Float

from saif_core.saes.latents import LatentActivations


def mean_difference(
    positive: LatentActivations, negative: LatentActivations
) -> Float[np.ndarray, " d_sae"]:
    """Mean activation with minus mean activation without the instruction, zeros included."""
    return np.asarray(positive.mean() - negative.mean())
