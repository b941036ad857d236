"""Source ``denoised``: the mean difference of the latent activations.

Source: SDCV (arXiv 2505.15038), whose SAE removes noise from a mean difference; reconstructed.
"""

from collections.abc import Iterator
from typing import Annotated

from annotated_types import Interval

from saif_core.finding.study import Study
from saif_core.records.ranking import ChosenLatent, Ranking
from saif_core.records.steering import Edit


def denoised(study: Study, *, top: Annotated[int, Interval(ge=1, le=1000)] = 60) -> Iterator[Edit]:
    """Latents with the largest mean differences of their activation, which are the coefficients.

    Args:
        top: how many latents.
    """
    for layer in study.layers:
        yield study.edit(layer, latents=largest_differences(study.ranking(layer), top))


def largest_differences(ranking: Ranking, top: int) -> tuple[ChosenLatent, ...]:
    """The mean difference of the latent activations, kept to its largest entries.

    Latents beyond those that the ranking lists are not seen.
    """
    largest = sorted(ranking.latents, key=lambda latent: -abs(latent.mean_difference))[:top]
    return tuple(
        ChosenLatent(latent.index, latent.mean_difference)
        for latent in largest
        if latent.mean_difference
    )
