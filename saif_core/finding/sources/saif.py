"""Source ``saif``: the best latents of a ranking, each at its activation with the instruction.

Source: SAIF (arXiv 2502.11356), reconstructed: α = μ + β·σ. The output score is that of SAEs Are
Good for Steering (arXiv 2505.20063).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from annotated_types import Interval

from saif_core.errors import SteeringError
from saif_core.explaining.latent_scores import output_scores
from saif_core.finding.ranking import choose_latents
from saif_core.finding.study import Study
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.ranking import Ranking
from saif_core.records.steering import Edit
from saif_core.saes.loaded_sae import LoadedSae

# Best latents whose output score is measured; steering takes far fewer.
N_SCORED = 200


def saif(
    study: Study,
    *,
    top: Annotated[int, Interval(ge=1, le=1000)] = 15,
    beta: Annotated[float, Interval(ge=-10, le=10)] = 0.0,
    least_output_score: Annotated[float, Interval(ge=0, le=1)] = 0.0,
) -> Iterator[Edit]:
    """The best latents of the ranking, as strongly as they fire on instructed prompts.

    Args:
        top: how many latents.
        beta: standard deviations that a coefficient lies above the mean activation.
        least_output_score: leave out latents that write less of what they promote; 0 keeps all.
    """
    for layer in study.layers:
        ranking = study.ranking(layer)
        if least_output_score > 0:
            ranking = drop_silent_latents(
                study.model, study.sae(layer), ranking, least_output_score
            )
        yield study.edit(layer, latents=choose_latents(ranking, top=top, beta=beta))


def drop_silent_latents(
    model: LoadedModel, sae: LoadedSae, ranking: Ranking, least: float
) -> Ranking:
    """The ranking without latents that do not write what they promote.

    Source: SAEs Are Good for Steering (arXiv 2505.20063), whose output score this is. Only the
    best latents are looked at; those behind them are gone too.

    Args:
        least: output score that a latent must have.

    Raises:
        SteeringError: no latent has it.
    """
    seen = ranking.latents[:N_SCORED]
    # The largest activation on the pairs, near enough.
    maxima = [latent.mean + 2 * latent.std for latent in seen]
    scores = output_scores(model, sae, [latent.index for latent in seen], maxima).tolist()
    kept = tuple(x for x, score in zip(seen, scores, strict=True) if score >= least)
    if not kept:
        raise SteeringError(
            f"None of the {len(seen)} best latents has an output score of {least:g} or more; ask "
            "for less, or take another layer."
        )
    return replace(ranking, latents=kept)
