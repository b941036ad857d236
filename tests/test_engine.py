"""The queue in front of the model: results, progress, priorities, cancelling, errors."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from saif_core.catalog import Catalog
from saif_core.engine.engine import Engine, shared_writing
from saif_core.engine.job import Job
from saif_core.errors import (
    BudgetError,
    JobCancelled,
    PromptPairError,
    SaifError,
    SteeringError,
    UnknownLatentError,
    UnknownNameError,
)
from saif_core.records.jobs import JobRecord
from saif_core.records.ranking import ChosenLatent, RankingRequest
from saif_core.records.steering import GenerationRequest
from tests import tiny


class Log:
    """Keeps every job record it is told."""

    def __init__(self) -> None:
        self.records: list[JobRecord] = []

    def save_job(self, job: JobRecord) -> None:
        self.records.append(job)


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def engine(
    tiny_model_dir: Path, tiny_sae_dir: Path, tmp_path_factory: pytest.TempPathFactory, log: Log
) -> Iterator[Engine]:
    catalog = Catalog(tmp_path_factory.mktemp("home"), extra_saes=[str(tiny_sae_dir)])
    opened = Engine(
        catalog, model_id=str(tiny_model_dir), cache=tiny.MemoryCache(), job_log=log, device="cpu"
    )
    yield opened
    opened.close()


@pytest.fixture
def ranking_request(tiny_sae_dir: Path) -> RankingRequest:
    return RankingRequest(str(tiny_sae_dir), "planted", tiny.planted_pairs(6), read="last-token")


@pytest.fixture
def generation_request(tiny_sae_dir: Path) -> GenerationRequest:
    return GenerationRequest(
        str(tiny_sae_dir), ("one two",), (ChosenLatent(7, 30.0),), max_new_tokens=5
    )


def test_ranking_goes_through_the_queue_and_the_log(
    engine: Engine, ranking_request: RankingRequest, log: Log
) -> None:
    job = engine.rank(ranking_request)
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
    job = engine.generate(generation_request)
    result = job.result(timeout=120)
    events = job.events()
    assert job.events(len(events)) == []
    assert {event.arm for event in events} == {"unsteered", "steered"}
    assert events[-1].text in {generation.text for generation in result.generations}


def test_blocking_questions(
    engine: Engine, ranking_request: RankingRequest, generation_request: GenerationRequest
) -> None:
    sae_id = ranking_request.sae_id
    detail = engine.latent_detail(sae_id, 7)
    assert detail.index == 7
    assert [value for _, value in detail.promoted] == sorted(
        (value for _, value in detail.promoted), reverse=True
    )
    assert 7 not in [index for index, _ in detail.neighbours]
    pairs = engine.pair_activations(ranking_request, 7)
    assert min(pairs.positive) > 0
    assert max(pairs.negative) == 0
    assert engine.prompt_view("one two", chat=True).special[0]
    norm, share = engine.vector_size(generation_request)
    assert norm > 0
    assert share > 0
    assert engine.estimate(ranking_request).n_pairs == 6
    assert engine.status().model_loaded
    assert [info.id for info in engine.saes()] == [sae_id]


def test_errors_reach_the_caller_and_the_engine_goes_on(
    engine: Engine, generation_request: GenerationRequest, tiny_sae_dir: Path
) -> None:
    with pytest.raises(UnknownLatentError, match="has latents 0 to"):
        engine.latent_detail(str(tiny_sae_dir), 10**6)
    job = engine.rank(RankingRequest("no-such-sae", "x", tiny.planted_pairs(2)))
    with pytest.raises(UnknownNameError):
        job.result(timeout=60)
    assert job.record.state == "failed"
    assert "no-such-sae" in job.record.error
    with pytest.raises(BudgetError):
        engine.generate(
            GenerationRequest("x", ("a",), (ChosenLatent(1, 1.0),), max_new_tokens=10**6)
        )
    assert engine.generate(generation_request).result(timeout=60).generations


def test_unexpected_error_shows_no_detail_on_the_page(engine: Engine) -> None:
    def work(_job: Job) -> None:
        raise RuntimeError("/secret/path exploded")

    job = engine._submit(Job("rank", "Explode", None, work))
    with pytest.raises(RuntimeError):
        job.result(timeout=60)
    assert "secret" not in job.record.error


def test_cancelled_job_stops_and_a_queued_one_never_starts(engine: Engine) -> None:
    started, steps = threading.Event(), []

    def work(job: Job) -> None:
        started.set()
        for number in range(10_000):
            steps.append(number)
            job.step(number, 10_000, "counting")
            time.sleep(0.005)

    def never(_job: Job) -> None:
        steps.append(-1)

    running = engine._submit(Job("rank", "Count", None, work))
    queued = engine._submit(Job("rank", "Wait", None, never))
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

    def work(job: Job) -> None:
        step = engine._yielding(job)
        started.set()
        asked.wait(30)
        for number in range(5):
            step(number, 5, "batch")
            order.append(f"generated {jobs[0].finished()}")

    batch = engine._submit(Job("rank", "Batch", None, work))
    assert started.wait(30)
    jobs.append(engine.generate(generation_request))
    asked.set()
    batch.result(timeout=60)
    assert order == ["generated True"] * 5


@contextlib.contextmanager
def busy(engine: Engine) -> Iterator[None]:
    """Requests that are made inside find the worker at something else, so all wait together."""
    started, done = threading.Event(), threading.Event()

    def work(_job: Job) -> None:
        started.set()
        done.wait(30)

    engine._submit(Job("rank", "Hold", None, work))
    assert started.wait(30)
    yield
    done.set()


def several(request: GenerationRequest) -> list[GenerationRequest]:
    return [
        replace(request, prompts=(f"one {word}", word)[:n_prompts], seed=seed, temperature=1.0)
        for seed, (word, n_prompts) in enumerate(
            [("two", 1), ("three", 2), ("four", 1), ("two", 2)]
        )
    ]


def test_generations_that_wait_together_share_their_passes_and_nothing_else(
    engine: Engine, generation_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = several(replace(generation_request, max_new_tokens=8))
    alone = [engine.generate(request).result(timeout=60).generations for request in requests]
    model, _ = engine.load(generation_request.sae_id)
    n_rows: list[int] = []
    decode_step = model.decode_step

    def counting(token_ids: torch.Tensor, *rest: object) -> torch.Tensor:
        n_rows.append(len(token_ids))
        return decode_step(token_ids, *rest)

    monkeypatch.setattr(model, "decode_step", counting)
    with busy(engine):
        jobs = [engine.generate(request) for request in requests]
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
    request = replace(generation_request, max_new_tokens=8)
    expected = engine.generate(request).result(timeout=60).generations
    with busy(engine):
        first = engine.generate(request)
        cancelled = engine.generate(request)
        idle = engine.generate(replace(request, latents=(ChosenLatent(7, 0.0),)))
        empty = engine.generate(replace(request, prompts=("",), chat=False))
        last = engine.generate(request)
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
        jobs = [engine.generate(generation_request) for _ in range(4)]
    texts = {job.result(timeout=60).generations[1].text for job in jobs}
    assert len(texts) == 1


def test_memory_that_runs_out_is_told_in_a_sentence_and_the_next_request_works(
    engine: Engine, generation_request: GenerationRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = engine.load(generation_request.sae_id)
    needed = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of …"

    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError(needed)

    with monkeypatch.context() as patch:
        patch.setattr(model, "decode_step", full)
        job = engine.generate(generation_request)
        with pytest.raises(BudgetError, match=r"needed 2.50 GiB more on cpu, where [\d,]+ MiB are"):
            job.result(timeout=60)
    assert job.record.state == "failed"
    assert engine.generate(generation_request).result(timeout=60).generations


def test_a_question_breaks_into_a_pass_of_batch_work(
    engine: Engine, ranking_request: RankingRequest
) -> None:
    model, _ = engine.load(ranking_request.sae_id)
    inside, asked, answers = threading.Event(), threading.Event(), []
    norm = model.blocks[0].get_submodule("input_layernorm")

    def hold(*_args: object) -> None:
        inside.set()
        asked.wait(30)

    handle = norm.register_forward_hook(hold)
    job = engine.rank(replace(ranking_request, pairs=tiny.planted_pairs(7)))
    assert inside.wait(30)
    handle.remove()

    def ask() -> None:
        engine.prompt_view("one two", chat=False)
        answers.append(job.finished())

    thread = threading.Thread(target=ask)
    thread.start()
    while not engine._someone_waits():
        time.sleep(0.001)
    asked.set()
    thread.join(30)
    assert answers == [False]
    assert job.result(timeout=60).latents[0].index == 7


def test_closed_engine_says_so(tiny_model_dir: Path, tmp_path: Path) -> None:
    engine = Engine(Catalog(tmp_path), model_id=str(tiny_model_dir), device="cpu")
    engine.close()
    with pytest.raises(SaifError, match="closed"):
        engine.prompt_view("one", chat=False)
