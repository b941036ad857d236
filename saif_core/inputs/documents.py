"""Documents of text, JSONL and Parquet files, and their tokens in contexts of bounded length.

Files are streamed: none is held in memory as a whole.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from saif_core.errors import CorpusError, PromptPairError
from saif_core.models.loaded_model import LoadedModel

CONTEXT_TOKENS = 256
MAX_LINE_CHARACTERS = 10_000_000
SUFFIXES = (".txt", ".md", ".jsonl", ".parquet")
_HASHED_AT_ONCE = 1 << 22
_PARQUET_ROWS = 256


@dataclass(frozen=True)
class Document:
    """A text or a conversation.

    Attributes:
        name: file and line, paragraph or row, counted from 1.
        text: empty for a conversation.
        messages: turns of a conversation, each with "role" and "content".
    """

    name: str
    text: str
    messages: tuple[dict[str, str], ...] = ()


@dataclass
class Position:
    """How far the reading of files has come.

    Attributes:
        done, total: bytes, as they lie on disk.
        n_left_out: conversations whose turns the model's chat template refused.
    """

    done: int = 0
    total: int = 0
    n_left_out: int = 0

    @property
    def left_out(self) -> str:
        """What a message says of conversations that were left out; "" where none was."""
        if not self.n_left_out:
            return ""
        n = f"{self.n_left_out:,} conversation" + ("s" if self.n_left_out > 1 else "")
        return f"; {n} left out, as the chat template refuses the turns"


def find_files(paths: Sequence[Path]) -> list[Path]:
    """The files of a corpus: those given, and every readable one below the folders given.

    Raises:
        CorpusError: a path does not exist, is of an unknown kind, or there is no file at all.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(item for item in path.rglob("*") if item.is_file())
            found += [item for item in inside if _kind(item) in SUFFIXES]
        elif not path.is_file():
            raise CorpusError(f"{path} was to be read, but there is no such file; check the path.")
        elif _kind(path) not in SUFFIXES:
            raise CorpusError(
                f"{path.name} is of a kind that is not read; give text (.txt, .md), .jsonl or "
                ".parquet, the first two also compressed as .zst."
            )
        else:
            found.append(path)
    if not found:
        raise CorpusError(
            "No text was found to read; give files that end in .txt, .md, .jsonl or .parquet."
        )
    return found


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 over the contents of files, in order: what says that a corpus is the same."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_HASHED_AT_ONCE):
                digest.update(chunk)
        digest.update(b"\0")
    return digest.hexdigest()


def read_documents(files: Sequence[Path], position: Position | None = None) -> Iterator[Document]:
    """Every document of the files that has any text, in order.

    Text files hold a document per paragraph, JSONL files one per line, ``{"text": …}`` or
    ``{"messages": [{"role": …, "content": …}, …]}``, and Parquet files one per row, in a column
    of either name.

    Args:
        position: told how far the reading is; Parquet files count when they are done.

    Raises:
        CorpusError: a file cannot be read as what its name says.
    """
    readers = {".jsonl": _read_jsonl, ".parquet": _read_parquet}
    sizes = [file.stat().st_size for file in files]
    position = position or Position()
    position.total = sum(sizes)
    for index, file in enumerate(files):
        position.done = sum(sizes[:index])
        for number, cells in readers.get(_kind(file), _read_paragraphs)(file, position):
            document = to_document(f"{file.name}:{number}", cells)
            if document is not None:
                yield document
    position.done = position.total


def read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and objects of a JSONL file, compressed as .zst or not.

    Raises:
        CorpusError: a line is not an object, or the file is no text.
    """
    return _read_jsonl(file, Position())


def encode_contexts(model: LoadedModel, document: Document) -> list[list[int]]:
    """Token ids of a document in pieces of CONTEXT_TOKENS; conversations through the template.

    Raises:
        PromptPairError: the template refuses the turns of a conversation.
    """
    ids = encode_document(model, document)
    return [ids[start : start + CONTEXT_TOKENS] for start in range(0, len(ids), CONTEXT_TOKENS)]


def read_contexts(
    model: LoadedModel, files: Sequence[Path], position: Position
) -> Iterator[tuple[str, list[int]]]:
    """Every context of the files with the name of its document, in order.

    Conversations that the chat template refuses are left out, and counted in ``position``.

    Raises:
        CorpusError: a file cannot be read, or every document was left out.
    """
    n_contexts = 0
    for document in read_documents(files, position):
        try:
            contexts = encode_contexts(model, document)
        except PromptPairError as error:
            position.n_left_out += 1
            refusal = error
            continue
        n_contexts += len(contexts)
        for tokens in contexts:
            yield document.name, tokens
    if position.n_left_out and not n_contexts:
        raise CorpusError(f"None of {position.n_left_out:,} conversations could be read. {refusal}")


def encode_document(model: LoadedModel, document: Document) -> list[int]:
    """Token ids of a document; conversations through the template.

    Raises:
        PromptPairError: the template refuses the turns of a conversation.
    """
    if document.messages:
        return model.encode_turns(document.messages)
    ids: list[int] = model.tokenizer(document.text)["input_ids"]
    return ids


def _kind(path: Path) -> str:
    """Suffix of a file, without that of its compression."""
    if path.suffix.lower() != ".zst":
        return path.suffix.lower()
    kind = Path(path.stem).suffix.lower()
    return kind if kind != ".parquet" else ".zst"


def to_document(name: str, cells: Mapping[str, Any]) -> Document | None:
    """The document of a line or a row; None for one without any text.

    Raises:
        CorpusError: its turns are none, or its text is no text.
    """
    messages, text = cells.get("messages"), cells.get("text")
    if messages:
        turns = messages if isinstance(messages, list) else [messages]
        if not all(
            isinstance(turn, dict) and isinstance(turn.get(key), str)
            for turn in turns
            for key in ("role", "content")
        ):
            raise CorpusError(
                f"{name}: 'messages' is no list of turns; give each a 'role' and a 'content'."
            )
        kept = tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)
        return Document(name, "", kept)
    if text is not None and not isinstance(text, str):
        raise CorpusError(f"{name}: 'text' is no text; give a string.")
    return Document(name, text) if text and text.strip() else None


def _lines(file: Path, position: Position) -> Iterator[str]:
    before = position.done
    with file.open("rb") as raw:
        binary: BinaryIO = raw
        if file.suffix.lower() == ".zst":
            binary = zstandard.ZstdDecompressor().stream_reader(raw)
        stream = io.TextIOWrapper(binary, encoding="utf-8-sig")
        number = 0
        try:
            while line := stream.readline(MAX_LINE_CHARACTERS):
                number += 1
                position.done = before + raw.tell()
                yield line
        except (UnicodeDecodeError, zstandard.ZstdError) as error:
            raise CorpusError(
                f"{file.name}: what follows line {number} cannot be read as UTF-8 text; save the "
                "file as UTF-8, or compress it again."
            ) from error


def _read_jsonl(file: Path, position: Position) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(file, position), start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorpusError(f"{file.name}:{number}: this line is no JSON; mend it.") from error
        if not isinstance(cells, dict):
            raise CorpusError(f'{file.name}:{number}: this is no object; give {{"text": …}}.')
        yield number, cells


def _read_paragraphs(file: Path, position: Position) -> Iterator[tuple[int, dict[str, Any]]]:
    number, paragraph = 1, ""
    for line in _lines(file, position):
        if line.strip() and len(paragraph) < MAX_LINE_CHARACTERS:
            paragraph += line
            continue
        if paragraph:
            yield number, {"text": paragraph.strip()}
            number += 1
        paragraph = line if line.strip() else ""
    if paragraph:
        yield number, {"text": paragraph.strip()}


def _read_parquet(file: Path, _position: Position) -> Iterator[tuple[int, dict[str, Any]]]:
    # It takes a while to import, and most corpora are other files.
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.ParquetFile(file)
        columns = [name for name in ("messages", "text") if name in table.schema_arrow.names]
        if not columns:
            raise CorpusError(
                f"{file.name} has no column named 'text' or 'messages'; rename one of "
                f"{', '.join(table.schema_arrow.names[:10])}."
            )
        number = 0
        for batch in table.iter_batches(_PARQUET_ROWS, columns=columns):
            for cells in batch.to_pylist():
                number += 1
                yield number, cells
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{file.name} could not be read as Parquet; write it anew.") from error
