"""Step 4: latent activations → one score per latent → a ranking."""

import time

import numpy as np

from saif_core.errors import SteeringError
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.pairs import read_latents
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import ChosenLatent, LatentScore, Ranking, RankingRequest
from saif_core.registry import SELECTORS
from saif_core.saes.latents import LatentActivations
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import promoted_tokens

N_LISTED = 1000
N_WITH_TOKENS = 100


def rank_latents(
    model: LoadedModel,
    sae: LoadedSae,
    request: RankingRequest,
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> Ranking:
    """Latents ordered by how much the instruction moves them.

    Raises:
        PromptPairError: there are no pairs, or a prompt is empty.
        UnknownNameError: the selector is not registered.
    """
    started = time.perf_counter()
    selector = SELECTORS.bind(request.selector, request.selector_parameters)
    read = read_latents(model, sae, request, cache=cache, step=step)
    scores = np.asarray(selector(read.positive, read.negative), dtype=np.float64)
    latents = _list_latents(model, sae, scores, read.positive, read.negative)
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
        selector=request.selector,
        selector_parameters=dict(request.selector_parameters),
        n_pairs=len(request.pairs),
        top=request.top,
        latents=latents,
        n_selective=int(((rate_with >= 0.8) & (rate_without <= 0.05)).sum()),
        seconds=time.perf_counter() - started,
        tokens_total=read.tokens_total,
        tokens_computed=read.tokens_computed,
        cached=read.tokens_computed == 0,
    )


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
