"""Everything that the engine can be asked, by name: a request record, a result record, the work.

A page, a command and a program elsewhere send the same request. What a task may use is its
``Bench``; it never sees who asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from saif_core.engine.describing import describe_latent_in_words
from saif_core.errors import BudgetError, SteeringError, StorageError
from saif_core.evaluating.evaluation import evaluate
from saif_core.evaluating.plan import check_request
from saif_core.explaining.contrast import contrast
from saif_core.explaining.corpus_index import index_corpus
from saif_core.explaining.health import measure_health
from saif_core.explaining.text_reading import read_activations, read_text, read_texts
from saif_core.explaining.token_change import read_token_change
from saif_core.explaining.vectors import (
    comparison_prompts,
    explain_vector,
    read_prompt_ends,
    steering_vector_at,
)
from saif_core.models.language_endpoint import LanguageEndpoint
from saif_core.models.loaded_model import LoadedModel
from saif_core.pipeline import make_edits, rank_latents
from saif_core.reading.mean_difference import read_mean_difference
from saif_core.reading.pairs import estimate_work, read_latents
from saif_core.records.corpus import IndexRequest
from saif_core.records.evaluation import Evaluation, EvaluationRequest
from saif_core.records.latents import LatentDetail, PairActivations, TextReading, TokenChange
from saif_core.records.notes import LatentDescription
from saif_core.records.ports import (
    ActivationCache,
    ContextStore,
    EvaluationLog,
    NoteLog,
    ProfileWriter,
)
from saif_core.records.prompts import PromptView
from saif_core.records.questions import (
    ContrastedLatent,
    ContrastReport,
    ContrastRequest,
    DescribeRequest,
    EstimateQuestion,
    HealthReport,
    HealthRequest,
    IndexReport,
    LatentOnText,
    LatentOnTextsAnswer,
    LatentOnTextsQuestion,
    LatentQuestion,
    LearnRequest,
    LearnResult,
    LoadRequest,
    ModelAnswer,
    ModelQuestion,
    PairQuestion,
    PromotedAnswer,
    PromotedQuestion,
    PromptQuestion,
    SaeAnswer,
    SaeQuestion,
    SizeAnswer,
    SizeQuestion,
    SpeedAnswer,
    SpeedQuestion,
    TextQuestion,
    TokenChangeQuestion,
    VectorQuestion,
)
from saif_core.records.ranking import Ranking, RankingRequest, WorkEstimate
from saif_core.records.steering import MAX_NEW_TOKENS, GenerationRequest
from saif_core.records.texts import GenerationResult
from saif_core.records.vectors import VectorReport
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import describe_latent, promoted_tokens
from saif_core.steering.arms import ArmBuilder, sae_ids
from saif_core.steering.target import VECTOR
from saif_core.steering.tensors import Tensors
from saif_core.writing.run import GenerationRun, check_generation
from saif_core.writing.speed import measure_speed

MAX_TEXTS = 256

# "question": somebody waits for the answer; "writing": texts, written together with others';
# "batch": gives way to both; "aside": needs no model of its own, so it runs beside everything.
Lane = Literal["question", "writing", "batch", "aside"]


class Bench(Protocol):
    """What a task works with."""

    cache: ActivationCache | None
    tensors: Tensors
    corpus: tuple[ContextStore, ProfileWriter] | None
    evaluations: EvaluationLog | None
    notes: NoteLog | None
    endpoint: LanguageEndpoint | None

    @property
    def model(self) -> LoadedModel:
        """The model, loaded if need be; not for tasks that run aside."""

    def sae(self, sae_id: str) -> LoadedSae:
        """An SAE of the model, loaded if need be; not for tasks that run aside."""

    def step(self, done: int, total: int, message: str) -> None:
        """Report progress; raises to stop, and lets what is more urgent go first."""

    def ask(self, request: Any) -> Any:
        """The engine's answer to another request; for tasks that run aside."""

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as texts; needs no model."""


@dataclass(frozen=True)
class Task:
    """One kind of work.

    Attributes:
        name: what jobs, addresses and programs call it.
        request, result: record types.
        run: does it.
        title: of a request, for lists of jobs.
        lane: what it waits for and what waits for it.
        check: raises a sentence for a request that cannot be carried out, before it is queued.
    """

    name: str
    request: type[Any]
    result: type[Any]
    run: Callable[[Any, Any], Any]
    title: Callable[[Any], str]
    lane: Lane = "question"
    check: Callable[[Any], None] = lambda _request: None

    @property
    def is_followed(self) -> bool:
        """Whether people follow it: then it is listed, and written down."""
        return self.lane != "question" and self.name != "load"


def _rank(bench: Bench, request: RankingRequest) -> Ranking:
    sae = bench.sae(request.sae_id)
    return rank_latents(bench.model, sae, request, cache=bench.cache, step=bench.step)


def _generate(bench: Bench, request: GenerationRequest) -> GenerationRun:
    """The rows to write; the engine writes them together with those of others."""
    saes = {sae_id: bench.sae(sae_id) for sae_id in sae_ids(request.arms)}
    return GenerationRun(bench.model, saes, request, bench.tensors)


def _check_texts(request: GenerationRequest) -> None:
    sampling = request.sampling
    if not 1 <= sampling.max_new_tokens <= MAX_NEW_TOKENS:
        raise BudgetError(
            f"{sampling.max_new_tokens} new tokens were asked for; ask for 1 to {MAX_NEW_TOKENS}."
        )
    if request.n_texts > MAX_TEXTS or sampling.samples < 1:
        raise BudgetError(
            f"{request.n_texts} texts were asked for at once; ask for 1 to {MAX_TEXTS}."
        )
    check_generation(request)


def _learn(bench: Bench, request: LearnRequest) -> LearnResult:
    asked = request.sae_ids or ((request.ranking.sae_id,) if not request.layers else ())
    saes = [bench.sae(sae_id) for sae_id in asked]
    return make_edits(
        bench.model, saes, request, cache=bench.cache, tensors=bench.tensors, step=bench.step
    )


def _evaluate(bench: Bench, request: EvaluationRequest) -> Evaluation:
    saes = [bench.sae(sae_id) for sae_id in request.sae_ids]
    evaluation, texts = evaluate(
        bench.model, saes, request, cache=bench.cache, tensors=bench.tensors, step=bench.step
    )
    if bench.evaluations is not None:
        bench.evaluations.save(evaluation, texts)
    return evaluation


def _index(bench: Bench, request: IndexRequest) -> IndexReport:
    if bench.corpus is None:
        raise StorageError(
            "A corpus was to be indexed, but this engine has no store for it; give it one."
        )
    saes = [bench.sae(sae_id) for sae_id in request.sae_ids]
    return index_corpus(bench.model, saes, request, *bench.corpus, step=bench.step)


def _load(bench: Bench, request: LoadRequest | SaeQuestion) -> SaeAnswer:
    sae = bench.sae(request.sae_id)
    return SaeAnswer(
        sae.id,
        sae.sha256,
        sae.hook_point,
        sae.layer,
        sae.d_sae,
        bench.model.d_model,
        sae.fvu,
        sae.warning,
        sae.sae.cfg.metadata.neuronpedia_id,
    )


def _model(bench: Bench, _request: ModelQuestion) -> ModelAnswer:
    model = bench.model
    return ModelAnswer(
        model.id,
        model.sha256,
        model.n_layers,
        model.d_model,
        model.d_vocab,
        str(model.dtype).removeprefix("torch."),
        model.chat_template_sha256,
    )


def _latent(bench: Bench, request: LatentQuestion) -> LatentDetail:
    return describe_latent(bench.model, bench.sae(request.sae_id), request.latent)


def _pairs(bench: Bench, request: PairQuestion) -> PairActivations:
    ranking, latent = request.ranking, request.latent
    sae = bench.sae(ranking.sae_id)
    sae.check_index(latent)
    read = read_latents(bench.model, sae, ranking, cache=bench.cache, step=bench.step)
    n_pairs = len(ranking.pairs)
    return PairActivations(
        latent,
        tuple(read.positive.latent_by_prompt(latent, n_pairs).tolist()),
        tuple(read.negative.latent_by_prompt(latent, n_pairs).tolist()),
    )


def _prompt(bench: Bench, request: PromptQuestion) -> PromptView:
    return bench.model.view_prompt(request.text, chat=request.chat, system=request.system)


def _estimate(bench: Bench, request: EstimateQuestion) -> WorkEstimate:
    ranking = request.ranking
    return estimate_work(bench.model, bench.sae(ranking.sae_id), ranking, bench.cache)


def _size(bench: Bench, request: SizeQuestion) -> SizeAnswer:
    saes = {sae_id: bench.sae(sae_id) for sae_id in sae_ids([request.arm])}
    return SizeAnswer(ArmBuilder(bench.model, saes, bench.tensors).size(request.arm))


def _speed(bench: Bench, _request: SpeedQuestion) -> SpeedAnswer:
    return SpeedAnswer(measure_speed(bench.model))


def _promoted(bench: Bench, request: PromotedQuestion) -> PromotedAnswer:
    sae = bench.sae(request.sae_id)
    for latent in request.latents:
        sae.check_index(latent)
    found = promoted_tokens(bench.model, sae, list(request.latents), n=request.n)
    return PromotedAnswer(tuple(tuple(tokens) for tokens in found))


def _read(bench: Bench, request: TextQuestion) -> TextReading:
    return read_text(bench.model, bench.sae(request.sae_id), request.text, chat=request.chat)


def _latent_on_texts(bench: Bench, request: LatentOnTextsQuestion) -> LatentOnTextsAnswer:
    sae = bench.sae(request.sae_id)
    read = (
        read_activations(bench.model, sae, request.latent, text, chat=request.chat)
        for text in request.texts
    )
    return LatentOnTextsAnswer(tuple(LatentOnText(*both) for both in read))


def _token_change(bench: Bench, request: TokenChangeQuestion) -> TokenChange:
    contexts = [list(context) for context in request.contexts]
    return read_token_change(
        bench.model, bench.sae(request.sae_id), request.latent, request.value, contexts
    )


def _vector(bench: Bench, request: VectorQuestion) -> VectorReport:
    sae, asked = bench.sae(request.sae_id), request.ranking
    prompts = comparison_prompts(asked)
    resid = read_prompt_ends(bench.model, sae.layer, prompts, chat=asked.chat if asked else True)
    if request.tensors:
        vector = _given_vector(bench, request.tensors)
    elif request.latents:
        vector = steering_vector_at(sae, request.latents, resid)
    elif asked is not None:
        vector = read_mean_difference(
            bench.model, asked, [sae.layer], cache=bench.cache, step=bench.step
        )[sae.layer]
    else:
        raise BudgetError("No vector was given; give pairs, an uploaded vector or latents.")
    return explain_vector(bench.model, sae, vector, resid, n_atoms=request.atoms)


def _given_vector(bench: Bench, sha256: str) -> Tensor:
    tensors, d_model = bench.tensors.get(sha256), bench.model.d_model
    if VECTOR not in tensors or tensors[VECTOR].shape != (d_model,):
        raise SteeringError(
            f"A vector was to be taken apart, but the tensors {sha256[:12]} hold none of {d_model} "
            f"numbers called {VECTOR!r}; give one number for each dimension of the residual stream."
        )
    return tensors[VECTOR]


def _contrast(bench: Bench, request: ContrastRequest) -> ContrastReport:
    sae = bench.sae(request.sae_id)
    first, second = (
        read_texts(bench.model, sae, texts, chat=request.chat, step=bench.step)
        for texts in (request.first, request.second)
    )
    found = contrast(first, second)
    best = found.best.tolist()
    promotes = promoted_tokens(bench.model, sae, best, n=10)
    return ContrastReport(
        tuple(
            ContrastedLatent(latent, float(found.effect[latent]), float(found.auc[latent]), p, told)
            for latent, p, told in zip(best, found.p_values.tolist(), promotes, strict=True)
        ),
        found.n_ranking,
        found.n_held_out,
    )


def _health(bench: Bench, request: HealthRequest) -> HealthReport:
    sae = bench.sae(request.sae_id)
    return HealthReport(measure_health(bench.model, sae, cache=bench.cache, step=bench.step))


def _describe(bench: Bench, request: DescribeRequest) -> LatentDescription:
    if bench.endpoint is None:
        raise StorageError(
            "A latent was to be described, but no language model is set; set SAIF_LLM_URL and "
            "SAIF_LLM_MODEL to an OpenAI-compatible endpoint."
        )
    described = describe_latent_in_words(bench.endpoint, request, ask=bench.ask, step=bench.step)
    if bench.notes is not None:
        bench.notes.add_description(described)
    return described


TASKS: tuple[Task, ...] = (
    Task(
        "rank",
        RankingRequest,
        Ranking,
        _rank,
        lambda asked: f"Find latents for {asked.instruction}",
        "batch",
    ),
    Task(
        "generate",
        GenerationRequest,
        GenerationResult,
        _generate,
        lambda asked: f"Generate {asked.n_texts} text{'' if asked.n_texts == 1 else 's'}",
        "writing",
        _check_texts,
    ),
    Task(
        "learn",
        LearnRequest,
        LearnResult,
        _learn,
        lambda asked: f"Make {asked.source.replace('_', ' ')} for {asked.ranking.instruction}",
        "batch",
    ),
    Task(
        "evaluate",
        EvaluationRequest,
        Evaluation,
        _evaluate,
        lambda asked: f"Evaluate {asked.instruction.name}",
        "batch",
        check_request,
    ),
    Task("index", IndexRequest, IndexReport, _index, lambda asked: f"Index {asked.name}", "batch"),
    Task(
        "contrast",
        ContrastRequest,
        ContrastReport,
        _contrast,
        lambda asked: f"Compare {len(asked.first)} with {len(asked.second)} texts",
        "batch",
    ),
    Task("vector", VectorQuestion, VectorReport, _vector, lambda _: "Take a vector apart", "batch"),
    Task(
        "health",
        HealthRequest,
        HealthReport,
        _health,
        lambda asked: f"Measure {asked.sae_id}",
        "batch",
    ),
    Task("load", LoadRequest, SaeAnswer, _load, lambda asked: f"Load {asked.sae_id}", "batch"),
    Task(
        "describe",
        DescribeRequest,
        LatentDescription,
        _describe,
        lambda asked: f"Describe latent {asked.chosen.index}",
        "aside",
    ),
    Task("model", ModelQuestion, ModelAnswer, _model, lambda _: "Check the model"),
    Task("sae", SaeQuestion, SaeAnswer, _load, lambda asked: f"Check {asked.sae_id}"),
    Task("latent", LatentQuestion, LatentDetail, _latent, lambda asked: f"Latent {asked.latent}"),
    Task(
        "pairs",
        PairQuestion,
        PairActivations,
        _pairs,
        lambda asked: f"Latent {asked.latent} on pairs",
    ),
    Task("prompt", PromptQuestion, PromptView, _prompt, lambda _: "Show a prompt"),
    Task("estimate", EstimateQuestion, WorkEstimate, _estimate, lambda _: "Estimate a ranking"),
    Task("size", SizeQuestion, SizeAnswer, _size, lambda _: "Measure a steering vector"),
    Task("speed", SpeedQuestion, SpeedAnswer, _speed, lambda _: "Measure the speed"),
    Task(
        "promoted",
        PromotedQuestion,
        PromotedAnswer,
        _promoted,
        lambda _: "Tokens that latents promote",
    ),
    Task("read", TextQuestion, TextReading, _read, lambda _: "Read a text"),
    Task(
        "latent-on-texts",
        LatentOnTextsQuestion,
        LatentOnTextsAnswer,
        _latent_on_texts,
        lambda asked: f"Latent {asked.latent} on texts",
    ),
    Task(
        "token-change",
        TokenChangeQuestion,
        TokenChange,
        _token_change,
        lambda asked: f"Token change of latent {asked.latent}",
    ),
)
