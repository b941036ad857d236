"""The whole flow of SAIF; start reading here.

prompt pairs → residual stream → latent activations → latent scores → steering vector → generation

Source: SAIF (arXiv 2502.11356), reconstructed. ``read="response"`` and steering below the last
layer are ours: on small models they are what makes steering work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from saif_core.finding.ranking import choose_latents, rank_latents
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import ChosenLatent, Ranking, RankingRequest
from saif_core.records.steering import GenerationRequest
from saif_core.records.texts import GenerationResult
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.writing.run import steer


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
        {sae.id: sae},
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
