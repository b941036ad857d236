"""What goes wrong with one person's texts ends those alone, though others share their passes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saif_core.engine.job import Job
from saif_core.engine.shared_writing import SharedWriting
from saif_core.errors import ModelError, PromptPairError, SteeringError
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.records.steering import UNSTEERED, Edit, GenerationRequest, Sampling
from saif_core.registry import use_plugins
from saif_core.steering.arms import ArmBuilder
from saif_core.steering.edits import Steering
from saif_core.steering.target import VECTOR
from saif_core.steering.tensors import Tensors
from saif_core.writing import kv_cache
from saif_core.writing.decoder import Decoder, Row, RowRequest
from saif_core.writing.run import GenerationRun
from saif_core.writing.step_graph import StepGraph
from tests import tiny

N_TOKENS = 8
Delta = Callable[[Tensor], Tensor]


@pytest.fixture
def model(tiny_model_dir: Path) -> LoadedModel:
    loaded = load_model(tiny_model_dir, id="tiny")
    loaded.hf_model.generation_config.eos_token_id = loaded.d_vocab - 1
    return loaded


def make_job(model: LoadedModel, text: str, **changes: Any) -> Job:
    """A job that writes one text; ``changes`` are of its row."""
    request = GenerationRequest((text,), (UNSTEERED,), Sampling(max_new_tokens=N_TOKENS))

    def prepare(_job: Job) -> GenerationRun:
        run = GenerationRun(model, {}, request)
        run.rows = [replace(row, **changes) for row in run.rows]
        return run

    return Job("generate", text, request, prepare, writes_texts=True)


def steered(delta: Delta) -> tuple[Steering, ...]:
    return (Steering(0, lambda resid: delta(resid), 1.0),)


def write(jobs: Sequence[Job], late: Sequence[Job] = ()) -> list[Job]:
    """Write the texts of jobs together; those that are late join after the fifth token."""
    settled: list[Job] = []
    writing = SharedWriting(on_settled=settled.append)
    for job in jobs:
        writing.admit(job)
    for n_steps in range(4 * N_TOKENS):
        if n_steps == 5:
            for job in late:
                writing.admit(job)
        if writing.n_rows:
            writing.step()
    assert not writing.n_rows
    assert sorted(settled, key=id) == sorted([*jobs, *late], key=id)  # each once
    return settled


def text_of(job: Job) -> tuple[int, ...]:
    ids: tuple[int, ...] = job.result(0).generations[0].token_ids
    return ids


def alone(model: LoadedModel, prompt: str) -> tuple[int, ...]:
    job = make_job(model, prompt)
    write([job])
    return text_of(job)


NEIGHBOURS = ("The old cat sees the dog", "one two")


def check_neighbours(model: LoadedModel, at_fault: Job, error: type[BaseException]) -> None:
    """Write a job between two others and one that comes later, and look at all of them."""
    expected = [alone(model, prompt) for prompt in (*NEIGHBOURS, "three")]
    first, second = (make_job(model, prompt) for prompt in NEIGHBOURS)
    late = make_job(model, "three")
    write([first, at_fault, second], [late])
    assert [text_of(job) for job in (first, second, late)] == expected
    assert all(len(text) == N_TOKENS for text in expected)
    assert isinstance(at_fault.error, error)
    assert at_fault.record.state == "failed"


def after(n_calls: int, then: Delta) -> Delta:
    """Adds a little in the first calls, and does something else from then on."""
    n_done = 0

    def delta(resid: Tensor) -> Tensor:
        nonlocal n_done
        n_done += 1
        return then(resid) if n_done > n_calls else torch.full_like(resid, 0.1)

    return delta


def explode(_resid: Tensor) -> Tensor:
    raise ZeroDivisionError("a plug-in's own")


@pytest.mark.parametrize("n_calls", [0, 3])
def test_a_plug_in_that_raises_in_the_middle_of_a_pass(model: LoadedModel, n_calls: int) -> None:
    job = make_job(model, "a red house", steering=steered(after(n_calls, explode)))
    check_neighbours(model, job, ZeroDivisionError)


@pytest.mark.parametrize("shape", [(7,), (3, 5, tiny.D_MODEL), (2, 2, tiny.D_MODEL)])
def test_a_plug_in_that_returns_another_shape(model: LoadedModel, shape: tuple[int, ...]) -> None:
    delta = after(2, lambda _resid: torch.ones(shape))
    check_neighbours(model, make_job(model, "a", steering=steered(delta)), RuntimeError)


def test_a_residual_stream_that_overflows(model: LoadedModel) -> None:
    delta = after(2, lambda resid: torch.full_like(resid, 3e38) * 10)
    check_neighbours(model, make_job(model, "a", steering=steered(delta)), ModelError)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_bias_of_the_logits_that_is_no_number(model: LoadedModel, value: float) -> None:
    # Drawn from what is no distribution, the text is nonsense, but nobody else's.
    expected = [alone(model, prompt) for prompt in NEIGHBOURS]
    bias = torch.full((model.d_vocab,), value)
    job = make_job(model, "a", logit_bias=bias, temperature=1.0, top_p=0.5)
    first, second = (make_job(model, prompt) for prompt in NEIGHBOURS)
    write([first, job, second])
    assert [text_of(one) for one in (first, second)] == expected


def test_a_bias_of_another_vocabulary(model: LoadedModel) -> None:
    check_neighbours(model, make_job(model, "a", logit_bias=torch.ones(3)), RuntimeError)


def test_a_text_that_cannot_be_searched_for_its_end(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def holds_stop(_self: Decoder, row: Row) -> bool:
        if row.request.stop and len(row.token_ids) > 2:
            raise UnicodeError("a tokenizer's own")
        return False

    monkeypatch.setattr(Decoder, "_holds_stop", holds_stop)
    check_neighbours(model, make_job(model, "a", stop=(".",)), UnicodeError)


def test_a_prompt_that_is_too_long(model: LoadedModel) -> None:
    model.most_tokens = 60
    job = make_job(model, "a", prompt=(5,) * 53)
    check_neighbours(model, job, PromptPairError)
    assert "would have 61 tokens, but model 'tiny' takes 60 at most" in str(job.error)


@pytest.mark.parametrize("change", [{"prompt": (5, 99_999)}, {"forced": (99_999,)}])
def test_a_token_that_the_model_lacks(model: LoadedModel, change: dict[str, Any]) -> None:
    job = make_job(model, "a", **change)
    check_neighbours(model, job, PromptPairError)
    assert "Token 99,999 was to be read, but model 'tiny' has the tokens 0 to" in str(job.error)


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_memory_that_runs_out_while_room_is_made(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    moved, n_calls = kv_cache._moved, 0

    def move(old: Tensor, n_rows: int, *rest: int) -> Tensor:
        nonlocal n_calls
        n_calls += n_rows == 2
        # Keys and values of two blocks are moved, one after the other.
        if n_rows == 2 and n_calls == nth:
            raise torch.OutOfMemoryError("no room")
        return moved(old, n_rows, *rest)

    monkeypatch.setattr(kv_cache, "_moved", move)
    check_neighbours(model, make_job(model, "a", prompt=(5,) * 90), torch.OutOfMemoryError)


def test_memory_that_is_enough_for_each_but_not_for_all(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [alone(model, prompt) for prompt in NEIGHBOURS]
    jobs = [make_job(model, prompt) for prompt in NEIGHBOURS]
    decode_step = model.decode_step

    def step(token_ids: Tensor, *rest: Any) -> Tensor:
        if len(token_ids) > 1:
            raise torch.OutOfMemoryError("no room")
        return decode_step(token_ids, *rest)

    monkeypatch.setattr(model, "decode_step", step)
    write(jobs)
    assert [text_of(job) for job in jobs] == expected


def test_memory_that_runs_out_while_buffers_grow(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_cache, "SPARE_SLOTS", 3)
    expected = [alone(model, prompt) for prompt in NEIGHBOURS]
    jobs = [make_job(model, prompt) for prompt in NEIGHBOURS]
    moved, n_calls = kv_cache._moved, 0

    def move(old: Tensor, n_rows: int, old_length: int, length: int) -> Tensor:
        nonlocal n_calls
        grows = len(old) == n_rows
        n_calls += grows
        # The second block's keys, at the first time that all buffers grow.
        if grows and n_calls == 3:
            raise torch.OutOfMemoryError("no room")
        return moved(old, n_rows, old_length, length)

    monkeypatch.setattr(kv_cache, "_moved", move)
    write(jobs)
    assert n_calls > 3
    assert [text_of(job) for job in jobs] == expected


def test_a_pass_that_always_fails_ends_everyone_with_their_own_error(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [make_job(model, prompt) for prompt in NEIGHBOURS]
    monkeypatch.setattr(Decoder, "_pass", lambda *_: 1 / 0)
    write(jobs)
    assert [type(job.error) for job in jobs] == [ZeroDivisionError] * 2


class _Replay:
    """Stands for a recorded graph: computes the step anew."""

    def __init__(self, call: Callable[[], Tensor]) -> None:
        self._call = call
        self.output = call()

    def replay(self) -> None:
        self.output = self._call()


def test_rows_that_go_on_alone_write_the_same_in_recorded_steps(model: LoadedModel) -> None:
    prompts = [(5, 6, 7, 8), (9, 10)]
    decoder = Decoder(model, graph=StepGraph(_Replay))
    rows = decoder.admit([RowRequest(prompt, N_TOKENS) for prompt in prompts])
    for _ in range(3):
        decoder.step()
    other = decoder.take_out(rows[1:])
    assert (decoder.rows, other.rows) == (rows[:1], rows[1:])
    while decoder.rows or other.rows:
        for one in (decoder, other):
            if one.rows:
                one.step()
    plain = Decoder(model)
    expected = plain.admit([RowRequest(prompt, N_TOKENS) for prompt in prompts])
    while plain.rows:
        plain.step()
    assert [row.token_ids for row in rows] == [row.token_ids for row in expected]


def test_a_step_that_raises_while_it_is_recorded_raises_by_itself(model: LoadedModel) -> None:
    decoder = Decoder(model, graph=StepGraph(_Replay))
    delta = after(1, explode)
    decoder.admit([RowRequest((5, 6, 7), N_TOKENS, steering=steered(delta))])
    decoder.step()
    with pytest.raises(ZeroDivisionError):
        decoder.step()


METHOD = '''
"""A method of someone's own."""

import torch

from saif_core.saes.loaded_sae import LoadedSae


def {name}(resid, target, sae: LoadedSae | None):
    """Something."""
    {body}
'''


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("in_place", "resid += 1; return resid", "changes the residual stream that it is given"),
        ("in_parts", "resid[0] *= 2; return 0 * resid", "changes the residual stream"),
        ("flat", "return torch.ones(7)", "returned no tensor of the shape"),
        ("nothing", "return None", "returned no tensor of the shape"),
    ],
)
def test_a_method_that_would_change_what_others_share_is_refused_before_it_writes(
    model: LoadedModel, tmp_path: Path, name: str, body: str, message: str
) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / f"{name}.py").write_text(METHOD.format(name=name, body=body))
    tensors = Tensors()
    edit = Edit(0, name, tensors=tensors.put({VECTOR: torch.ones(model.d_model)}))
    use_plugins([tmp_path])
    try:
        with pytest.raises(SteeringError, match=message):
            ArmBuilder(model, {}, tensors)._delta(edit)
    finally:
        use_plugins([])
