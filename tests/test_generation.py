"""Batched, steered decoding on a tiny model against plain transformers."""

from pathlib import Path

import pytest
import torch

from saif_core.errors import JobCancelled, SteeringError
from saif_core.generation import Steering, decode_batch
from saif_core.models import LoadedModel, load_model

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    loaded = load_model(tiny_model_dir, id="tiny")
    # Random models like to end at once; these tests are about the other tokens.
    loaded.hf_model.generation_config.eos_token_id = loaded.d_vocab - 1
    return loaded


def push(model: LoadedModel, strengths: tuple[float, ...], **options: object) -> Steering:
    torch.manual_seed(3)
    direction = torch.randn(model.d_model) * 3
    return Steering(
        layer=0, delta=lambda resid: direction.expand_as(resid), strengths=strengths, **options
    )


def test_unsteered_rows_equal_plain_transformers_whatever_the_batch(model: LoadedModel) -> None:
    rows = decode_batch(model, PROMPTS, max_new_tokens=8)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        reference = model.hf_model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=8,
            do_sample=False,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        assert list(row.token_ids) == reference[: len(row.token_ids)]
        assert len(row.token_ids) == 8 or row.ended


def test_strength_zero_gives_the_unsteered_tokens(model: LoadedModel) -> None:
    plain = decode_batch(model, PROMPTS, max_new_tokens=8)
    steered = decode_batch(model, PROMPTS, max_new_tokens=8, steering=push(model, (0.0, 0.0, 0.0)))
    assert steered == plain


def test_each_row_is_steered_by_its_own_strength(model: LoadedModel) -> None:
    same = [PROMPTS[0]] * 3
    steering = push(model, (0.0, 1.0, -1.0))
    rows = decode_batch(model, same, max_new_tokens=8, steering=steering)
    assert rows[0] == decode_batch(model, [PROMPTS[0]], max_new_tokens=8)[0]
    assert rows[1].token_ids != rows[0].token_ids
    alone = decode_batch(model, [PROMPTS[0]], max_new_tokens=8, steering=push(model, (1.0,)))
    assert rows[1] == alone[0]
    assert steering.n_calls == 8
    assert steering.added_norm > 0


def test_scopes_steer_different_positions(model: LoadedModel) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    for scope in ("generated", "all", "prompt"):
        steering = push(model, (1.0, 1.0), scope=scope)
        masks = seen.setdefault(scope, [])
        original = steering.edit

        def record(resid: torch.Tensor, edit=original, masks=masks) -> torch.Tensor:
            edited = edit(resid)
            masks.append((edited - resid).norm(dim=-1) > 1e-6)
            return edited

        steering.edit = record  # type: ignore[method-assign]
        decode_batch(model, PROMPTS[:2], max_new_tokens=3, steering=steering)
    assert seen["generated"][0].tolist() == [[False] * 5 + [True]] * 2
    assert seen["all"][0].tolist() == [[True] * 6, [False] * 4 + [True] * 2]
    assert seen["prompt"][0].tolist() == seen["all"][0].tolist()
    assert all(mask.all() for mask in seen["generated"][1:] + seen["all"][1:])
    assert not any(mask.any() for mask in seen["prompt"][1:])


def test_hook_that_never_fires_is_an_error(model: LoadedModel) -> None:
    steering = push(model, (1.0,))
    steering.edit = lambda resid: resid  # type: ignore[method-assign]
    with pytest.raises(SteeringError, match="fired 0 times"):
        decode_batch(model, PROMPTS[:1], max_new_tokens=2, steering=steering)


def test_steering_that_changes_no_logit_is_an_error(model: LoadedModel) -> None:
    steering = Steering(layer=0, delta=torch.zeros_like, strengths=(0.0, 1.0))
    with pytest.raises(SteeringError, match="changed no logit"):
        decode_batch(model, [PROMPTS[0]] * 2, max_new_tokens=2, steering=steering)


def test_arms_share_their_random_draws(model: LoadedModel) -> None:
    options = {"max_new_tokens": 12, "temperature": 1.5}
    same = decode_batch(model, [PROMPTS[0]] * 3, seed=4, samples=[0, 0, 1], **options)
    assert same[0] == same[1]
    assert same[2] != same[0]
    assert decode_batch(model, [PROMPTS[0]], seed=4, **options)[0] == same[0]
    assert decode_batch(model, [PROMPTS[0]], seed=5, **options)[0] != same[0]


def test_sampling_follows_the_model_distribution(model: LoadedModel) -> None:
    prompt = PROMPTS[0]
    n = 4000
    rows = decode_batch(
        model, [prompt] * n, max_new_tokens=1, temperature=1.0, samples=list(range(n))
    )
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

    with pytest.raises(JobCancelled):
        decode_batch(
            model, PROMPTS, max_new_tokens=9, steering=push(model, (1.0,) * 3), on_step=stop
        )
    assert all(not block._forward_hooks for block in model.blocks)
