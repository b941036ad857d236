"""Step 4: one score per latent → a ranking, and the latents that are taken from it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from saif_core.errors import SteeringError
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.pairs import ReadResult
from saif_core.records.ranking import (
    SELECTIVE_WITH,
    SELECTIVE_WITHOUT,
    ChosenLatent,
    LatentScore,
    Ranking,
    RankingRequest,
)
from saif_core.saes.latents import LatentActivations
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import promoted_tokens

N_LISTED = 1000
N_WITH_TOKENS = 100


def make_ranking(
    model: LoadedModel,
    sae: LoadedSae,
    request: RankingRequest,
    read: ReadResult,
    scores: Float[np.ndarray, " d_sae"],
    *,
    selector: str,
    parameters: Mapping[str, Any],
    seconds: float,
) -> Ranking:
    """Latents ordered by score, the best first, with what is needed to compute them again.

    Args:
        read: latent activations that were scored.
        scores: one for each latent, the best highest.
        selector, parameters: what scored them.
        seconds: what that took.
    """
    rate_with, rate_without = read.positive.firing_rate(), read.negative.firing_rate()
    return Ranking(
        model=model.id,
        model_sha256=model.sha256,
        sae=sae.id,
        sae_sha256=sae.sha256,
        hook_point=sae.hook_point,
        d_sae=sae.d_sae,
        instruction=request.instruction,
        read=request.read,
        selector=selector,
        selector_parameters=dict(parameters),
        n_pairs=len(request.pairs),
        top=request.top,
        latents=_list_latents(model, sae, scores, read.positive, read.negative),
        n_selective=count_selective(rate_with, rate_without),
        seconds=seconds,
        tokens_total=read.tokens_total,
        tokens_computed=read.tokens_computed,
        cached=read.tokens_computed == 0,
    )


def count_selective(
    rate_with: Float[np.ndarray, " d_sae"], rate_without: Float[np.ndarray, " d_sae"]
) -> int:
    """Latents that fire almost always with the instruction and almost never without it."""
    return int(((rate_with >= SELECTIVE_WITH) & (rate_without <= SELECTIVE_WITHOUT)).sum())


def _list_latents(
    model: LoadedModel,
    sae: LoadedSae,
    scores: np.ndarray,
    positive: LatentActivations,
    negative: LatentActivations,
) -> tuple[LatentScore, ...]:
    mean, std = positive.firing_mean_and_std()
    difference = positive.mean() - negative.mean()
    rate_with, rate_without = positive.firing_rate(), negative.firing_rate()
    # Best score first; ties by mean difference, then by index, so that the order is always one.
    order = np.lexsort((np.arange(len(scores)), -difference, -scores))[:N_LISTED]
    tokens = promoted_tokens(model, sae, [int(i) for i in order[:N_WITH_TOKENS]])
    tokens += [()] * (len(order) - len(tokens))
    return tuple(
        LatentScore(
            index=int(i),
            score=float(scores[i]),
            mean=float(mean[i]),
            std=float(std[i]),
            rate_positive=float(rate_with[i]),
            rate_negative=float(rate_without[i]),
            mean_difference=float(difference[i]),
            top_tokens=top_tokens,
        )
        for i, top_tokens in zip(order, tokens, strict=True)
    )


def choose_latents(
    ranking: Ranking, *, top: int | None = None, beta: float = 0.0
) -> tuple[ChosenLatent, ...]:
    """The best latents of a ranking with coefficient α = μ + β·σ over where they fire.

    Args:
        top: how many; None takes the ranking's own number.
        beta: how many standard deviations above the mean.

    Raises:
        SteeringError: none of them ever fires on instructed prompts.
    """
    best = ranking.latents[: top if top is not None else ranking.top]
    chosen = tuple(
        ChosenLatent(latent.index, latent.mean + beta * latent.std)
        for latent in best
        if latent.mean > 0
    )
    if not chosen:
        raise SteeringError(
            f"None of the {len(best)} best latents fires on prompts with the instruction "
            f"{ranking.instruction!r}; use more pairs, another layer or another reading position."
        )
    return chosen
