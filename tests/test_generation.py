"""Batched, steered decoding on a tiny model against plain transformers."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from saif_core.errors import JobCancelled, SteeringError
from saif_core.models.activations import read_resid
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.records.steering import Schedule, SteeringScope
from saif_core.steering.edits import Steering
from saif_core.writing import decoder as generation
from saif_core.writing.decoder import Decoder, Row, RowRequest, decode
from saif_core.writing.kv_cache import RowCache
from saif_core.writing.step_graph import StepGraph

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    loaded = load_model(tiny_model_dir, id="tiny")
    # Random models like to end at once; these tests are about the other tokens.
    loaded.hf_model.generation_config.eos_token_id = loaded.d_vocab - 1
    return loaded


def push(
    model: LoadedModel,
    strength: float,
    *,
    layer: int = 0,
    scope: SteeringScope = "generated",
    seed: int = 3,
    **ends: int,
) -> Steering:
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)) * 3
    schedule = Schedule(scope, **ends)
    return Steering(layer, lambda resid: direction.expand_as(resid), strength, schedule)


def write(
    model: LoadedModel,
    prompts: list[list[int]],
    steering: list[Steering | None] | None = None,
    max_new_tokens: int = 8,
    **options: float,
) -> list[Row]:
    plan = steering or [None] * len(prompts)
    return decode(
        model,
        [
            RowRequest(tuple(prompt), max_new_tokens, steering=_all(steered), **options)  # type: ignore[arg-type]
            for prompt, steered in zip(prompts, plan, strict=True)
        ],
    )


def _all(steering: Steering | None) -> tuple[Steering, ...]:
    return () if steering is None else (steering,)


def tokens(rows: list[Row]) -> list[list[int]]:
    return [row.token_ids for row in rows]


def reference(model: LoadedModel, prompt: list[int], n_tokens: int) -> list[int]:
    ids: list[int] = model.hf_model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=n_tokens,
        do_sample=False,
        pad_token_id=0,
    )[0, len(prompt) :].tolist()
    return ids


def ends_of(prompt: list[int], schedule: Schedule) -> list[int]:
    at = list(range(len(prompt)))
    return sorted({*at[: schedule.prompt_first], *at[-schedule.prompt_last :]})


def by_hand(model: LoadedModel, prompt: list[int], steering: Steering, n_tokens: int) -> list[int]:
    """Greedy steered decoding without any cache or batch: the meaning of every scope."""
    ids = list(prompt)
    for step in range(n_tokens):
        positions = {
            "all": range(len(ids)),
            "prompt": range(len(prompt)),
            "generated": range(len(prompt) - 1, len(ids)),
            "prompt-ends": ends_of(prompt, steering.schedule),
        }[steering.schedule.scope]

        def edit(resid: torch.Tensor, positions: Sequence[int] = positions) -> torch.Tensor:
            edited = resid.clone()
            where = list(positions)
            edited[:, where] += steering.strength * steering.delta(resid)[:, where]
            return edited

        with edit_resid(model.blocks[steering.layer], edit):
            ids.append(int(model.hf_model(torch.tensor([ids])).logits[0, -1].argmax()))
        del step
    return ids[len(prompt) :]


def test_unsteered_rows_equal_plain_transformers_whatever_the_batch(model: LoadedModel) -> None:
    for prompt, row in zip(PROMPTS, write(model, PROMPTS), strict=True):
        assert row.token_ids == reference(model, prompt, 8)[: len(row.token_ids)]
        assert len(row.token_ids) == 8 or row.ended


def test_strength_zero_gives_the_unsteered_tokens(model: LoadedModel) -> None:
    steered = write(model, PROMPTS, [push(model, 0.0)] * 3)
    assert tokens(steered) == tokens(write(model, PROMPTS))


@pytest.mark.parametrize("scope", ["generated", "all", "prompt"])
def test_each_row_is_steered_by_its_own_strength_layer_and_scope(
    model: LoadedModel, scope: SteeringScope
) -> None:
    plan = [
        None,
        push(model, 1.0, scope=scope),
        push(model, -0.5, scope=scope),
        push(model, 1.0, scope=scope, layer=1, seed=4),
    ]
    rows = write(model, [PROMPTS[0]] * 4, plan)
    assert tokens(rows)[0] == reference(model, PROMPTS[0], 8)
    for row, steering in zip(rows[1:], plan[1:], strict=True):
        assert steering is not None
        assert row.token_ids == by_hand(model, PROMPTS[0], steering, 8)
    assert len({tuple(row.token_ids) for row in rows}) > 1


@pytest.mark.parametrize("ends", [(1, 2), (0, 1), (2, 3), (9, 9)])
def test_both_ends_of_prompts_of_any_length_are_steered(
    model: LoadedModel, ends: tuple[int, int]
) -> None:
    # One begins like another and is longer, so that they could share what they must not.
    prompts = [*PROMPTS, [*PROMPTS[0], 3, 4], PROMPTS[0]]
    first, last = ends
    steering = push(model, 2.0, scope="prompt-ends", prompt_first=first, prompt_last=last)
    rows = write(model, prompts, [steering] * 4 + [None])
    assert tokens(rows)[-1] == reference(model, PROMPTS[0], 8)
    for prompt, row in zip(prompts[:4], rows[:4], strict=True):
        assert row.token_ids == by_hand(model, prompt, steering, 8)


def test_hook_reaches_every_steered_token_once(model: LoadedModel) -> None:
    plain, steered, prompt = write(
        model, [PROMPTS[0]] * 3, [None, push(model, 1.0), push(model, 1.0, scope="prompt")]
    )
    # The last token of the prompt and every generated one but the last, which nothing follows.
    assert (plain.n_steered, steered.n_steered, prompt.n_steered) == (0, 8, 1)
    assert steered.added_norm == pytest.approx(
        float(push(model, 1.0).delta(torch.zeros(1, 1, model.d_model)).norm())
    )
    assert steered.resid_norm > 0


def test_logits_do_not_depend_on_the_batch_beyond_rounding(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    decode_step = model.decode_step

    def keeping(*args: Any) -> torch.Tensor:
        seen.append(decode_step(*args))
        return seen[-1]

    monkeypatch.setattr(model, "decode_step", keeping)
    plan = [None, push(model, 1.0), push(model, -2.0, layer=1)]
    write(model, PROMPTS, plan)
    together, seen = seen, []
    for number, (prompt, steering) in enumerate(zip(PROMPTS, plan, strict=True)):
        seen.clear()
        write(model, [prompt], [steering])
        for ours, alone in zip(together, seen, strict=True):
            # 1e-4 of the largest logit is what decisions.md promises.
            assert (ours[number] - alone[0]).abs().max() <= 1e-4 * alone[0].abs().max()


def test_rows_that_join_later_are_written_as_if_alone(model: LoadedModel) -> None:
    decoder = Decoder(model)
    first = decoder.admit([RowRequest(tuple(PROMPTS[1]), 9)])
    for _ in range(4):
        decoder.step()
    plan = [push(model, 1.0, scope="all"), None]
    later = decoder.admit(
        [RowRequest(tuple(PROMPTS[0]), 5, steering=_all(steering)) for steering in plan]
    )
    while decoder.rows:
        decoder.step()
    assert first[0].token_ids == reference(model, PROMPTS[1], 9)
    assert plan[0] is not None
    assert later[0].token_ids == by_hand(model, PROMPTS[0], plan[0], 5)
    assert later[1].token_ids == reference(model, PROMPTS[0], 5)


def test_rows_that_are_dropped_leave_the_others_alone(model: LoadedModel) -> None:
    decoder = Decoder(model)
    rows = decoder.admit([RowRequest(tuple(prompt), 9) for prompt in PROMPTS])
    decoder.step()
    decoder.drop([rows[0]])
    while decoder.rows:
        decoder.step()
    assert len(rows[0].token_ids) == 1
    for prompt, row in list(zip(PROMPTS, rows, strict=True))[1:]:
        assert row.token_ids == reference(model, prompt, 9)


def test_a_prompt_of_one_token_can_be_answered(model: LoadedModel) -> None:
    rows = write(model, [[5], [5], PROMPTS[0]], [None, push(model, 1.0), None])
    assert rows[0].token_ids == reference(model, [5], 8)
    assert rows[2].token_ids == reference(model, PROMPTS[0], 8)


def test_arms_of_a_prompt_share_its_reading(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_read: list[int] = []
    read_tree = model.read_tree

    def counting(token_ids: torch.Tensor, *rest: torch.Tensor) -> object:
        n_read.append(token_ids.numel())
        return read_tree(token_ids, *rest)

    monkeypatch.setattr(model, "read_tree", counting)
    write(model, [PROMPTS[0]] * 5, [None, *(push(model, strength) for strength in (1, 2, 3, 4))])
    assert n_read == [len(PROMPTS[0]) - 1]


def test_a_hook_that_never_fires_is_an_error(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "edit_resid", lambda _block, _edit: contextlib.nullcontext())
    with pytest.raises(SteeringError, match="fired 0 times"):
        write(model, PROMPTS[:1], [push(model, 1.0)])


def test_a_hook_that_never_fires_fails_its_own_rows_alone(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = generation.edit_resid

    def broken_after_block_1(block: torch.nn.Module, edit: Any) -> Any:
        return contextlib.nullcontext() if block is model.blocks[1] else real(block, edit)

    monkeypatch.setattr(generation, "edit_resid", broken_after_block_1)
    decoder = Decoder(model)
    rows = decoder.admit(
        [
            RowRequest(tuple(PROMPTS[0]), 4, steering=(push(model, 1.0, layer=layer),))
            for layer in (0, 1)
        ]
    )
    decoder.step()
    assert [row.error is None for row in rows] == [True, False]


def test_steering_that_changes_no_logit_is_an_error(model: LoadedModel) -> None:
    idle = Steering(0, torch.zeros_like, 1.0)
    with pytest.raises(SteeringError, match="changed no logit"):
        write(model, [PROMPTS[0]] * 2, [None, idle])


def test_arms_share_their_random_draws(model: LoadedModel) -> None:
    def sample(*keys: tuple[int, int]) -> list[list[int]]:
        prompt = tuple(PROMPTS[0])
        requests = [RowRequest(prompt, 12, 1.5, seed, sample) for seed, sample in keys]
        return tokens(decode(model, requests))

    same, twin, other, reseeded = sample((4, 0), (4, 0), (4, 1), (5, 0))
    assert same == twin
    assert same not in (other, reseeded)
    assert sample((4, 0)) == [same]


def test_sampling_follows_the_model_distribution(model: LoadedModel) -> None:
    prompt = PROMPTS[0]
    n = 4000
    rows = decode(model, [RowRequest(tuple(prompt), 1, 1.0, sample=sample) for sample in range(n)])
    logits = model.hf_model(torch.tensor([prompt])).logits[0, -1]
    expected = torch.softmax(logits.float(), -1)
    counts = torch.zeros_like(expected)
    for row in rows:
        counts[row.token_ids[0] if row.token_ids else model.d_vocab - 1] += 1
    # Total variation of 4,000 draws from its own distribution stays well below this.
    assert float((counts / n - expected).abs().sum() / 2) < 0.15


def test_cancelled_generation_leaves_no_hook(model: LoadedModel) -> None:
    def stop(n_done: int, _texts: object) -> None:
        if n_done == 2:
            raise JobCancelled("stopped")

    requests = [RowRequest(tuple(prompt), 9, steering=(push(model, 1.0),)) for prompt in PROMPTS]
    with pytest.raises(JobCancelled):
        decode(model, requests, on_step=stop)
    assert all(not block._forward_hooks for block in model.blocks)


def test_reading_pauses_in_the_middle_of_a_pass_and_goes_on(model: LoadedModel) -> None:
    waiting, served = [True], []

    def serve() -> None:
        waiting.clear()
        served.append(tokens(write(model, PROMPTS[:1])))

    with model.giving_way(lambda: bool(waiting), serve):
        rows = write(model, PROMPTS)
    assert served == [tokens(write(model, PROMPTS[:1]))]
    assert tokens(rows) == tokens(write(model, PROMPTS))
    assert all(not block._forward_pre_hooks for block in model.blocks)


def test_making_room_for_rows_gives_way_between_layers(model: LoadedModel) -> None:
    n_asked = 0

    def count() -> None:
        nonlocal n_asked
        n_asked += 1

    cache = RowCache(model.n_layers, between_layers=count)
    cache.add_rows(3, 5)
    assert n_asked == model.n_layers
    cache.keep_rows([0, 2])
    assert n_asked == 2 * model.n_layers


class Replayed:
    """Stands in for a recording: computes again from the inputs it was given, and from no others.

    What a real one cannot do is caught here too: reading anything from the device.
    """

    def __init__(self, call: Callable[[], torch.Tensor]) -> None:
        self._call = call
        self.output = call().clone()
        self.n_replays = 0

    def replay(self) -> None:
        self.n_replays += 1
        self.output = self._call()


def test_recorded_steps_write_the_same_texts(model: LoadedModel) -> None:
    recordings: list[Replayed] = []

    def record(call: Callable[[], torch.Tensor]) -> Replayed:
        recordings.append(Replayed(call))
        return recordings[-1]

    plan = [None, push(model, 1.0), push(model, -0.5, layer=1, scope="all"), None]
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[2]]
    expected = tokens(write(model, prompts, plan, max_new_tokens=80))
    decoder = Decoder(model, graph=StepGraph(record))
    rows = decoder.admit(
        [
            RowRequest(tuple(prompt), 80, steering=_all(steering))
            for prompt, steering in zip(prompts, plan, strict=True)
        ]
    )
    while decoder.rows:
        decoder.step()
    assert tokens(rows) == expected
    assert sum(recording.n_replays for recording in recordings) > 70
    assert [row.n_steered > 0 for row in rows] == [False, True, True, False]


def test_a_recording_is_not_replayed_for_other_rows(model: LoadedModel) -> None:
    recordings: list[Replayed] = []

    def record(call: Callable[[], torch.Tensor]) -> Replayed:
        recordings.append(Replayed(call))
        return recordings[-1]

    decoder = Decoder(model, graph=StepGraph(record))
    for n_rows, prompt in enumerate((PROMPTS[0], PROMPTS[0][::-1]), start=1):
        rows = decoder.admit([RowRequest(tuple(prompt), 6)])
        while decoder.rows:
            decoder.step()
        assert rows[0].token_ids == reference(model, prompt, 6)
        assert len(recordings) == n_rows


def test_a_model_whose_steps_cannot_be_recorded_still_writes(model: LoadedModel) -> None:
    def refuse(_call: object) -> Replayed:
        raise RuntimeError("operation not permitted when stream is capturing")

    decoder = Decoder(model, graph=StepGraph(refuse))
    rows = decoder.admit([RowRequest(tuple(PROMPTS[0]), 8)])
    while decoder.rows:
        decoder.step()
    assert rows[0].token_ids == reference(model, PROMPTS[0], 8)


def test_whoever_asks_all_the_time_neither_stops_reading_nor_changes_what_is_read(
    model: LoadedModel,
) -> None:
    wanted = [[0, len(prompt) - 1] for prompt in PROMPTS]
    layers = range(model.n_layers)
    alone, _ = read_resid(model, PROMPTS, layers, wanted)
    n_served = 0

    def serve() -> None:
        nonlocal n_served
        n_served += 1
        read_resid(model, [[9, 8, 7]], layers, [[2]])
        write(model, PROMPTS[:1], [push(model, 1.0)], max_new_tokens=2)

    plain = tokens(write(model, PROMPTS, [push(model, 2.0), None, None]))
    with model.giving_way(lambda: True, serve):
        asked, _ = read_resid(model, PROMPTS, layers, wanted)
        n_read = n_served
        assert tokens(write(model, PROMPTS, [push(model, 2.0), None, None])) == plain
    # Steps give way before every block too, not only between two tokens.
    assert n_served - n_read >= 8 * model.n_layers
    assert n_served >= model.n_layers
    for layer in layers:
        for mine, other in zip(asked[layer], alone[layer], strict=True):
            torch.testing.assert_close(mine, other)
