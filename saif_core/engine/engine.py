"""The engine: everybody submits requests and reads events; one worker owns the model.

A request is a record; ``tasks`` says which there are and what comes of each. ``ask`` waits for the
answer, ``submit`` gives a job to follow.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, NamedTuple

import torch

from saif_core.catalog import Catalog, resolve_device, resolve_dtype
from saif_core.engine.job import Job
from saif_core.engine.memory import explain_out_of_memory
from saif_core.engine.tasks import TASKS, Task
from saif_core.engine.worker import BATCH, QUESTION, WRITING, Worker, clean_up
from saif_core.errors import SaifError, UnknownNameError
from saif_core.explaining.neighbours import DecoderShelf
from saif_core.models.default_model import DEFAULT_MODEL
from saif_core.models.language_endpoint import LanguageEndpoint
from saif_core.models.loaded_model import FOUR_BIT, LoadedModel
from saif_core.models.prompting import text_of_token
from saif_core.records.as_json import from_json, to_json
from saif_core.records.jobs import JobRecord
from saif_core.records.ports import (
    ActivationCache,
    ContextStore,
    EvaluationLog,
    JobLog,
    NoteLog,
    ProfileWriter,
    TensorPort,
)
from saif_core.records.questions import LatentQuestion
from saif_core.records.saes import SaeInfo
from saif_core.registry import load_plugins
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.tensors import Tensors

_PRIORITY = {"question": QUESTION, "writing": WRITING, "batch": BATCH}
KEPT_JOBS, KEPT_SUMMARIES = 64, 2
KEPT_ANSWERS = 512
CLOSE_SECONDS = 30.0
# Results that are wanted after this process is gone; evaluations have a store of their own.
LOGGED_RESULTS = ("rank", "generate", "learn", "vector", "contrast", "health")


class EngineStatus(NamedTuple):
    """What the engine is doing; ``memory_bytes`` is the model's and the SAEs' weights."""

    device: str
    dtype: str
    model_id: str
    model_loaded: bool
    memory_bytes: int
    running: list[JobRecord]


class Engine:
    """Everything that can be asked of one model on one device.

    Args:
        catalog: where models and SAEs come from.
        model_id: the model to own; loaded at the first request that needs it.
        cache: keeps latent activations and responses between runs.
        tensors: keeps learned tensors; without it they live as long as the engine.
        job_log: is told the state of everything that people follow.
        corpus: where the contexts and the profiles of an index go.
        evaluations: keeps finished evaluations.
        notes: keeps descriptions of latents.
        endpoint: the language model that describes latents.
        tasks: what can be asked besides ``TASKS``.
        device, dtype: see ``Catalog.load_model``.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        model_id: str = DEFAULT_MODEL,
        cache: ActivationCache | None = None,
        tensors: TensorPort | None = None,
        job_log: JobLog | None = None,
        corpus: tuple[ContextStore, ProfileWriter] | None = None,
        evaluations: EvaluationLog | None = None,
        notes: NoteLog | None = None,
        endpoint: LanguageEndpoint | None = None,
        tasks: Sequence[Task] = (),
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        load_plugins()  # a broken plug-in stops the start, not somebody's first request
        self.model_id = model_id
        self.cache, self.tensors = cache, Tensors(tensors)
        self.corpus, self.evaluations, self.notes = corpus, evaluations, notes
        self.endpoint = endpoint
        self.tasks = {task.name: task for task in (*TASKS, *tasks)}
        self._by_request = {task.request: task for task in self.tasks.values()}
        self._catalog = catalog
        self._job_log = job_log
        self._device = resolve_device(device)
        self._dtype = dtype
        resolve_dtype(dtype, self._device)
        self._model: LoadedModel | None = None
        self._saes: dict[str, LoadedSae] = {}
        self._answers: dict[Any, Any] = {}
        self._jobs: dict[str, Job] = {}
        self._closed = False
        self._worker = Worker(lambda: [job for job in self.jobs() if not job.finished()])

    def submit(self, request: Any) -> Job:
        """Queue a request; the job's result is the record that its task names.

        Raises:
            SaifError: the request cannot be carried out, or the engine is closed.
        """
        task = self._checked_task(request)
        return self._start(task, request, listed=task.lane != "question")

    def _checked_task(self, request: Any) -> Task:
        if self._closed:
            raise SaifError("The engine is closed; start SAIF again.")
        task = self.task_of(request)
        task.check(request)
        return task

    def _start(self, task: Task, request: Any, *, listed: bool) -> Job:
        job = self._job(task, request, followed=listed)
        if listed:
            self._jobs[job.id] = job
            finished = [one for one in self._jobs.values() if one.finished()]
            # A ranking takes megabytes, and once more as the log keeps it.
            for old in finished[:-KEPT_SUMMARIES]:
                old.forget_summary()
            for old in finished[:-KEPT_JOBS]:
                self._jobs.pop(old.id, None)
        if task.lane == "aside":
            self._run_aside(job)
        else:
            self._worker.put(job, _PRIORITY[task.lane])
        return job

    def ask(self, request: Any) -> Any:
        """The answer to a request; waits for it.

        Raises:
            SaifError: it cannot be answered; the message says why.
        """
        # What weights say does not change, and pages ask for it again and again.
        if not isinstance(request, LatentQuestion):
            return self._answer(request)
        if request not in self._answers:
            if len(self._answers) >= KEPT_ANSWERS:
                self._answers.clear()
            self._answers[request] = self._answer(request)
        return self._answers[request]

    def _answer(self, request: Any) -> Any:
        # Whoever asks waits for the answer, so no list of jobs need show it.
        return self._start(self._checked_task(request), request, listed=False).result()

    def request_of(self, name: str, data: dict[str, Any]) -> Any:
        """The request record of a task, from JSON data.

        Raises:
            UnknownNameError: there is no such task.
            ValueError: the data does not fit; the message names the field.
        """
        if name not in self.tasks:
            raise UnknownNameError("task", name, sorted(self.tasks))
        return from_json(self.tasks[name].request, data)

    def task_of(self, request: Any) -> Task:
        """The task that a request record is for."""
        task = self._by_request.get(type(request))
        if task is None:
            raise UnknownNameError("request", type(request).__name__, sorted(self.tasks))
        return task

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        """Tokens as texts; needs the tokenizer alone, not the model."""
        tokenizer = self._model.tokenizer if self._model else self._tokenizer
        return [text_of_token(tokenizer, token_id) for token_id in token_ids]

    @cached_property
    def _tokenizer(self) -> Any:
        return self._catalog.load_tokenizer(self.model_id)

    @cached_property
    def decoders(self) -> DecoderShelf:
        """Decoder directions of the model's SAEs; needs neither the model nor the worker."""
        return DecoderShelf(self._catalog, self.model_id)

    def saes(self) -> list[SaeInfo]:
        """SAEs that can be chosen for the engine's model."""
        return self._catalog.saes(self.model_id)

    def refused_saes(self) -> list[SaeInfo]:
        """SAEs that were named for the model but cannot be used, each with the reason."""
        return [info for info in self._catalog.offered_saes(self.model_id) if info.unsupported]

    def sae_warning(self, sae_id: str) -> str:
        """What speaks against a loaded SAE; "" for nothing, or while it is not loaded."""
        sae = self._saes.get(sae_id)
        return sae.warning if sae else ""

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
        """Everything but questions that this process was asked, newest first."""
        return list(reversed(list(self._jobs.values())))

    def job(self, job_id: str) -> Job | None:
        """A job of this process."""
        return self._jobs.get(job_id)

    def newest(
        self, kind: str, wanted: Callable[[Any], bool] = lambda _request: True
    ) -> Job | None:
        """The newest job of a kind whose request is one that is wanted."""
        return next((j for j in self.jobs() if j.kind == kind and wanted(j.request)), None)

    def close(self) -> None:
        """Stop the worker after its current step and free the model."""
        self._closed = True
        for job in self.jobs():
            job.cancel()
        self._worker.close(CLOSE_SECONDS)
        for job in self.jobs():
            job.wait(CLOSE_SECONDS)
        self._model = None
        self._saes.clear()

    def _job(self, task: Task, request: Any, *, followed: bool) -> Job:
        title = task.title(request)

        def explain(error: BaseException) -> BaseException:
            return explain_out_of_memory(error, title, self._device)

        return Job(
            task.name,
            title,
            request,
            lambda job: self._do(task, request, job),
            log=self._job_log if followed and task.is_followed else None,
            summarize=to_json if task.name in LOGGED_RESULTS else (lambda _result: None),
            explain=explain,
            writes_texts=task.lane == "writing",
        )

    def _do(self, task: Task, request: Any, job: Job) -> Any:
        bench = _EngineBench(self, job, gives_way=task.lane == "batch")
        with bench.giving_way():
            return task.run(bench, request)

    def _run_aside(self, job: Job) -> None:
        def run() -> None:
            job.run()
            clean_up(job)

        threading.Thread(target=run, name=f"saif-{job.kind}", daemon=True).start()

    def load_model(self, job: Job) -> LoadedModel:
        """The model; for the worker's thread alone."""
        if self._model is None:
            job.step(0, 0, "loading the model")
            self._model = self._catalog.load_model(
                self.model_id, device=self._device, dtype=self._dtype
            )
        return self._model

    def load_sae(self, sae_id: str, job: Job) -> LoadedSae:
        """An SAE of the model; for the worker's thread alone."""
        model = self.load_model(job)
        if sae_id not in self._saes:
            job.step(0, 0, "loading the SAE")
            self._saes[sae_id] = self._catalog.load_sae(sae_id, model)
        return self._saes[sae_id]

    @property
    def closed(self) -> bool:
        """Whether nothing is done any more."""
        return self._closed

    @property
    def worker(self) -> Worker:
        """The thread that owns the model."""
        return self._worker


class _EngineBench:
    """What a task of this engine works with, see ``Bench``."""

    def __init__(self, engine: Engine, job: Job, *, gives_way: bool) -> None:
        self._engine, self._job, self._gives_way = engine, job, gives_way
        self.cache, self.tensors = engine.cache, engine.tensors
        self.corpus, self.evaluations = engine.corpus, engine.evaluations
        self.notes, self.endpoint = engine.notes, engine.endpoint
        self.ask, self.token_texts = engine.ask, engine.token_texts

    @property
    def model(self) -> LoadedModel:
        return self._engine.load_model(self._job)

    def sae(self, sae_id: str) -> LoadedSae:
        return self._engine.load_sae(sae_id, self._job)

    def step(self, done: int, total: int, message: str) -> None:
        if self._engine.closed:
            self._job.cancel()
        self._job.step(done, total, message)
        if self._gives_way:
            self._engine.worker.serve_waiting()

    def giving_way(self) -> Any:
        """While open, reading pauses for what is more urgent, if this is batch work."""
        if not self._gives_way:
            return nullcontext()
        worker = self._engine.worker
        return self.model.giving_way(worker.someone_waits, worker.serve_waiting)
