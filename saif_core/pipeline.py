"""The whole flow of SAIF; start reading here.

prompt pairs → residual stream → latent activations → latent scores → steering vector → generation

Source: SAIF (arXiv 2502.11356), reconstructed. ``read="response"`` and steering below the last
layer are ours: on small models they are what makes steering work.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from saif_core.explain.logit_lens import promoted_tokens
from saif_core.generation import Steering, decode_batch
from saif_core.latents import LatentActivations
from saif_core.models import LoadedModel
from saif_core.perplexity import read_perplexities
from saif_core.reading import read_latents
from saif_core.records import (
    ActivationCache,
    ChosenLatent,
    Generation,
    GenerationRequest,
    GenerationResult,
    LatentScore,
    Ranking,
    RankingRequest,
    SteeringRecipe,
    TokenEvent,
)
from saif_core.registry import SELECTORS, STEERING_METHODS
from saif_core.saes import LoadedSae
from saif_core.steering_vector import build_steering_vector, choose_latents
from saif_core.versions import library_versions

N_LISTED = 1000
N_WITH_TOKENS = 100
ARMS = ("unsteered", "steered")

Step = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PipelineResult:
    """What the whole flow found and wrote."""

    ranking: Ranking
    latents: tuple[ChosenLatent, ...]
    result: GenerationResult


def run_pipeline(
    model: LoadedModel,
    sae: LoadedSae,
    request: RankingRequest,
    prompts: Sequence[str],
    *,
    beta: float = 0.0,
    strength: float = 1.0,
    max_new_tokens: int = 48,
    cache: ActivationCache | None = None,
) -> PipelineResult:
    """Rank the latents of an instruction, build its steering vector and answer prompts with it.

    Args:
        request: pairs, reading position and selector.
        prompts: texts without the instruction.
        beta: coefficient of a latent = mean + beta x standard deviation of its activation.
        strength: 1 = as strongly as the latents fire on instructed prompts.
    """
    ranking = rank_latents(model, sae, request, cache=cache)
    latents = choose_latents(ranking, beta=beta)
    result = steer(
        model,
        sae,
        GenerationRequest(
            sae_id=sae.id,
            prompts=tuple(prompts),
            latents=latents,
            strength=strength,
            chat=request.chat,
            max_new_tokens=max_new_tokens,
            instruction=request.instruction,
            read=request.read,
            selector=request.selector,
        ),
    )
    return PipelineResult(ranking, latents, result)


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


def steer(
    model: LoadedModel,
    sae: LoadedSae,
    request: GenerationRequest,
    *,
    step: Step | None = None,
    on_token: Callable[[TokenEvent], None] | None = None,
) -> GenerationResult:
    """Every prompt answered unsteered and steered, in one batch.

    Raises:
        SteeringError: no latent was chosen, or steering changed nothing.
        PromptPairError: a prompt is empty.
    """
    started = time.perf_counter()
    steering = build_steering(sae, request)
    prompts = [model.encode_prompt(text, chat=request.chat) for text in request.prompts]
    rows = [prompt for prompt in prompts for _ in ARMS]
    n_sent = [-1] * len(rows)

    def on_step(n_done: int, texts: Sequence[Sequence[int]]) -> None:
        if step:
            step(n_done, request.max_new_tokens, "writing")
        for row, token_ids in enumerate(texts):
            if on_token and len(token_ids) > n_sent[row]:
                n_sent[row] = len(token_ids)
                on_token(
                    TokenEvent(
                        row // len(ARMS),
                        ARMS[row % len(ARMS)],
                        model.decode(token_ids),
                        len(token_ids),
                    )
                )

    decoded = decode_batch(
        model,
        rows,
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        seed=request.seed,
        steering=steering,
        on_step=on_step,
    )
    perplexities = read_perplexities(model, rows, [row.token_ids for row in decoded])
    generations = tuple(
        Generation(
            prompt_index=index // len(ARMS),
            prompt=request.prompts[index // len(ARMS)],
            arm=ARMS[index % len(ARMS)],
            text=model.decode(row.token_ids),
            token_ids=row.token_ids,
            stopped="end" if row.ended else "length",
            perplexity=perplexity,
        )
        for index, (row, perplexity) in enumerate(zip(decoded, perplexities, strict=True))
    )
    return GenerationResult(
        recipe=_recipe(model, sae, request),
        generations=generations,
        vector_norm=steering.added_norm,
        resid_share=steering.added_norm / max(steering.resid_norm, 1e-9),
        seconds=time.perf_counter() - started,
    )


def build_steering(sae: LoadedSae, request: GenerationRequest) -> Steering:
    """The steering of a request: alternating rows of strength 0 and the strength asked for."""
    method = STEERING_METHODS.bind(request.method, request.method_parameters)
    direction = build_steering_vector(sae, request.latents)
    return Steering(
        layer=sae.layer,
        delta=lambda resid: method(resid, direction, sae),
        strengths=(0.0, request.strength) * len(request.prompts),
        scope=request.scope,
    )


def _recipe(model: LoadedModel, sae: LoadedSae, request: GenerationRequest) -> SteeringRecipe:
    return SteeringRecipe(
        model=model.id,
        model_sha256=model.sha256,
        sae=sae.id,
        sae_sha256=sae.sha256,
        hook_point=sae.hook_point,
        latents=request.latents,
        strength=request.strength,
        method=request.method,
        method_parameters=dict(request.method_parameters),
        scope=request.scope,
        chat=request.chat,
        chat_template_sha256=model.chat_template_sha256,
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        seed=request.seed,
        instruction=request.instruction,
        read=request.read,
        selector=request.selector,
        versions=library_versions(),
    )
