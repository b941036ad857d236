"""The whole flow of SAIF; start reading here.

prompt pairs → residual stream → latent activations → latent scores → steering vector → generation

Source: SAIF (arXiv 2502.11356), reconstructed. ``read="response"`` and steering below the last
layer are ours: on small models they are what makes steering work.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saif_core.errors import PromptPairError, SteeringError
from saif_core.judging.perplexity import read_perplexities
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.pairs import read_latents
from saif_core.records.texts import (
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
from saif_core.registry import SELECTORS
from saif_core.saes.latents import LatentActivations
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import promoted_tokens
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.target import choose_latents
from saif_core.versions import library_versions
from saif_core.writing.decoder import Row, RowRequest, decode
from saif_core.writing.divergence import read_changes

N_LISTED = 1000
N_WITH_TOKENS = 100

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
    saes: Mapping[str, LoadedSae],
    request: GenerationRequest,
    *,
    step: Step | None = None,
    on_token: Callable[[TokenEvent], None] | None = None,
) -> GenerationResult:
    """Every prompt answered by every arm, in one batch.

    Args:
        saes: every SAE that the arms take latents from, by id.

    Raises:
        SteeringError: no latent was chosen, or steering changed nothing.
        PromptPairError: a prompt is empty.
    """
    run = GenerationRun(model, saes, request)

    def on_step(n_done: int, texts: Sequence[Sequence[int]]) -> None:
        if step:
            step(n_done, request.max_new_tokens, "writing")
        for event in run.new_events(texts):
            if on_token:
                on_token(event)

    return run.result(decode(model, run.rows, on_step=on_step))


class GenerationRun:
    """A generation request on its way: the rows to write, their news, and what came of them.

    Whoever drives the decoder may write the rows of several runs together.

    Attributes:
        model: what writes them.
        rows: for every prompt, every arm's samples.

    Raises:
        PromptPairError: there is no prompt, or one is empty.
        SteeringError: two arms have one name, or an arm has nothing to steer with.
    """

    def __init__(
        self, model: LoadedModel, saes: Mapping[str, LoadedSae], request: GenerationRequest
    ) -> None:
        if not request.prompts:
            raise PromptPairError("Texts were asked for without a prompt; give one or more.")
        self.model, self._sae, self._request = model, saes[request.sae_id], request
        self._started = time.perf_counter()
        self._arms = request.all_arms
        names = [arm.name for arm in self._arms]
        if len(set(names)) < len(names):
            raise SteeringError("Two arms have the same name; give each a name of its own.")
        histories = request.histories or ((),) * len(self._arms)
        if len(histories) != len(self._arms):
            raise SteeringError(
                f"{len(histories)} chat histories were given for {len(self._arms)} arms; give each "
                "arm its own."
            )
        builder = ArmBuilder(model, saes)
        changes = [(builder.steering(arm), builder.logit_bias(arm)) for arm in self._arms]
        self.rows: list[RowRequest] = []
        self._labels: list[tuple[int, str, int]] = []
        for prompt_index, text in enumerate(request.prompts):
            for arm, history, (steering, bias) in zip(self._arms, histories, changes, strict=True):
                prompt = builder.prompt(arm, text, chat=request.chat, history=history)
                for sample in range(request.samples):
                    self._labels.append((prompt_index, arm.name, sample))
                    self.rows.append(
                        RowRequest(
                            prompt=prompt,
                            max_new_tokens=request.max_new_tokens,
                            temperature=request.temperature,
                            seed=request.seed,
                            sample=sample,
                            steering=steering,
                            logit_bias=bias,
                        )
                    )
        self._n_sent = [-1] * len(self.rows)

    def new_events(self, texts: Sequence[Sequence[int]]) -> Iterator[TokenEvent]:
        """Events for the rows that have grown since the last call.

        Args:
            texts: token ids of every row so far.
        """
        for row, token_ids in enumerate(texts):
            if len(token_ids) > self._n_sent[row]:
                self._n_sent[row] = len(token_ids)
                prompt_index, arm, sample = self._labels[row]
                text = self.model.decode(token_ids)
                yield TokenEvent(prompt_index, arm, text, len(token_ids), sample)

    def result(self, rows: Sequence[Row]) -> GenerationResult:
        """What came of the finished rows, with how natural the unsteered model finds them."""
        model, request = self.model, self._request
        # The unsteered arm's prompt is what every text is judged after.
        per_prompt = len(self._arms) * request.samples
        plain = [rows[at - at % per_prompt].request.prompt for at in range(len(rows))]
        perplexities = read_perplexities(model, plain, [row.token_ids for row in rows])
        changes = read_changes(model, rows, plain) if request.divergence else [()] * len(rows)
        generations = tuple(
            Generation(
                prompt_index=prompt_index,
                prompt=request.prompts[prompt_index],
                arm=arm,
                text=model.decode(row.token_ids),
                token_ids=tuple(row.token_ids),
                stopped="end" if row.ended else "length",
                perplexity=perplexity,
                sample=sample,
                changes=changed,
            )
            for (prompt_index, arm, sample), row, perplexity, changed in zip(
                self._labels, rows, perplexities, changes, strict=True
            )
        )
        # A row of the steered arm, which follows the unsteered one.
        reported = rows[request.samples]
        return GenerationResult(
            recipe=_recipe(model, self._sae, request),
            generations=generations,
            vector_norm=reported.added_norm,
            resid_share=reported.added_norm / max(reported.resid_norm, 1e-9),
            seconds=time.perf_counter() - self._started,
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
        first=request.first,
        decay=request.decay,
        decay_power=request.decay_power,
        keep_norm=request.keep_norm,
        chat=request.chat,
        chat_template_sha256=model.chat_template_sha256,
        max_new_tokens=request.max_new_tokens,
        temperature=request.temperature,
        seed=request.seed,
        samples=request.samples,
        instruction=request.instruction,
        read=request.read,
        selector=request.selector,
        arms=request.arms,
        histories=request.histories,
        versions=library_versions(),
    )
