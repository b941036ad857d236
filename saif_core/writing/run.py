"""Step 7: a generation request → the rows that a decoder writes, and what came of them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from saif_core.errors import PromptPairError, SteeringError
from saif_core.judging.perplexity import read_perplexities
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.jobs import Step
from saif_core.records.steering import UNSTEERED, GenerationRequest, SteeringRecipe
from saif_core.records.texts import Generation, GenerationResult, TokenEvent
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.arms import ArmBuilder, plugin_hashes, sae_ids
from saif_core.steering.tensors import Tensors
from saif_core.versions import library_versions
from saif_core.writing.decoder import Row, RowRequest, decode
from saif_core.writing.divergence import read_changes


def generate(
    model: LoadedModel,
    saes: Mapping[str, LoadedSae],
    request: GenerationRequest,
    *,
    tensors: Tensors | None = None,
    step: Step | None = None,
    on_token: Callable[[TokenEvent], None] | None = None,
) -> GenerationResult:
    """Every prompt answered by every arm, in one batch.

    Args:
        saes: every SAE that the arms take latents from, by id.
        tensors: where the tensors of their edits are found.

    Raises:
        SteeringError: an arm has nothing to steer with, or steering changed nothing.
        PromptPairError: a prompt is empty.
    """
    run = GenerationRun(model, saes, request, tensors)

    def on_step(n_done: int, texts: Sequence[Sequence[int]]) -> None:
        if step:
            step(n_done, request.sampling.max_new_tokens, "writing")
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
        self,
        model: LoadedModel,
        saes: Mapping[str, LoadedSae],
        request: GenerationRequest,
        tensors: Tensors | None = None,
    ) -> None:
        check_generation(request)
        self.model, self._saes, self._request = model, saes, request
        self._started = time.perf_counter()
        self._builder = ArmBuilder(model, saes, tensors)
        self.rows: list[RowRequest] = []
        self._labels: list[tuple[int, str, int]] = []
        self._plain: list[tuple[int, ...]] = []
        for number in range(len(request.prompts)):
            self._add_rows(number)
        self._n_sent = [-1] * len(self.rows)

    def _add_rows(self, number: int) -> None:
        """The rows of one prompt: every arm's samples."""
        request, sampling = self._request, self._request.sampling
        text = request.prompts[number]
        histories = request.histories or ((),) * len(request.arms)
        for arm, history in zip(request.arms, histories, strict=True):
            written = self._builder.write(arm)
            prompt = self._builder.prompt(arm, text, sampling, history)
            # Found before it joins others, whose texts it would end.
            self.model.check_length(len(prompt) + sampling.max_new_tokens)
            # What the unsteered model would have seen is what every text is judged after.
            plain = self._builder.prompt(UNSTEERED, text, sampling, histories[0])
            self.model.check_length(len(plain) + sampling.max_new_tokens)
            for sample in range(sampling.samples):
                self._labels.append((number, arm.name, sample))
                self._plain.append(plain)
                self.rows.append(
                    RowRequest(
                        prompt=prompt,
                        max_new_tokens=sampling.max_new_tokens,
                        temperature=sampling.temperature,
                        seed=sampling.seed,
                        sample=sample,
                        steering=written.steering,
                        logit_bias=written.logit_bias,
                        forced=written.forced,
                        top_p=sampling.top_p,
                        stop=sampling.stop,
                    )
                )

    def new_events(self, texts: Sequence[Sequence[int]]) -> Iterator[TokenEvent]:
        """Events for the rows that have grown since the last call.

        Args:
            texts: token ids of every row so far.
        """
        for row, token_ids in enumerate(texts):
            if len(token_ids) > self._n_sent[row]:
                self._n_sent[row] = len(token_ids)
                prompt_index, arm, sample = self._labels[row]
                text = self._text(token_ids)
                yield TokenEvent(prompt_index, arm, text, len(token_ids), sample)

    def result(self, rows: Sequence[Row]) -> GenerationResult:
        """What came of the finished rows, with how natural the unsteered model finds them."""
        model, request = self.model, self._request
        perplexities = read_perplexities(model, self._plain, [row.token_ids for row in rows])
        changes = read_changes(model, rows, self._plain) if request.divergence else [()] * len(rows)
        generations = tuple(
            Generation(
                prompt_index=prompt_index,
                prompt=request.prompts[prompt_index],
                arm=arm,
                text=self._text(row.token_ids),
                token_ids=tuple(row.token_ids),
                stopped="end" if row.ended else "stop" if row.stopped else "length",
                perplexity=perplexity,
                sample=sample,
                changes=changed,
            )
            for (prompt_index, arm, sample), row, perplexity, changed in zip(
                self._labels, rows, perplexities, changes, strict=True
            )
        )
        return GenerationResult(
            recipe=make_recipe(model, self._saes, request),
            generations=generations,
            seconds=time.perf_counter() - self._started,
            sizes=tuple(self._builder.size(arm) for arm in request.arms),
        )

    def _text(self, token_ids: Sequence[int]) -> str:
        text = self.model.decode(token_ids)
        ends = [at for stop in self._request.sampling.stop if (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text


def check_generation(request: GenerationRequest) -> None:
    """Raise a sentence for a request that cannot be carried out, whatever the model.

    Raises:
        PromptPairError: there is no prompt.
        SteeringError: there is no arm, two have one name, or a chat lacks the turns of one.
    """
    if not request.prompts:
        raise PromptPairError("Texts were asked for without a prompt; give one or more.")
    if not request.arms:
        raise SteeringError("Texts were asked for without an arm to write them; give one or more.")
    names = [arm.name for arm in request.arms]
    if len(set(names)) < len(names):
        raise SteeringError("Two arms have the same name; give each a name of its own.")
    if request.histories and len(request.histories) != len(request.arms):
        raise SteeringError(
            f"{len(request.histories)} chat histories were given for {len(request.arms)} arms; "
            "give each arm its own."
        )


def make_recipe(
    model: LoadedModel, saes: Mapping[str, LoadedSae], request: GenerationRequest
) -> SteeringRecipe:
    """A request with the hashes of everything that its texts depend on."""
    return SteeringRecipe(
        request=request,
        model=model.id,
        model_sha256=model.sha256,
        sae_sha256s={sae_id: saes[sae_id].sha256 for sae_id in sae_ids(request.arms)},
        plugin_sha256s=plugin_hashes(request.arms),
        chat_template_sha256=model.chat_template_sha256,
        dtype=str(model.dtype).removeprefix("torch."),
        versions=library_versions(),
    )
