"""The whole flow of SAIF; start reading here.

prompt pairs → residual stream → latent activations → what to steer with → edits → texts

Source: SAIF (arXiv 2502.11356), reconstructed. Reading the answer and steering below the last layer
are ours: on small models they are what makes steering work.
"""

from collections.abc import Sequence

from saif_core.finding.learning import learn
from saif_core.finding.study import Study
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.questions import LearnRequest, LearnResult
from saif_core.records.ranking import Ranking, RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, GenerationRequest, Sampling
from saif_core.records.texts import GenerationResult
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.tensors import Tensors
from saif_core.writing.run import generate


def rank_latents(
    model: LoadedModel,
    sae: LoadedSae,
    request: RankingRequest,
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> Ranking:
    """Prompt pairs → latents ordered by how much the instruction moves them."""
    return Study(model, [sae], request, cache=cache, step=step).ranking(sae.layer)


def make_edits(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    request: LearnRequest,
    *,
    cache: ActivationCache | None = None,
    tensors: Tensors | None = None,
    step: Step | None = None,
) -> LearnResult:
    """Prompt pairs → what is written after which blocks, as a source makes it.

    Args:
        saes: those of the request, in its order.
        tensors: where what a source learns is kept.
    """
    study = Study(
        model,
        saes,
        request.ranking,
        layers=request.layers,
        cache=cache,
        tensors=tensors,
        step=step,
        seed=request.seed,
    )
    learned = learn(
        study,
        request.source,
        request.parameters,
        method=request.method,
        method_parameters=request.method_parameters,
        cache=cache,
    )
    return LearnResult(learned.edits, learned.origin)


def run_pipeline(
    model: LoadedModel,
    saes: Sequence[LoadedSae],
    request: LearnRequest,
    prompts: Sequence[str],
    *,
    strength: float = 1.0,
    sampling: Sampling | None = None,
    cache: ActivationCache | None = None,
) -> GenerationResult:
    """The flow from end to end: prompts answered without and with what a source made.

    Args:
        prompts: texts without the instruction.
        strength: 1 = as strongly as the latents fire on instructed prompts.
    """
    tensors = Tensors()
    made = make_edits(model, saes, request, cache=cache, tensors=tensors)
    steered = Arm("steered", edits=made.edits, strength=strength, origin=made.origin)
    asked = GenerationRequest(
        prompts=tuple(prompts),
        arms=(UNSTEERED, steered),
        sampling=sampling or Sampling(),
        instruction=request.ranking.instruction,
    )
    return generate(model, {sae.id: sae for sae in saes}, asked, tensors=tensors)
