"""Source ``one_latent``: a single latent, the best of the ranking or one that is named."""

from collections.abc import Iterator
from typing import Annotated

from annotated_types import Interval

from saif_core.finding.ranking import choose_latents
from saif_core.finding.study import Study
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import Edit


def one_latent(
    study: Study,
    *,
    latent: Annotated[int, Interval(ge=0)] | None = None,
    beta: Annotated[float, Interval(ge=-10, le=10)] = 0.0,
) -> Iterator[Edit]:
    """One latent alone, as strongly as it fires on instructed prompts.

    Args:
        latent: its index; nothing takes the best of the ranking.
        beta: standard deviations that its coefficient lies above the mean activation.
    """
    for layer in study.layers:
        if latent is None:
            chosen = choose_latents(study.ranking(layer), top=1, beta=beta)
        else:
            mean, std = study.latents(layer)[0].firing_mean_and_std()
            index = study.sae(layer).check_index(latent)
            # A latent that never fires on the pairs can still be steered with.
            coefficient = float(mean[index] + beta * std[index]) or 1.0
            chosen = (ChosenLatent(index, coefficient),)
        yield study.edit(layer, latents=chosen)
