"""Training that is stopped anywhere and started again ends with the same files, byte for byte."""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as safetensors_torch

from saif_core.errors import CorpusError
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model
from saif_core.saes import training
from saif_core.saes.training import (
    TextSource,
    TrainingPlan,
    extract_activations,
    is_held_out,
    read_documents,
    tokenize_document,
    train_sae,
)
from tests import tiny

PLAN = TrainingPlan(
    layers=(0, 1), n_tokens=3000, d_sae=64, k=8, n_epochs=8.0, batch_tokens=256, lr=1e-3
)
Stop = Callable[[pytest.MonkeyPatch], None]


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id="tiny")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TextSource:
    texts = tiny.contents(1200, seed=5)
    path = tmp_path_factory.mktemp("text") / "english.jsonl"
    documents = [{"text": " ".join(texts[n : n + 3])} for n in range(0, 1200, 3)]
    path.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    return TextSource(path, 1.0)


def train(
    model: LoadedModel, source: TextSource, folder: Path, progress: training.Progress | None = None
) -> None:
    extract_activations(
        model, [source], PLAN.layers, folder, n_tokens=PLAN.n_tokens, progress=progress
    )
    for layer in PLAN.layers:
        if not (folder / f"layer{layer}").exists():
            train_sae("tiny", model.d_model, layer, folder, PLAN, progress=progress)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that training leaves, but for what it was resumed from."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "checkpoints" not in str(path.relative_to(folder))
    }


@pytest.fixture(scope="module")
def whole(
    model: LoadedModel, source: TextSource, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    train(model, source, folder)
    found = contents(folder)
    assert sorted(found) == [
        "extraction.json",
        "layer0.f16",
        "layer0/cfg.json",
        "layer0/sae_weights.safetensors",
        "layer1.f16",
        "layer1/cfg.json",
        "layer1/sae_weights.safetensors",
    ]
    return found


def compare(folder: Path, whole: dict[str, bytes]) -> None:
    found = contents(folder)
    assert sorted(found) == sorted(whole)
    assert [name for name in whole if found[name] != whole[name]] == []


@pytest.mark.parametrize("seed", range(3))
def test_training_that_was_stopped_anywhere_ends_the_same(
    model: LoadedModel, source: TextSource, whole: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    n_kills = 0
    while True:
        left = int(torch.randint(1, 160, (), generator=generator))

        def progress(_what: str, _done: int, _total: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        try:
            train(model, source, tmp_path, progress if n_kills < 6 else None)
            break
        except Killed:
            n_kills += 1
    assert n_kills
    compare(tmp_path, whole)


def half_written(module: Any, name: str, *, nth: int) -> Stop:
    """Stops in the middle of what a function writes, at its nth call."""

    def stop(patch: pytest.MonkeyPatch) -> None:
        write, n_calls = getattr(module, name), 0

        def write_half(*arguments: Any, **options: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            made = write(*arguments, **options)
            if n_calls == nth:
                written = [a for a in arguments if isinstance(a, str | Path)]
                path = Path(written[0])
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                raise Killed
            return made

        patch.setattr(module, name, write_half)

    return stop


def before(module: Any, name: str, *, nth: int) -> Stop:
    """Stops right before the nth call of a function."""

    def stop(patch: pytest.MonkeyPatch) -> None:
        call, n_calls = getattr(module, name), 0

        def refuse(*arguments: Any, **options: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == nth:
                raise Killed
            return call(*arguments, **options)

        patch.setattr(module, name, refuse)

    return stop


@pytest.mark.parametrize(
    "stop",
    [
        before(training, "run_rows", nth=2),
        half_written(Path, "write_text", nth=2),  # extraction.json
        before(os, "replace", nth=2),
        half_written(torch, "save", nth=1),  # a checkpoint
        half_written(torch, "save", nth=4),
        before(os, "replace", nth=8),
        before(shutil, "rmtree", nth=3),
        half_written(safetensors_torch, "save_file", nth=1),  # the SAE in half precision
        before(training, "store_as_half", nth=2),
    ],
)
def test_a_kill_in_the_middle_of_a_write_leaves_nothing_that_is_taken_for_whole(
    model: LoadedModel, source: TextSource, whole: dict[str, bytes], tmp_path: Path, stop: Stop
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop(patch)
        with pytest.raises(Killed):
            train(model, source, tmp_path)
    train(model, source, tmp_path)
    compare(tmp_path, whole)


def test_settings_are_written_in_one_order(whole: dict[str, bytes]) -> None:
    settings = json.loads(whole["layer0/cfg.json"])
    for part in (settings, settings["metadata"]):
        assert list(part) == sorted(part)


def test_activations_that_were_lost_are_read_again(
    model: LoadedModel, source: TextSource, whole: dict[str, bytes], tmp_path: Path
) -> None:
    extract_activations(model, [source], PLAN.layers, tmp_path, n_tokens=PLAN.n_tokens)
    (tmp_path / "layer0.f16").unlink()
    extract_activations(model, [source], PLAN.layers, tmp_path, n_tokens=PLAN.n_tokens)
    assert (tmp_path / "layer0.f16").read_bytes() == whole["layer0.f16"]


def test_progress_never_exceeds_what_there_is_to_do(
    model: LoadedModel, source: TextSource, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    train(model, source, tmp_path, lambda *progress: told.append(progress))
    assert all(0 <= done <= total for _, done, total in told)
    for layer in PLAN.layers:
        mine = [(done, total) for what, done, total in told if what == f"training layer {layer}"]
        assert mine == sorted(mine)
        assert mine[-1][0] == mine[-1][1]


def test_one_chat_in_fifty_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    system = {"role": "system", "content": "You are helpful."}
    chats = [
        {"messages": [system, {"role": "user", "content": text}]} for text in tiny.contents(2000)
    ]
    path.write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    held_out = list(read_documents(path, held_out=True))
    assert 20 <= len(held_out) <= 60
    assert len(list(read_documents(path, held_out=False))) == len(chats) - len(held_out)


def test_texts_and_named_documents_stay_on_the_side_they_were() -> None:
    texts: list[dict[str, Any]] = [{"text": f"text {n} " * 40} for n in range(200)]
    named = [{"src": "chats", "doc": n, "messages": [{"role": "user"}]} for n in range(200)]
    for document in texts + named:
        said = document.get("text", "")[:200]
        key = f"{document.get('src', '')}|{document.get('doc', '')}|{said}"
        assert is_held_out(document) == (zlib.crc32(key.encode()) % 50 == 0)


def test_documents_without_text_are_left_out_and_bad_ones_refused(
    model: LoadedModel, tmp_path: Path
) -> None:
    for document in ({"text": None}, {}, {"text": " "}, {"text": None, "messages": None}):
        assert tokenize_document(model, document) == []
    for bad in ({"text": 3}, {"messages": "hello"}, {"messages": [{"role": "user"}]}):
        with pytest.raises(CorpusError, match="A document"):
            tokenize_document(model, bad)
        path = tmp_path / "bad.jsonl"
        path.write_text(json.dumps({"text": "good"}) + "\n" + json.dumps(bad), encoding="utf-8")
        with pytest.raises(CorpusError, match="bad.jsonl:2: '(text|messages)' is no"):
            list(read_documents(path, held_out=False))


def test_chats_of_a_model_without_a_template_are_read_as_text(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "plain", with_chat_template=False)
    plain = load_model(folder, id="plain")
    turns = [{"role": r, "content": "the old cat sees a dog"} for r in ("user", "assistant")]
    (ids,) = tokenize_document(plain, {"messages": turns})
    assert plain.decode(ids) == "the old cat sees a dog\n\nthe old cat sees a dog"


def test_chats_that_the_template_refuses_are_counted_and_told(
    model: LoadedModel,
    source: TextSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refuses = "{% for m in messages %}{% if m['role'] != 'user' %}{{ raise_exception('no') }}"
    monkeypatch.setattr(model.tokenizer, "chat_template", refuses + "{% endif %}{% endfor %}")
    turns = [{"role": role, "content": "the cat"} for role in ("user", "assistant")]
    path = tmp_path / "mixed.jsonl"
    chats = "\n".join(json.dumps({"messages": turns, "doc": n}) for n in range(5))
    path.write_text(f"{chats}\n{source.path.read_text()}", encoding="utf-8")
    assert not any(map(is_held_out, map(json.loads, chats.splitlines())))
    told: list[str] = []
    state = extract_activations(
        model,
        [TextSource(path, 1.0)],
        (0,),
        tmp_path / "out",
        n_tokens=1000,
        progress=lambda what, _done, _total: told.append(what),
    )
    assert state.n_left_out == 5
    assert told[-1] == "reading, 5 chats left out"
    assert "5 chats left out, as the chat template refuses their turns" in caplog.text
