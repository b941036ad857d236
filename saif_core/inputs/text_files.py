"""Rows of a user's JSONL, CSV or text file, each with the line it starts on.

It knows nothing of prompt pairs. Whatever is wrong with a file ends in one sentence with the line.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

from saif_core.characters import is_valid_text
from saif_core.errors import PromptPairError

MAX_MB = 5
MAX_BYTES = MAX_MB * 2**20
MAX_ROWS = 20_000
_SHOWN_NAME = 60


class Row(NamedTuple):
    """Cells of one row by column name; ``line`` counts from 1."""

    line: int
    cells: dict[str, object]


def file_error(source: str, line: int | None, problem: str) -> PromptPairError:
    """The error for a problem in a file, at a line or in the file as a whole."""
    place = source if line is None else f"{source}, line {line}"
    return PromptPairError(f"{place}: {problem}.")


def short_name(filename: str) -> str:
    """A file's name without its folders, short enough for a message."""
    name = "".join(c if c.isprintable() else "�" for c in PurePath(filename).name) or "The file"
    return name if len(name) <= _SHOWN_NAME else name[: _SHOWN_NAME - 1] + "…"


def decode_text(data: bytes, source: str) -> str:
    """The text of a UTF-8 file without its byte order mark.

    Raises:
        PromptPairError: the file is too large, empty, or not UTF-8.
    """
    if len(data) > MAX_BYTES:
        raise file_error(
            source,
            None,
            f"the file has {len(data) / 2**20:.2f} MB, more than the {MAX_MB} MB that "
            "are read; split it into smaller files",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise file_error(
            source,
            data[: error.start].count(b"\n") + 1,
            "the text is not UTF-8; save the file with the encoding UTF-8",
        ) from error
    if not text.strip():
        raise file_error(source, None, "the file is empty; put at least one row into it")
    return text


def read_rows(data: bytes, filename: str) -> list[Row]:
    """The rows of a .jsonl or .csv file that are not blank.

    Raises:
        PromptPairError: the file is neither, cannot be read, or has too many rows.
    """
    source = short_name(filename)
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    reader = readers.get(PurePath(filename).suffix.lower())
    if reader is None:
        raise file_error(source, None, "this kind of file is not known; use .jsonl or .csv")
    rows: list[Row] = []
    for row in reader(decode_text(data, source), source):
        rows.append(row)
        check_row_count(len(rows), row.line, source)
    if not rows:
        raise file_error(source, None, "the file has no rows; put at least one into it")
    return rows


def check_row_count(n_rows: int, line: int, source: str) -> None:
    """Nothing, as long as there are no more rows than are read.

    Raises:
        PromptPairError: there are more.
    """
    if n_rows > MAX_ROWS:
        raise file_error(
            source, line, f"only {MAX_ROWS:,} rows are read; split the file into smaller ones"
        )


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, stripped, numbered from 1; only CR and LF end a line.

    Other separators, such as U+2028, may stand inside a JSON text.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line.strip()


def text_cell(row: Row, column: str, source: str) -> str:
    """The text in a column of a row, stripped.

    Raises:
        PromptPairError: the column is missing, its cell is empty, or it holds no usable text.
    """
    if column not in row.cells:
        found = ", ".join(sorted(row.cells)[:8]) or "none"
        raise file_error(
            source, row.line, f"the column '{column}' is missing; the columns found are: {found}"
        )
    value = row.cells[column]
    if not isinstance(value, str):
        raise file_error(
            source, row.line, f"'{column}' has to be a text in quotes, but is something else"
        )
    if not value.strip():
        raise file_error(source, row.line, f"'{column}' is empty; fill it or remove the row")
    check_characters(value, source, row.line)
    return value.strip()


def check_characters(text: str, source: str, line: int) -> None:
    """Nothing, if the text can be stored and shown.

    Raises:
        PromptPairError: it holds a NUL character or half of a surrogate pair.
    """
    if not is_valid_text(text):
        raise file_error(
            source, line, "the text holds a character that is not valid; write the text again"
        )


def _jsonl_rows(text: str, source: str) -> Iterator[Row]:
    for number, line in numbered_lines(text):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "it cannot be read"
            raise file_error(
                source,
                number,
                f"this is not JSON ({reason}); put one JSON object on every line",
            ) from error
        if not isinstance(value, dict):
            raise file_error(source, number, "this is not a JSON object with named texts")
        yield Row(number, value)


def _csv_rows(text: str, source: str) -> Iterator[Row]:
    # Spreadsheets set to a comma for decimals write semicolons between cells.
    first = next(line for _, line in numbered_lines(text))
    delimiter = max(",;\t", key=first.count)
    columns: list[str] | None = None
    for line, cells in _numbered_records(text, delimiter, source):
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = _columns(cells, source, line)
            continue
        if len(cells) > len(columns):
            raise file_error(
                source,
                line,
                f"this row has {len(cells)} cells, but there are {len(columns)} columns; put "
                "texts that hold the separator in double quotes",
            )
        yield Row(line, dict(zip(columns, cells, strict=False)))


def _numbered_records(text: str, delimiter: str, source: str) -> Iterator[tuple[int, list[str]]]:
    """CSV records with their first lines; a quoted cell may run over several lines."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise file_error(
                source, line, f"this row is not CSV ({error}); check its double quotes"
            ) from error
        yield line, cells


def _columns(cells: list[str], source: str, line: int) -> list[str]:
    columns = [cell.strip().lower() for cell in cells]
    for column in columns:
        if column and columns.count(column) > 1:
            raise file_error(source, line, f"there are two columns called {column[:40]!r}")
    return columns
