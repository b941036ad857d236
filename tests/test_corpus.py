"""Documents of every kind of file, and what is wrong with those that cannot be read."""

import json
from pathlib import Path

import pandas as pd
import pytest
import zstandard

from saif_core.errors import CorpusError
from saif_core.inputs.documents import (
    CONTEXT_TOKENS,
    Document,
    Position,
    encode_contexts,
    find_files,
    hash_files,
    read_documents,
)
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.loading import load_model

TURNS = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sees"}]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LoadedModel:
    return load_model(tiny_model_dir, id="tiny")


def read(path: Path) -> list[Document]:
    return list(read_documents(find_files([path])))


def test_a_text_file_holds_a_document_per_paragraph(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffthe old cat\nsees\n\n \n\none two\n".encode())
    assert read(path) == [Document("a.txt:1", "the old cat\nsees"), Document("a.txt:2", "one two")]


def test_jsonl_lines_are_texts_or_conversations_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines: list[object] = [{"text": "one"}, {"text": "  "}, {"messages": TURNS, "text": ""}]
    path.write_text("\n\n".join(map(json.dumps, lines)))
    assert read(path) == [Document("a.jsonl:1", "one"), Document("a.jsonl:5", "", tuple(TURNS))]


def test_compressed_files_read_as_what_they_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "one"}\n'))
    assert read(path) == [Document("a.jsonl.zst:1", "one")]


def test_parquet_rows_are_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"text": ["one", None, "two"], "other": [1, 2, 3]}).to_parquet(path)
    assert read(path) == [Document("a.parquet:1", "one"), Document("a.parquet:3", "two")]


def test_the_position_tells_how_much_was_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"text": "one"}\n' * 20_000)
    position, seen = Position(), []
    for _ in read_documents(find_files([tmp_path]), position):
        seen.append(position.done)
    assert seen == sorted(seen)
    assert 0 < seen[0] < seen[20_000] < seen[-1] <= position.total == position.done


def test_folders_are_searched_and_other_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/two.md", "one.txt", "picture.png"):
        (tmp_path / name).write_text(name)
    assert [document.text for document in read(tmp_path)] == ["b/two.md", "one.txt"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"{", "a.jsonl:1: this line is no JSON"),
        ("a.jsonl", b'{"text": "x"}\n[]', "a.jsonl:2: this is no object"),
        ("a.jsonl", b'{"text": 3}', "a.jsonl:1: 'text' is no text"),
        ("a.jsonl", b'{"messages": ["x"]}', "no list of turns"),
        ("a.jsonl", b'{"messages": [{"role": "user"}]}', "no list of turns"),
        ("a.txt", b"one\n\xff\xfe", "cannot be read as UTF-8 text"),
        ("a.txt.zst", b"not compressed", "cannot be read as UTF-8 text"),
        ("a.parquet", b"not parquet", "could not be read as Parquet"),
        ("a.pdf", b"%PDF", "is of a kind that is not read"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=message) as refusal:
        read(path)
    assert str(tmp_path) not in str(refusal.value)


def test_a_parquet_file_without_text_names_its_columns(tmp_path: Path) -> None:
    pd.DataFrame({"body": ["one"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(
        CorpusError, match="no column named 'text' or 'messages'; rename one of body"
    ):
        read(tmp_path / "a.parquet")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No text was found"):
        find_files([tmp_path])


def test_the_hash_knows_contents_and_order_but_no_names(tmp_path: Path) -> None:
    for name, text in (("a.txt", "one"), ("b.txt", "two"), ("c.txt", "one")):
        (tmp_path / name).write_text(text)
    a, b, c = (tmp_path / name for name in ("a.txt", "b.txt", "c.txt"))
    assert hash_files([a, b]) == hash_files([c, b]) != hash_files([b, a])


def test_documents_are_cut_into_contexts_and_conversations_go_through_the_template(
    model: LoadedModel,
) -> None:
    long = Document("long", "the old cat " * 200)
    pieces = encode_contexts(model, long)
    assert [token for piece in pieces for token in piece] == model.tokenizer(long.text)["input_ids"]
    assert all(len(piece) == CONTEXT_TOKENS for piece in pieces[:-1])
    (chat,) = encode_contexts(model, Document("chat", "", tuple(TURNS)))
    assert "user\nthe cat<|im_end|>" in model.tokenizer.decode(chat)
