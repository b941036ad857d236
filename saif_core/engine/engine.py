"""The engine: one worker thread owns the model; everyone else submits requests and reads events.

Interactive requests (generation, a latent's page) go before batch work (rankings), which gives way
in the middle of a forward pass. Generations that arrive while others are being written join them.
"""

import gc
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import torch

from saif_core.catalog import Catalog, resolve_device, resolve_dtype
from saif_core.engine.job import Job
from saif_core.engine.memory import explain_out_of_memory
from saif_core.engine.shared_writing import SharedWriting
from saif_core.errors import BudgetError, SaifError, StorageError
from saif_core.evaluating.evaluation import evaluate
from saif_core.evaluating.plan import check_request
from saif_core.explaining.corpus_index import index_corpus
from saif_core.explaining.neighbours import DecoderShelf
from saif_core.finding.ranking import rank_latents
from saif_core.finding.sources.mean_difference import read_mean_difference
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.loaded_model import FOUR_BIT, LoadedModel
from saif_core.reading.pairs import estimate_work, read_latents
from saif_core.records.as_json import to_json
from saif_core.records.corpus import IndexRequest, LatentIndex
from saif_core.records.evaluation import Evaluation, EvaluationRequest
from saif_core.records.jobs import JobRecord, Step
from saif_core.records.ports import (
    ActivationCache,
    ContextStore,
    EvaluationLog,
    JobLog,
    ProfileWriter,
)
from saif_core.records.prompts import PromptView
from saif_core.records.ranking import (
    LatentDetail,
    PairActivations,
    Ranking,
    RankingRequest,
    WorkEstimate,
)
from saif_core.records.saes import SaeInfo
from saif_core.records.steering import GenerationRequest
from saif_core.registry import load_plugins
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.saes.logit_lens import describe_latent
from saif_core.steering.arms import ArmBuilder, sae_ids
from saif_core.writing.run import GenerationRun

INTERACTIVE, BATCH = 0, 1
# Answered while someone waits for them, so no list of jobs need show them.
QUESTIONS = ("detail", "pairs", "view", "estimate", "size", "question")
MAX_NEW_TOKENS = 2048
MAX_TEXTS = 256
KEPT_JOBS = 200
BEAT_SECONDS = 10.0
log = logging.getLogger(__name__)
T = TypeVar("T")


class EngineStatus(NamedTuple):
    """What the engine is doing; ``memory_bytes`` is the model's and the SAEs' weights."""

    device: str
    dtype: str
    model_id: str
    model_loaded: bool
    memory_bytes: int
    running: list[JobRecord]


class Engine:
    """Queue in front of one model on one device.

    Args:
        catalog: where models and SAEs come from.
        model_id: the model to own; loaded at the first request that needs it.
        cache: keeps latent activations and responses between runs.
        job_log: is told the state of everything that people follow.
        corpus: where the contexts and the profiles of an index go.
        evaluations: keeps finished evaluations.
        device, dtype: see ``Catalog.load_model``.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        model_id: str = DEFAULT_MODEL,
        cache: ActivationCache | None = None,
        job_log: JobLog | None = None,
        corpus: tuple[ContextStore, ProfileWriter] | None = None,
        evaluations: EvaluationLog | None = None,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        load_plugins()  # a broken plug-in stops the start, not somebody's first request
        self.model_id = model_id
        self._catalog = catalog
        self._cache = cache
        self._job_log = job_log
        self._corpus = corpus
        self._evaluations = evaluations
        self._device = resolve_device(device)
        self._dtype = dtype
        resolve_dtype(dtype, self._device)
        self._model: LoadedModel | None = None
        self._saes: dict[str, LoadedSae] = {}
        self._details: dict[tuple[str, int], LatentDetail] = {}
        self._jobs: dict[str, Job] = {}
        self._queue: queue.PriorityQueue[tuple[int, int, Job | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._closed = False
        self._last_beat = 0.0
        self._worker = threading.Thread(target=self._work, name="saif-engine", daemon=True)
        self._worker.start()

    def rank(self, request: RankingRequest) -> Job:
        """Queue a ranking; the job's result is a ``Ranking``."""

        def work(job: Job) -> Ranking:
            model, sae = self._load(request.sae_id, job)
            with model.giving_way(self._someone_waits, self._serve_waiting):
                return rank_latents(
                    model, sae, request, cache=self._cache, step=self._yielding(job)
                )

        title = f"Find latents for {request.instruction}"
        return self._submit(self._job("rank", title, request, work, summarize=to_json))

    def generate(self, request: GenerationRequest) -> Job:
        """Queue a generation; events carry the tokens, the result is a ``GenerationResult``."""
        if not 1 <= request.max_new_tokens <= MAX_NEW_TOKENS:
            raise BudgetError(
                f"{request.max_new_tokens} new tokens were asked for; "
                f"ask for 1 to {MAX_NEW_TOKENS}."
            )

        if request.n_texts > MAX_TEXTS or request.samples < 1:
            raise BudgetError(
                f"{request.n_texts} texts were asked for at once; ask for 1 to {MAX_TEXTS}."
            )

        def work(job: Job) -> GenerationRun:
            ids = dict.fromkeys([request.sae_id, *sae_ids(request.all_arms)])
            saes = {sae_id: self._load(sae_id, job)[1] for sae_id in ids}
            return GenerationRun(self._load_model(job), saes, request)

        title = f"Generate {request.n_texts} texts"
        return self._submit(self._job("generate", title, request, work, summarize=to_json))

    def latent_detail(self, sae_id: str, index: int) -> LatentDetail:
        """Tokens and neighbours of one latent.

        Raises:
            UnknownLatentError: there is no such latent.
        """
        if (sae_id, index) not in self._details:

            def work(job: Job) -> LatentDetail:
                return describe_latent(*self._load(sae_id, job), index)

            detail: LatentDetail = self._ask("detail", f"Latent {index}", work)
            self._details[sae_id, index] = detail
        return self._details[sae_id, index]

    def pair_activations(self, request: RankingRequest, index: int) -> PairActivations:
        """Activation of one latent on every pair; computes nothing after a ranking of the same."""

        def work(job: Job) -> PairActivations:
            model, sae = self._load(request.sae_id, job)
            sae.check_index(index)
            read = read_latents(model, sae, request, cache=self._cache, step=job.step)
            n_pairs = len(request.pairs)
            return PairActivations(
                index,
                tuple(read.positive.latent_by_prompt(index, n_pairs).tolist()),
                tuple(read.negative.latent_by_prompt(index, n_pairs).tolist()),
            )

        activations: PairActivations = self._ask("pairs", f"Latent {index} on pairs", work)
        return activations

    def prompt_view(self, text: str, *, chat: bool) -> PromptView:
        """A prompt as the model sees it.

        Raises:
            PromptPairError: it is empty.
        """
        view: PromptView = self._ask(
            "view", "Show a prompt", lambda job: self._load_model(job).view_prompt(text, chat=chat)
        )
        return view

    def estimate(self, request: RankingRequest) -> WorkEstimate:
        """What a ranking would cost, counted without running the model."""

        def work(job: Job) -> WorkEstimate:
            return estimate_work(*self._load(request.sae_id, job), request, self._cache)

        estimate: WorkEstimate = self._ask("estimate", "Estimate a ranking", work)
        return estimate

    def vector_size(self, request: GenerationRequest) -> tuple[float, float]:
        """Norm of strength × steering vector, and its share of the residual norm at the end."""

        def work(job: Job) -> tuple[float, float]:
            model, sae = self._load(request.sae_id, job)
            prompt = request.prompts[0] if request.prompts else ""
            token_ids = model.encode_prompt(prompt or "The", chat=request.chat)
            resid = model.resid_at_end(token_ids, sae.layer)[None, None]
            steered = ArmBuilder(model, {sae.id: sae}).steering(request.all_arms[1])[0]
            added = float(steered.delta(resid).float().norm()) * abs(request.strength)
            return added, added / float(resid.norm())

        size: tuple[float, float] = self._ask("size", "Measure a steering vector", work)
        return size

    def mean_difference(self, request: RankingRequest, layers: Sequence[int]) -> Job:
        """Queue a mean difference; the result is a vector (d_model,) for each layer, as tuples."""

        def work(
            model: LoadedModel, _saes: Sequence[LoadedSae], step: Step
        ) -> dict[int, tuple[float, ...]]:
            found = read_mean_difference(model, request, layers, cache=self._cache, step=step)
            return {layer: tuple(vector.tolist()) for layer, vector in found.items()}

        title = f"Mean difference for {request.instruction}"
        return self.work("mean-difference", title, [], work, request=request)

    def evaluate(self, request: EvaluationRequest) -> Job:
        """Queue an evaluation; the job's result is an ``Evaluation``, which is kept with its texts.

        Raises:
            EvaluatorError: the request cannot be carried out.
        """
        check_request(request)

        def work(model: LoadedModel, saes: Sequence[LoadedSae], step: Step) -> Evaluation:
            evaluation, texts = evaluate(model, saes, request, cache=self._cache, step=step)
            if self._evaluations is not None:
                self._evaluations.save(evaluation, texts)
            return evaluation

        title = f"Evaluate {request.instruction.name}"
        return self.work("evaluate", title, request.sae_ids, work, request=request)

    def index(self, request: IndexRequest) -> Job:
        """Queue the reading of a corpus; the job's result is a list of ``LatentIndex``.

        Raises:
            StorageError: the engine was given no corpus store.
        """
        corpus = self._corpus
        if corpus is None:
            raise StorageError(
                "A corpus was to be indexed, but this engine has no store for it; give it one."
            )

        def work(model: LoadedModel, saes: Sequence[LoadedSae], step: Step) -> list[LatentIndex]:
            return index_corpus(model, saes, request, *corpus, step=step)

        return self.work("index", f"Index {request.name}", request.sae_ids, work)

    def ask(self, title: str, sae_id: str, question: Callable[[LoadedModel, LoadedSae], T]) -> T:
        """The answer to a short question about an SAE and its model; waits for it.

        Args:
            title: names the question in errors.
            question: runs on the worker's thread.
        """
        answer: T = self._ask("question", title, lambda job: question(*self._load(sae_id, job)))
        return answer

    def work(
        self,
        kind: str,
        title: str,
        sae_ids: Sequence[str],
        work: Callable[[LoadedModel, Sequence[LoadedSae], Step], Any],
        *,
        request: Any = None,
    ) -> Job:
        """Queue batch work on SAEs of the model; it gives way to whoever waits for an answer.

        Args:
            kind: "index", "contrast" …, for lists of jobs.
            work: runs on the worker's thread; calls its last argument between steps.
            request: kept with the job.
        """

        def run(job: Job) -> Any:
            saes = [self._load(sae_id, job)[1] for sae_id in sae_ids]
            model = self._load_model(job)
            with model.giving_way(self._someone_waits, self._serve_waiting):
                return work(model, saes, self._yielding(job))

        return self._submit(self._job(kind, title, request, run), BATCH)

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as texts; needs the tokenizer alone, not the model."""
        tokenizer = self._model.tokenizer if self._model else self._tokenizer
        return [tokenizer.decode([token_id]) for token_id in token_ids]

    @cached_property
    def _tokenizer(self) -> Any:
        return self._catalog.load_tokenizer(self.model_id)

    @cached_property
    def decoders(self) -> DecoderShelf:
        """Decoder directions of the model's SAEs; needs neither the model nor the worker."""
        return DecoderShelf(self._catalog, self.model_id)

    def load(self, sae_id: str) -> tuple[LoadedModel, LoadedSae]:
        """Load the model and an SAE now; for diagnosis and notebooks, not for script threads.

        Raises:
            SaifError: one of them cannot be loaded.
        """
        loaded: tuple[LoadedModel, LoadedSae] = self._ask(
            "load", f"Load {sae_id}", lambda job: self._load(sae_id, job)
        )
        return loaded

    def warm_up(self, sae_id: str) -> Job:
        """Queue the loading of the model and an SAE, so that the first request does not wait."""
        return self._submit(
            self._job("load", f"Load {sae_id}", sae_id, lambda job: self._load(sae_id, job)), BATCH
        )

    def saes(self) -> list[SaeInfo]:
        """SAEs that can be chosen for the engine's model."""
        return self._catalog.saes(self.model_id)

    def refused_saes(self) -> list[SaeInfo]:
        """SAEs that were named for the engine's model but cannot be used; each says why."""
        return [info for info in self._catalog.offered_saes(self.model_id) if info.unsupported]

    def sae_warning(self, sae_id: str) -> str:
        """What speaks against an SAE that is loaded and fits, in a sentence; else ""."""
        loaded = self._saes.get(sae_id)
        return loaded.warning if loaded else ""

    def status(self) -> EngineStatus:
        """Device, memory and what is running."""
        model = self._model
        tensors: list[torch.Tensor] = list(model.hf_model.parameters()) if model else []
        for sae in list(self._saes.values()):
            tensors += list(sae.sae.parameters())
        running = [job.record for job in self.jobs() if not job.finished()]
        return EngineStatus(
            self._device,
            FOUR_BIT
            if self._dtype == FOUR_BIT
            else str(resolve_dtype(self._dtype, self._device)).removeprefix("torch."),
            self.model_id,
            model is not None,
            sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            running,
        )

    def jobs(self) -> list[Job]:
        """Rankings, generations and loads of this process, newest first."""
        return list(reversed(list(self._jobs.values())))

    def job(self, job_id: str) -> Job | None:
        """A job of this process."""
        return self._jobs.get(job_id)

    def close(self) -> None:
        """Stop the worker after its current step and free the model."""
        self._closed = True
        for job in self.jobs():
            job.cancel()
        self._queue.put((INTERACTIVE, -1, None))
        self._worker.join(timeout=30)
        self._model = None
        self._saes.clear()

    def _submit(self, job: Job, priority: int | None = None) -> Job:
        if self._closed:
            raise SaifError("The engine is closed; start SAIF again.")
        if job.kind not in QUESTIONS:
            self._jobs[job.id] = job
            for old in [j for j in self._jobs.values() if j.finished()][:-KEPT_JOBS]:
                self._jobs.pop(old.id, None)
        if priority is None:
            priority = BATCH if job.kind == "rank" else INTERACTIVE
        self._queue.put((priority, next(self._numbers), job))
        return job

    def _job(
        self,
        kind: str,
        title: str,
        request: Any,
        work: Callable[[Job], Any],
        *,
        summarize: Callable[[Any], dict[str, Any] | None] = lambda _result: None,
    ) -> Job:
        # Only work that people follow is written down; a look at a latent is not.
        log = self._job_log if kind not in (*QUESTIONS, "load") else None

        def explain(error: BaseException) -> BaseException:
            return explain_out_of_memory(error, title, self._device)

        return Job(kind, title, request, work, log=log, summarize=summarize, explain=explain)

    def _ask(self, kind: str, title: str, work: Callable[[Job], Any]) -> Any:
        return self._submit(self._job(kind, title, None, work)).result()

    def _work(self) -> None:
        while True:
            _, _, job = self._queue.get()
            if job is None:
                return
            self._run(job)

    def _run(self, job: Job) -> None:
        if job.kind == "generate":
            self._write_together(job)
        else:
            job.run()
            self._clean_up(job)

    def _write_together(self, first: Job) -> None:
        """Write the texts of a job and of all that arrive meanwhile, first come first served."""
        writing = SharedWriting(on_settled=self._clean_up)
        writing.admit(first)
        while writing.n_rows:
            while (waiting := self._next_interactive(writing.has_room_for)) is not None:
                if waiting.kind == "generate":
                    writing.admit(waiting)
                else:
                    self._run(waiting)
            writing.step()
            self._beat()

    def _clean_up(self, job: Job) -> None:
        error = job.error
        if isinstance(error, Exception) and not isinstance(error, SaifError):
            log.error("%s failed", job.title, exc_info=error)
        if isinstance(error, BudgetError):
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _yielding(self, job: Job) -> Callable[[int, int, str], None]:
        """Progress of batch work that lets waiting interactive requests run first."""

        def step(done: int, total: int, message: str) -> None:
            job.step(done, total, message)
            self._serve_waiting()
            self._beat()

        return step

    def _serve_waiting(self) -> None:
        while (waiting := self._next_interactive()) is not None:
            self._run(waiting)

    def _someone_waits(self) -> bool:
        # Peeking at the head of the heap is safe: at worst it is seen one check later.
        heap = self._queue.queue
        return bool(heap) and heap[0][0] == INTERACTIVE and heap[0][2] is not None

    def _next_interactive(self, fits: Callable[[Job], bool] = lambda _job: True) -> Job | None:
        try:
            entry = self._queue.get_nowait()
        except queue.Empty:
            return None
        priority, _, job = entry
        if priority == INTERACTIVE and job is not None and fits(job):
            return job
        self._queue.put(entry)
        return None

    def _beat(self) -> None:
        """Keep jobs that wait for their turn from looking as if their process had died."""
        now = time.monotonic()
        if now - self._last_beat > BEAT_SECONDS:
            self._last_beat = now
            for job in self.jobs():
                if not job.finished():
                    job.beat()

    def _load(self, sae_id: str, job: Job) -> tuple[LoadedModel, LoadedSae]:
        model = self._load_model(job)
        if sae_id not in self._saes:
            job.step(0, 0, "loading the SAE")
            self._saes[sae_id] = self._catalog.load_sae(sae_id, model)
        return model, self._saes[sae_id]

    def _load_model(self, job: Job) -> LoadedModel:
        if self._model is None:
            job.step(0, 0, "loading the model")
            self._model = self._catalog.load_model(
                self.model_id, device=self._device, dtype=self._dtype
            )
        return self._model
