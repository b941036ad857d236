"""Selector ``correlation``: how well a latent's activation tells instructed answers from others.

Source: CorrSteer (arXiv 2508.12535), reconstructed. Its correlation is with whether an answer was
right; here an answer counts as right if its prompt held the instruction.
"""

import numpy as np
from jaxtyping import Float

from saif_core.saes.latents import LatentActivations


def correlation(
    positive: LatentActivations, negative: LatentActivations
) -> Float[np.ndarray, " d_sae"]:
    """Pearson correlation of a latent's mean activation with the presence of the instruction.

    Latents that never fire, or fire alike everywhere, score 0.
    """
    means = [_means_by_prompt(side) for side in (positive, negative)]
    values = np.concatenate(means)
    present = np.repeat([1.0, 0.0], [len(side) for side in means])
    centred, label = values - values.mean(axis=0), present - present.mean()
    scale = np.sqrt((centred**2).sum(axis=0) * (label**2).sum())
    covariance = label @ centred
    found = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 1e-12)
    return np.asarray(found)


def _means_by_prompt(activations: LatentActivations) -> Float[np.ndarray, "n_prompts d_sae"]:
    """Mean activation on each prompt that has positions, zeros included."""
    prompts, n_rows = np.unique(activations.groups, return_counts=True)
    totals = np.zeros((len(prompts), activations.d_sae))
    rows = np.searchsorted(prompts, activations.groups)[activations.row_of_nonzero()]
    np.add.at(totals, (rows, activations.indices), activations.values)
    return totals / n_rows[:, None]
