"""Prefix trees give what plain transformers gives for each prompt alone, with fewer tokens."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from saif_core.activations import (
    ROW_TOKENS,
    PackedRow,
    count_tree_tokens,
    pack_prefix_trees,
    read_resid,
    run_rows,
)
from saif_core.errors import PromptPairError
from saif_core.models import LoadedModel, load_model
from tests import tiny

Sequences = list[list[int]]
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny.save_model(folder, family=request.param)
    return load_model(folder, id=str(folder))


@pytest.fixture(scope="module")
def llama(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id=str(tiny_model_dir))


def plain_resid(hf_model: Any, ids: Tensor, mask: Tensor, layer: int) -> Tensor:
    """What a plain forward hook on a plain transformers forward pass sees."""
    found: list[Tensor] = []
    handle = tiny.blocks_of(hf_model)[layer].register_forward_hook(
        lambda module, args, output: found.append(  # noqa: ARG005
            output[0] if isinstance(output, tuple) else output
        )
    )
    with torch.no_grad():
        hf_model(input_ids=ids, attention_mask=mask)
    handle.remove()
    return found[0]


def random_prompts(seed: int, d_vocab: int) -> Sequences:
    """Prompts with shared prefixes, duplicates, prefixes of each other and single tokens."""
    rng = random.Random(seed)

    def tokens(n: int) -> list[int]:
        return [rng.randrange(d_vocab) for _ in range(n)]

    prompts: Sequences = []
    for _ in range(3):
        template = tokens(rng.randint(1, 12))
        for _ in range(3):
            content = template + tokens(rng.randint(0, 9))
            prompts += [content + tokens(rng.randint(0, 6)) for _ in range(3)]
    prompts += [list(prompts[0]), prompts[1][:1], tokens(1), tokens(1), tokens(40)]
    rng.shuffle(prompts)
    return prompts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tree_padded_and_one_by_one_agree(seed: int, model: LoadedModel) -> None:
    prompts = random_prompts(seed, model.d_vocab)
    everywhere = [list(range(len(prompt))) for prompt in prompts]
    found, _ = read_resid(model, prompts, [0, 1], everywhere)
    width = max(map(len, prompts))
    ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts])
    real = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in prompts])
    plain = AutoModelForCausalLM.from_pretrained(model.id)
    for layer in (0, 1):
        padded = plain_resid(plain, ids, real, layer)
        for index, prompt in enumerate(prompts):
            ours = found[layer][index]
            alone = plain_resid(
                plain, torch.tensor([prompt]), torch.ones(1, len(prompt), dtype=torch.long), layer
            )[0]
            torch.testing.assert_close(ours, alone, **CLOSE)
            torch.testing.assert_close(ours, padded[index, : len(prompt)], **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_eager_attention_reads_what_sdpa_reads(family: tiny.Family, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / family, family=family)
    fused, eager = (load_model(folder, id=str(folder)) for _ in range(2))
    assert fused.hf_model.config._attn_implementation == "sdpa"
    eager.hf_model.set_attn_implementation("eager")
    prompts = random_prompts(4, fused.d_vocab)
    everywhere = [list(range(len(prompt))) for prompt in prompts]
    by_sdpa, _ = read_resid(fused, prompts, [1], everywhere)
    by_eager, _ = read_resid(eager, prompts, [1], everywhere)
    for one, other in zip(by_sdpa[1], by_eager[1], strict=True):
        torch.testing.assert_close(one, other, **CLOSE)


def test_wanted_positions_come_back_in_the_order_asked(llama: LoadedModel) -> None:
    prompts = random_prompts(5, llama.d_vocab)
    everywhere = [list(range(len(prompt))) for prompt in prompts]
    wanted = [[len(prompt) - 1, 0] for prompt in prompts]
    found, _ = read_resid(llama, prompts, [1], everywhere)
    some, _ = read_resid(llama, prompts, [1], wanted)
    for all_of_it, two in zip(found[1], some[1], strict=True):
        torch.testing.assert_close(two, all_of_it[[-1, 0]])


def test_each_distinct_prefix_is_computed_once(llama: LoadedModel) -> None:
    prompts = random_prompts(6, llama.d_vocab)
    prefixes = {tuple(p[: end + 1]) for p in prompts for end in range(len(p))}
    ends = [[len(p) - 1] for p in prompts]
    _, n_computed = read_resid(llama, prompts, [0], ends)
    assert n_computed == len(prefixes) == count_tree_tokens(prompts)
    assert n_computed < sum(map(len, prompts)) / 1.5


def test_long_inputs_are_split_into_rows_and_reported(llama: LoadedModel) -> None:
    rng = random.Random(7)
    prompts = [[rng.randrange(llama.d_vocab) for _ in range(60)] for _ in range(20)]
    prompts.append([rng.randrange(llama.d_vocab) for _ in range(ROW_TOKENS + 40)])
    reports: list[tuple[int, int]] = []
    everywhere = [list(range(len(prompt))) for prompt in prompts]
    found, n_computed = read_resid(
        llama, prompts, [1], everywhere, on_row=lambda done, total: reports.append((done, total))
    )
    assert n_computed == sum(map(len, prompts))
    assert len(reports) > 2
    assert reports[-1] == (21, 21)
    assert reports == sorted(set(reports))
    for prompt, resid in zip(prompts, found[1], strict=True):
        torch.testing.assert_close(resid[-1], llama.resid_at_end(prompt, 1), **CLOSE)


def test_rows_of_different_widths_share_a_batch(llama: LoadedModel) -> None:
    rows = list(pack_prefix_trees(random_prompts(8, llama.d_vocab), row_tokens=50))
    assert len({len(row.token_ids) for row in rows}) > 1
    together = run_rows(llama, rows, [0, 1])
    for layer in (0, 1):
        assert torch.isfinite(together[layer]).all()
        for index, row in enumerate(rows):
            alone = run_rows(llama, [row], [layer])[layer][0]
            torch.testing.assert_close(together[layer][index, : len(row.depths)], alone, **CLOSE)


@pytest.mark.parametrize("prompts", [[[]], [[1, 2], []]])
def test_empty_prompts_are_refused_by_number(prompts: Sequences, llama: LoadedModel) -> None:
    with pytest.raises(PromptPairError, match=f"Prompt {len(prompts)} has no tokens"):
        read_resid(llama, prompts, [0], [[] for _ in prompts])


def test_nothing_to_read_is_nothing(llama: LoadedModel) -> None:
    assert read_resid(llama, [], [0], []) == ({0: []}, 0)
    assert count_tree_tokens([]) == 0


def test_blocks_above_the_layer_and_the_head_do_not_run(model: LoadedModel) -> None:
    ran: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.append(name)

    parts = {
        "block 0": model.blocks[0],
        "block 1": model.blocks[1],
        "norm": model.final_norm,
        "head": model.hf_model.get_output_embeddings(),
    }
    handles = [part.register_forward_hook(note(name)) for name, part in parts.items()]
    read_resid(model, [[1, 2, 3]], [0], [[2]])
    assert ran == ["block 0"]
    read_resid(model, [[1, 2, 3]], [0, 1], [[2]])
    assert ran == ["block 0", "block 0", "block 1"]
    for handle in handles:
        handle.remove()


def test_no_hook_is_left_behind_even_when_the_model_fails(model: LoadedModel) -> None:
    def hooks() -> int:
        return sum(len(module._forward_hooks) for module in model.hf_model.modules())

    before = hooks()
    read_resid(model, [[1, 2, 3]], [0], [[2]])
    assert hooks() == before
    with pytest.raises(IndexError):
        read_resid(model, [[1, model.d_vocab + 5]], [1], [[1]])
    assert hooks() == before


def check_row(row: PackedRow, sequences: Sequences) -> None:
    for index, path in row.paths:
        assert row.token_ids[path].tolist() == sequences[index]
        assert row.depths[path].tolist() == list(range(len(path)))
        for end, node in enumerate(path):
            attended = np.zeros(len(row.token_ids), dtype=bool)
            attended[path[: end + 1]] = True
            assert (row.mask[node] == attended).all()


@given(
    sequences=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), max_size=12),
    row_tokens=st.integers(1, 20),
)
@settings(deadline=None, max_examples=150)
def test_any_sequences_pack_into_sound_rows(sequences: Sequences, row_tokens: int) -> None:
    rows = list(pack_prefix_trees(sequences, row_tokens=row_tokens))
    packed = [index for row in rows for index, _ in row.paths]
    assert sorted(packed) == list(range(len(sequences)))
    for row in rows:
        check_row(row, sequences)
        mine = {tuple(sequences[index]) for index, _ in row.paths}
        assert len(row.token_ids) == len({s[:n] for s in mine for n in range(1, len(s) + 1)})
        assert len(row.token_ids) <= row_tokens or len(mine) == 1


@pytest.mark.parametrize("family", ["gemma2", "qwen2"])
def test_sliding_windows_are_kept(family: tiny.Family, tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / family, family=family)
    config = json.loads((folder / "config.json").read_text())
    config |= {"sliding_window": 5, "use_sliding_window": True}
    config["layer_types"] = ["sliding_attention", "full_attention"]
    (folder / "config.json").write_text(json.dumps(config))
    ours = load_model(folder, id=str(folder))
    plain = AutoModelForCausalLM.from_pretrained(folder)
    prompts = random_prompts(9, ours.d_vocab)
    everywhere = [list(range(len(prompt))) for prompt in prompts]
    found, _ = read_resid(ours, prompts, [0, 1], everywhere)
    for layer in (0, 1):
        for prompt, resid in zip(prompts, found[layer], strict=True):
            mask = torch.ones(1, len(prompt), dtype=torch.long)
            alone = plain_resid(plain, torch.tensor([prompt]), mask, layer)[0]
            torch.testing.assert_close(resid, alone, **CLOSE)
