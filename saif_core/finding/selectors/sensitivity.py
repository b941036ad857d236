"""Selector ``sensitivity``: how often a latent fires because of the instruction.

Source: SAIF (arXiv 2502.11356), reconstructed; the version over response tokens is ours.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from saif_core.saes.latents import LatentActivations


def sensitivity(
    positive: LatentActivations,
    negative: LatentActivations,
    *,
    compare: Literal["fires", "higher"] = "fires",
) -> Float[np.ndarray, " d_sae"]:
    """Share of pairs in which the instruction switches the latent on (C_i).

    Read over response tokens, where positions have no partner, it is the firing rate with minus
    the firing rate without the instruction.

    Args:
        positive: activations with the instruction.
        negative: activations without.
        compare: "fires": active with and silent without; "higher": more active with than without.
    """
    if not (positive.one_row_per_prompt and negative.one_row_per_prompt):
        return np.asarray(positive.firing_rate() - negative.firing_rate())
    with_instruction, without = positive.dense(), negative.dense()
    if compare == "higher":
        changed = with_instruction > without
    else:
        changed = (with_instruction > 0) & (without == 0)
    return np.asarray(changed.mean(axis=0))
