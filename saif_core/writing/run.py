"""Step 7: a generation request → the rows that a decoder writes, and what came of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from saif_core.errors import PromptPairError, SteeringError
from saif_core.judging.perplexity import read_perplexities
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.jobs import Step
from saif_core.records.steering import GenerationRequest, SteeringRecipe
from saif_core.records.texts import Generation, GenerationResult, TokenEvent
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder
from saif_core.versions import library_versions
from saif_core.writing.decoder import Row, RowRequest, decode
from saif_core.writing.divergence import read_changes


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
