"""Prefix trees give what plain transformers gives for each prompt alone, with fewer tokens."""

import json
import logging
import random
import weakref
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

from saif_core.errors import PromptPairError
from saif_core.models import activations
from saif_core.models.activations import (
    ROW_TOKENS,
    PackedRow,
    count_tree_tokens,
    pack_prefix_trees,
    pack_rows,
    pack_singly,
    read_resid,
    run_rows,
)
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
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


@pytest.mark.parametrize("shared", [True, False])
def test_several_rows_are_read_at_once(
    shared: bool, llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activations, "rows_at_once", lambda _: 3)
    monkeypatch.setattr(activations, "ROW_TOKENS", 50)
    monkeypatch.setattr(activations, "WHOLE_ROW_TOKENS", 100)
    rng = random.Random(15)
    prompts = (
        random_prompts(8, llama.d_vocab)
        if shared
        else [[rng.randrange(llama.d_vocab) for _ in range(n)] for n in range(20, 60, 3)]
    )
    passes: list[int] = []
    handle = llama.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: passes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    check_reads_as_alone(llama, prompts)
    handle.remove()
    assert max(passes) >= 3


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
    with pytest.raises(PromptPairError, match="but model .* has the tokens 0 to"):
        read_resid(model, [[1, model.d_vocab + 5]], [1], [[1]])
    assert hooks() == before
    broken = model.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        read_resid(model, [[1, 2, 3]], [1], [[1]])
    broken.remove()
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


texts = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.sampled_from(
            ["The cat", "The cat sees", "é", "👩‍👩‍👧", "\u202eabc", "\x00", "ﬁ ǆ", "oui oui"]
        ),
    ),
    min_size=1,
    max_size=5,
)


@given(written=texts, drawn=st.data())
@settings(deadline=None, max_examples=25)
def test_any_prompts_read_the_same_by_tree_by_padding_and_one_by_one(
    model: LoadedModel, written: list[str], drawn: st.DataObject
) -> None:
    prompts = [model.encode_prompt(text, chat=True) for text in written]
    tails = st.lists(st.integers(0, model.d_vocab - 1), max_size=4)
    stem = prompts[0][: drawn.draw(st.integers(1, 12))]
    prompts += [stem + tail for tail in drawn.draw(st.lists(tails, max_size=4))]
    prompts += drawn.draw(st.lists(st.sampled_from(prompts), max_size=2))
    prompts += [prompts[0][:1]]
    last = tiny.N_LAYERS - 1
    (row,) = pack_prefix_trees(prompts)
    by_tree = model.run_to_layers(
        torch.from_numpy(row.token_ids)[None],
        torch.from_numpy(row.depths)[None],
        torch.from_numpy(row.mask)[None, None],
        [last],
    )[last][0]
    width = max(map(len, prompts))
    padded = torch.tensor([prompt + [3] * (width - len(prompt)) for prompt in prompts])
    by_padding = model.run_sequences(padded, list(map(len, prompts)), [last])[last]
    everywhere = [list(range(len(prompt))) for prompt in prompts]
    found, _ = read_resid(model, prompts, [last], everywhere)
    for index, path in row.paths:
        ids = torch.tensor([prompts[index]])
        alone = plain_resid(model.hf_model, ids, torch.ones_like(ids), last)[0]
        torch.testing.assert_close(by_tree[path], alone, **CLOSE)
        torch.testing.assert_close(by_padding[index, : len(path)], alone, **CLOSE)
        torch.testing.assert_close(found[last][index], alone, **CLOSE)


def unusual_model(kind: tiny.Unusual, *, window: int = 4) -> LoadedModel:
    hf_model = tiny.build_unusual_model(kind, window=window)
    return LoadedModel(hf_model, tiny.build_tokenizer(), id=kind, sha256=kind)


def without_positions(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*, position_ids: Tensor | None = None, **kwargs: Any) -> Any:  # noqa: ARG001
        return forward(**kwargs)

    return run


def without_tree_masks(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        if attention_mask is not None and attention_mask.dim() == 4:
            raise ValueError("a mask of shape (batch, pos) is needed")
        return forward(attention_mask=attention_mask, **kwargs)

    return run


def without_masks(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:  # noqa: ARG001
        return forward(**kwargs)

    return run


def check_reads_as_alone(model: LoadedModel, prompts: Sequences) -> int:
    everywhere = [list(range(len(prompt))) for prompt in prompts]
    found, n_computed = read_resid(model, prompts, [0, 1], everywhere)
    for layer in (0, 1):
        for prompt, resid in zip(prompts, found[layer], strict=True):
            alone = model.run_sequences(torch.tensor([prompt]), [len(prompt)], [layer])[layer][0]
            torch.testing.assert_close(resid, alone, **CLOSE)
    return n_computed


def test_models_of_all_families_are_found_to_read_trees(model: LoadedModel) -> None:
    assert model.packs_trees


@pytest.mark.parametrize("kind", ["jamba", "qwen3-next", "gpt-neo"])
def test_models_that_cannot_read_trees_read_padded_sequences(kind: tiny.Unusual) -> None:
    model = unusual_model(kind)
    prompts = random_prompts(10, model.d_vocab)
    assert not model.packs_trees
    assert check_reads_as_alone(model, prompts) == sum(map(len, prompts))


@pytest.mark.parametrize("kind", ["jamba", "qwen3-next", "gpt-neo"])
def test_trees_of_models_that_cannot_read_them_are_run_as_sequences(kind: tiny.Unusual) -> None:
    model = unusual_model(kind)
    prompts = random_prompts(11, model.d_vocab)
    rows = list(pack_prefix_trees(prompts, row_tokens=50))
    assert len(rows) > 1
    found = run_rows(model, rows, [1])[1]
    for position, row in enumerate(rows):
        for index, path in row.paths:
            alone = model.run_sequences(torch.tensor([prompts[index]]), [len(path)], [1])[1][0]
            torch.testing.assert_close(found[position, path], alone, **CLOSE)


@pytest.mark.parametrize("refuse", [without_positions, without_tree_masks, without_masks])
def test_the_check_finds_models_that_ignore_what_a_tree_needs(
    refuse: Callable[[Callable[..., Any]], Callable[..., Any]],
    tiny_model_dir: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = load_model(tiny_model_dir, id="strange")
    model.base_model.forward = refuse(model.base_model.forward)
    prompts = random_prompts(12, model.d_vocab)
    with caplog.at_level(logging.WARNING, "saif_core.models.loaded_model"):
        check_reads_as_alone(model, prompts)
        check_reads_as_alone(model, prompts)
    assert not model.packs_trees
    assert len(caplog.records) == 1
    assert "'strange' cannot read prefix trees" in caplog.text


def test_a_window_without_kinds_of_layers_is_kept() -> None:
    model = unusual_model("starcoder2")
    assert model.packs_trees
    prompts = random_prompts(13, model.d_vocab)
    assert check_reads_as_alone(model, prompts) == count_tree_tokens(prompts)


def test_the_check_reaches_beyond_a_short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = unusual_model("starcoder2", window=40)
    # As if the window were unknown: shorter sequences would read the same.
    monkeypatch.setattr(model, "attention_masks", lambda mask, *_: model._attention_mask(mask))
    assert not model.packs_trees


def test_sequences_without_shared_prefixes_run_whole(llama: LoadedModel) -> None:
    rng = random.Random(14)
    prompts = [[rng.randrange(llama.d_vocab) for _ in range(n)] for n in (38, 200, 40, 190, 39)]
    rows = list(pack_rows(llama, prompts, row_tokens=420))
    assert [[index for index, _ in row.paths] for row in rows] == [[1, 3], [2, 4, 0]]
    masks: list[object] = []
    handle = llama.base_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
    )
    check_reads_as_alone(llama, prompts)
    handle.remove()
    assert masks
    assert all(mask is None for mask in masks)


@given(lengths=st.lists(st.integers(1, 30), max_size=20), row_tokens=st.integers(1, 60))
@settings(deadline=None, max_examples=100)
def test_padded_rows_stay_within_their_budget(
    llama: LoadedModel, lengths: list[int], row_tokens: int
) -> None:
    sequences = [[number] * n for number, n in enumerate(lengths)]
    rows = list(pack_rows(llama, sequences, row_tokens=row_tokens))
    assert sorted(index for row in rows for index, _ in row.paths) == list(range(len(lengths)))
    for row in rows:
        check_row(row, sequences)
        cells = len(row.paths) * max(len(path) for _, path in row.paths)
        assert cells <= row_tokens or len(row.paths) == 1


def test_single_rows_keep_the_order_and_share_nothing() -> None:
    sequences = [[3, 1], [3, 1, 2], [1]]
    rows = list(pack_singly(sequences))
    assert [row.paths[0][0] for row in rows] == [0, 1, 2]
    assert [row.token_ids.tolist() for row in rows] == sequences
    for row in rows:
        check_row(row, sequences)
    with pytest.raises(PromptPairError, match="Prompt 2 has no tokens"):
        list(pack_singly([[1], []]))


def test_what_is_reduced_is_freed_row_by_row(llama: LoadedModel) -> None:
    rng = random.Random(15)
    prompts = [[rng.randrange(llama.d_vocab) for _ in range(100)] for _ in range(20)]
    wanted = [[0, 99]] * 20
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def total(resid: Tensor) -> float:
        nonlocal most
        assert resid.shape == (2, tiny.D_MODEL)
        alive.append(weakref.ref(resid))
        most = max(most, sum(ref() is not None for ref in alive))
        return float(resid.sum())

    found, _ = read_resid(llama, prompts, [0, 1], wanted, reduce=total)
    kept, _ = read_resid(llama, prompts, [0, 1], wanted)
    assert len(alive) == 40
    assert most <= 2
    for layer in (0, 1):
        assert found[layer] == pytest.approx([float(resid.sum()) for resid in kept[layer]])
