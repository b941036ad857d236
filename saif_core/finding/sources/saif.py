"""Source ``saif``: the best latents of a ranking."""

from dataclasses import replace

from saif_core.errors import SteeringError
from saif_core.explaining.latent_scores import output_scores
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.ranking import Ranking
from saif_core.saes.loaded_sae import LoadedSae

# Best latents whose output score is measured; an SAE arm takes far fewer.
N_SCORED = 200


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
