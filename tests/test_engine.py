"""The queue in front of the model: results, progress, priorities, cancelling, errors."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from saif_core.catalog import Catalog
from saif_core.engine import shared_writing, worker
from saif_core.engine.engine import Engine
from saif_core.engine.job import Job
from saif_core.engine.tasks import Bench, Task
from saif_core.errors import (
    BudgetError,
    JobCancelled,
    PromptPairError,
    SaifError,
    SteeringError,
    StorageError,
    UnknownLatentError,
    UnknownNameError,
)
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.descriptions import Evidence
from saif_core.records.jobs import JobRecord
from saif_core.records.questions import (
    DescribeRequest,
    EstimateQuestion,
    LatentQuestion,
    LearnRequest,
    PairQuestion,
    PromptQuestion,
    SizeQuestion,
)
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling
from tests import tiny


class Log:
    """Keeps every job record it is told."""

    def __init__(self) -> None:
        self.records: list[JobRecord] = []

    def save_job(self, job: JobRecord) -> None:
        self.records.append(job)


@dataclass(frozen=True)
class Call:
    """Work of a test's own, which waits in the engine's queue like a ranking."""

    title: str
    work: Callable[[Bench], object]


@dataclass(frozen=True)
class Probe(Call):
    """The same as a question, which breaks into a ranking."""


OWN = [
    Task(kind.__name__, kind, object, lambda bench, call: call.work(bench), lambda _: "", lane)
    for kind, lane in ((Call, "batch"), (Probe, "question"))
]


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def engine(
    tiny_model_dir: Path, tiny_sae_dir: Path, tmp_path_factory: pytest.TempPathFactory, log: Log
) -> Iterator[Engine]:
    catalog = Catalog(tmp_path_factory.mktemp("home"), extra_saes=[str(tiny_sae_dir)])
    opened = Engine(
        catalog,
        model_id=str(tiny_model_dir),
        cache=tiny.MemoryCache(),
        job_log=log,
        tasks=OWN,
        device="cpu",
    )
    yield opened
    opened.close()


@pytest.fixture
def ranking_request(tiny_sae_dir: Path) -> RankingRequest:
    return RankingRequest(str(tiny_sae_dir), "planted", tiny.planted_pairs(6), read="last-token")


@pytest.fixture
def generation_request(tiny_sae_dir: Path) -> GenerationRequest:
    steered = Arm("steered", edits=(edit(str(tiny_sae_dir)),))
    return GenerationRequest(("one two",), (UNSTEERED, steered), Sampling(max_new_tokens=5))


def edit(sae_id: str, coefficient: float = 30.0) -> Edit:
    return Edit(1, sae_id=sae_id, latents=(ChosenLatent(7, coefficient),))


def sampled(request: GenerationRequest, **changes: object) -> GenerationRequest:
    return replace(request, sampling=replace(request.sampling, **changes))  # type: ignore[arg-type]


def model_of(engine: Engine) -> LoadedModel:
    model = engine.ask(Call("Model", lambda bench: bench.model))
    assert isinstance(model, LoadedModel)
    return model


def test_ranking_goes_through_the_queue_and_the_log(
    engine: Engine, ranking_request: RankingRequest, log: Log
) -> None:
    job = engine.submit(ranking_request)
    ranking = job.result(timeout=120)
    assert ranking.latents[0].index == 7
    assert engine.job(job.id) is job
    states = [record.state for record in log.records if record.id == job.id]
    assert states[0] == "queued"
    assert states[-1] == "done"
    assert job.record.result is not None
    assert job.record.result["latents"][0]["index"] == 7


def test_events_can_be_read_again_from_the_start(
    engine: Engine, generation_request: GenerationRequest
) -> None:
    job = engine.submit(generation_request)
    result = job.result(timeout=120)
    events = job.events()
    assert job.events(len(events)) == []
    assert {event.arm for event in events} == {"unsteered", "steered"}
    assert events[-1].text in {generation.text for generation in result.generations}


def test_blocking_questions(
    engine: Engine, ranking_request: RankingRequest, generation_request: GenerationRequest
) -> None:
    sae_id = ranking_request.sae_id
    detail = engine.ask(LatentQuestion(sae_id, 7))
    assert detail.index == 7
    assert [value for _, value in detail.promoted] == sorted(
        (value for _, value in detail.promoted), reverse=True
    )
    assert 7 not in [index for index, _ in detail.neighbours]
    assert engine.ask(LatentQuestion(sae_id, 7)) is detail
    pairs = engine.ask(PairQuestion(ranking_request, 7))
    assert min(pairs.positive) > 0
    assert max(pairs.negative) == 0
    assert engine.ask(PromptQuestion("one two", chat=True)).special[0]
    unsteered, steered = generation_request.arms
    size = engine.ask(SizeQuestion(steered)).size
    assert size.norm > 0
    assert size.resid_share > 0
    assert engine.ask(SizeQuestion(unsteered)).size is None
    assert engine.ask(EstimateQuestion(ranking_request)).n_pairs == 6
    assert engine.status().model_loaded
    assert [info.id for info in engine.saes()] == [sae_id]


def test_jobs_are_found_by_what_they_were_asked(
    engine: Engine, ranking_request: RankingRequest
) -> None:
    first = engine.submit(ranking_request)
    second = engine.submit(replace(ranking_request, instruction="other"))
    engine.ask(PromptQuestion("one"))
    assert engine.jobs()[:2] == [second, first]
    assert {first.kind, second.kind} == {"rank"}
    assert engine.newest("rank") is second
    assert engine.newest("rank", lambda asked: asked.instruction == "planted") is first
    assert engine.newest("rank", lambda asked: asked.instruction == "none") is None
    assert engine.newest("prompt") is None
    assert first.result(timeout=60).latents[0].index == 7


def test_what_a_source_made_steers_later_requests(
    engine: Engine, ranking_request: RankingRequest
) -> None:
    for source in ("saif", "mean_difference"):
        learned = engine.ask(LearnRequest(ranking_request, source))
        assert learned.origin.source == source
        arm = Arm("steered", edits=learned.edits, origin=learned.origin)
        asked = GenerationRequest(("one two",), (UNSTEERED, arm), Sampling(max_new_tokens=3))
        unsteered, steered = engine.ask(asked).generations
        assert steered.text.split() == ["oui"] * 3
        assert "oui" not in unsteered.text


def test_errors_reach_the_caller_and_the_engine_goes_on(
    engine: Engine, generation_request: GenerationRequest, tiny_sae_dir: Path
) -> None:
    with pytest.raises(UnknownLatentError, match="has latents 0 to"):
        engine.ask(LatentQuestion(str(tiny_sae_dir), 10**6))
    job = engine.submit(RankingRequest("no-such-sae", "x", tiny.planted_pairs(2)))
    with pytest.raises(UnknownNameError):
        job.result(timeout=60)
    assert job.record.state == "failed"
    assert "no-such-sae" in job.record.error
    with pytest.raises(BudgetError):
        engine.submit(sampled(generation_request, max_new_tokens=10**6))
    with pytest.raises(BudgetError, match="257 texts"):
        engine.submit(replace(generation_request, prompts=("a",) * 257, arms=(UNSTEERED,)))
    with pytest.raises(UnknownNameError, match="no request called 'str'"):
        engine.submit("rank")
    assert engine.submit(generation_request).result(timeout=60).generations


def test_unexpected_error_shows_no_detail_on_the_page(engine: Engine) -> None:
    def work(_bench: Bench) -> None:
        raise RuntimeError("/secret/path exploded")

    job = engine.submit(Call("Explode", work))
    with pytest.raises(RuntimeError):
        job.result(timeout=60)
    assert "secret" not in job.record.error


def test_cancelled_job_stops_and_a_queued_one_never_starts(engine: Engine) -> None:
    started, steps = threading.Event(), []

    def work(bench: Bench) -> None:
        started.set()
        for number in range(10_000):
            steps.append(number)
            bench.step(number, 10_000, "counting")
            time.sleep(0.005)

    def never(_bench: Bench) -> None:
        steps.append(-1)

    running = engine.submit(Call("Count", work))
    queued = engine.submit(Call("Wait", never))
    assert started.wait(30)
    queued.cancel()
    running.cancel()
    with pytest.raises(JobCancelled):
        running.result(timeout=30)
    with pytest.raises(JobCancelled):
        queued.result(timeout=30)
    assert running.record.state == queued.record.state == "cancelled"
    assert -1 not in steps
    assert len(steps) < 10_000


def test_generation_runs_between_the_steps_of_batch_work(
    engine: Engine, generation_request: GenerationRequest
) -> None:
    order: list[str] = []
    jobs: list[Job] = []
    started, asked = threading.Event(), threading.Event()

    def work(bench: Bench) -> None:
        started.set()
        asked.wait(30)
        for number in range(5):
            bench.step(number, 5, "batch")
            order.append(f"generated {jobs[0].finished()}")

    batch = engine.submit(Call("Batch", work))
    assert started.wait(30)
    jobs.append(engine.submit(generation_request))
    asked.set()
    batch.result(timeout=60)
    assert order == ["generated True"] * 5


def test_batch_work_has_its_turn_while_somebody_always_writes(
    engine: Engine, generation_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = sampled(generation_request, max_new_tokens=64)
    alone = engine.submit(request).result(timeout=60).generations
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0.05)
    answers: list[str] = []

    def work(bench: Bench) -> None:
        answers.append("begun")
        asking = threading.Thread(target=engine.ask, args=(Probe("p", answer),))
        asking.start()
        while asking.is_alive():  # a question is answered in the turn too
            bench.step(0, 1, "batch")
        answers.append("ended")

    def answer(_bench: Bench) -> None:
        answers.append("answered")

    ended, texts = threading.Event(), [engine.submit(request) for _ in range(2)]

    def write_on() -> None:
        while not ended.is_set():
            texts.append(engine.submit(request))
            texts[-2].wait(60)

    writing = threading.Thread(target=write_on)
    writing.start()
    batch = engine.submit(Call("Batch", work))
    finished = batch.wait(60)
    n_written = len(texts)
    ended.set()
    writing.join(60)
    assert finished
    assert answers == ["begun", "answered", "ended"]
    assert n_written > 2
    assert all(job.result(timeout=60).generations == alone for job in texts)


def test_texts_pause_for_a_turn_of_batch_work_and_no_longer(
    engine: Engine, generation_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(worker, "TURN_SECONDS", 0.2)
    texts: list[Job] = []
    done: list[bool] = []

    def work(bench: Bench) -> None:
        texts.append(engine.submit(sampled(generation_request, max_new_tokens=64)))
        deadline = time.monotonic() + 60
        while not texts[0].finished() and time.monotonic() < deadline:
            bench.step(0, 1, "batch")
        done.append(texts[0].finished())

    engine.submit(Call("Batch", work)).result(timeout=90)
    assert done == [True]


@contextlib.contextmanager
def busy(engine: Engine) -> Iterator[None]:
    """Requests that are made inside find the worker at something else, so all wait together."""
    started, done = threading.Event(), threading.Event()

    def work(_bench: Bench) -> None:
        started.set()
        done.wait(30)

    engine.submit(Call("Hold", work))
    assert started.wait(30)
    yield
    done.set()


def several(request: GenerationRequest) -> list[GenerationRequest]:
    return [
        replace(
            sampled(request, seed=seed, temperature=1.0),
            prompts=(f"one {word}", word)[:n_prompts],
        )
        for seed, (word, n_prompts) in enumerate(
            [("two", 1), ("three", 2), ("four", 1), ("two", 2)]
        )
    ]


def test_generations_that_wait_together_share_their_passes_and_nothing_else(
    engine: Engine, generation_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = several(sampled(generation_request, max_new_tokens=8))
    alone = [engine.submit(request).result(timeout=60).generations for request in requests]
    model = model_of(engine)
    n_rows: list[int] = []
    decode_step = model.decode_step

    def counting(token_ids: torch.Tensor, *rest: object) -> torch.Tensor:
        n_rows.append(len(token_ids))
        return decode_step(token_ids, *rest)

    monkeypatch.setattr(model, "decode_step", counting)
    with busy(engine):
        jobs = [engine.submit(request) for request in requests]
    for job, expected, request in zip(jobs, alone, requests, strict=True):
        found = job.result(timeout=60).generations
        assert [g.token_ids for g in found] == [g.token_ids for g in expected]
        assert [g.prompt for g in found] == [p for p in request.prompts for _ in range(2)]
        for event in job.events():
            whole = found[2 * event.prompt_index + (event.arm == "steered")].text
            assert whole.startswith(event.text)
    assert max(n_rows) == 2 * sum(len(request.prompts) for request in requests)
    assert len(n_rows) <= 8


def test_what_ends_one_generation_leaves_its_neighbours_alone(
    engine: Engine, generation_request: GenerationRequest
) -> None:
    request = sampled(generation_request, max_new_tokens=8)
    expected = engine.submit(request).result(timeout=60).generations
    still = Arm("still", edits=(edit(request.arms[1].edits[0].sae_id, 0.0),))
    with busy(engine):
        first = engine.submit(request)
        cancelled = engine.submit(request)
        idle = engine.submit(replace(request, arms=(UNSTEERED, still)))
        empty = engine.submit(sampled(replace(request, prompts=("",)), chat=False))
        last = engine.submit(request)
        cancelled.cancel()
    with pytest.raises(JobCancelled):
        cancelled.result(timeout=60)
    with pytest.raises(SteeringError):
        idle.result(timeout=60)
    with pytest.raises(PromptPairError):
        empty.result(timeout=60)
    for job in (first, last):
        assert [g.text for g in job.result(timeout=60).generations] == [g.text for g in expected]


def test_a_crowd_waits_its_turn_instead_of_growing_one_batch(
    engine: Engine, generation_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_writing, "MAX_ROWS", 5)
    with busy(engine):
        jobs = [engine.submit(generation_request) for _ in range(4)]
    texts = {job.result(timeout=60).generations[1].text for job in jobs}
    assert len(texts) == 1


def test_memory_that_runs_out_is_told_in_a_sentence_and_the_next_request_works(
    engine: Engine, generation_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(engine)
    needed = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of …"

    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError(needed)

    with monkeypatch.context() as patch:
        patch.setattr(model, "decode_step", full)
        job = engine.submit(generation_request)
        with pytest.raises(BudgetError, match=r"needed 2.50 GiB more on cpu, where [\d,]+ MiB are"):
            job.result(timeout=60)
    assert job.record.state == "failed"
    assert engine.submit(generation_request).result(timeout=60).generations


def test_a_question_breaks_into_a_pass_of_batch_work(
    engine: Engine, ranking_request: RankingRequest
) -> None:
    model = model_of(engine)
    inside, asked, answers = threading.Event(), threading.Event(), []
    norm = model.blocks[0].get_submodule("input_layernorm")

    def hold(*_args: object) -> None:
        inside.set()
        asked.wait(30)

    handle = norm.register_forward_hook(hold)
    job = engine.submit(replace(ranking_request, pairs=tiny.planted_pairs(7)))
    assert inside.wait(30)
    handle.remove()

    def ask() -> None:
        # Looked at while it is answered: so small a ranking ends a moment later.
        engine.ask(Probe("probe", lambda _: answers.append(job.finished())))

    thread = threading.Thread(target=ask)
    thread.start()
    while not engine.worker.someone_waits():
        time.sleep(0.001)
    asked.set()
    thread.join(30)
    assert answers == [False]
    assert job.result(timeout=60).latents[0].index == 7


def test_closed_engine_says_so(tiny_model_dir: Path, tmp_path: Path) -> None:
    engine = Engine(Catalog(tmp_path), model_id=str(tiny_model_dir), device="cpu")
    engine.close()
    with pytest.raises(SaifError, match="closed"):
        engine.ask(PromptQuestion("one", chat=False))


def test_work_that_needs_no_model_runs_beside_what_holds_it(
    engine: Engine, tiny_sae_dir: Path
) -> None:
    asked = DescribeRequest(str(tiny_sae_dir), "a" * 64, ChosenLatent(7, 1.0), Evidence(), ())
    with busy(engine):
        job = engine.submit(asked)
        with pytest.raises(StorageError, match="no language model is set"):
            job.result(timeout=30)
    assert job.record.state == "failed"
