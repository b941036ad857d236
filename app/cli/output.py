"""What the command line writes: answers on standard output, everything else on standard error."""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from app.presentation.escaping import printable

if TYPE_CHECKING:  # the engine's modules take seconds to import
    from saif_core.engine.job import Job

QUIET_SECONDS = 10.0
POLL_SECONDS = 0.1


class Answer:
    """Writes the one answer of a command, as a JSON object or as text for people."""

    def __init__(self, stream: TextIO, as_json: bool) -> None:
        self._stream = stream
        self._as_json = as_json

    def __call__(self, data: dict[str, Any], text: str) -> None:
        """Write ``data`` when JSON was asked for, else ``text``."""
        # ASCII alone: a prompt from the shell may hold bytes that are no valid text.
        shown = json.dumps(data, allow_nan=False) if self._as_json else printable(text)
        self.document(shown)

    def document(self, text: str) -> None:
        """Write text that is the answer in both forms."""
        self._stream.write(text.rstrip("\n") + "\n")
        self._stream.flush()


@contextlib.contextmanager
def answering(as_json: bool) -> Iterator[Answer]:
    """Keep standard output for the answer: what else is printed goes to standard error.

    That holds for compiled libraries and child processes too, as the file descriptor is moved.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    encoding = "utf-8" if as_json else sys.stdout.encoding
    stream = open(os.dup(kept), "w", encoding=encoding, errors="replace")
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr), stream:
            yield Answer(stream, as_json)
    finally:
        os.dup2(kept, 1)
        os.close(kept)


class ProgressLine:
    """Progress on standard error: a line that is redrawn on a terminal, else one now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        # Short work stays silent where nobody watches.
        self._next = time.monotonic() + (0.0 if self._terminal else QUIET_SECONDS)
        self._width = 0

    def __call__(self, message: str, done: int, total: int) -> None:
        """Show how far the work is; ``total`` 0 means unknown."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (POLL_SECONDS if self._terminal else QUIET_SECONDS)
        line = f"{message} {done}/{total} ({done / total:.0%})" if total else message
        if self._terminal:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Wipe the line from the terminal."""
        if self._terminal and self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()


def wait_for(job: "Job") -> Any:
    """Result of a job, with its progress on standard error; Ctrl-C stops the job.

    Raises:
        SaifError: the job failed.
    """
    progress = ProgressLine()
    try:
        while not job.finished():
            record = job.record
            progress(record.message or record.title, record.done, record.total)
            with contextlib.suppress(TimeoutError):
                job.result(timeout=POLL_SECONDS)
        return job.result()
    except KeyboardInterrupt:
        job.cancel()
        raise
    finally:
        progress.close()


def say(line: str) -> None:
    """One line on standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns in line; numbers to the right, the last column as long as it is."""
    if not rows:
        return "  ".join(headers)
    numeric = [
        all(isinstance(row[column], int | float) for row in rows) for column in range(len(headers))
    ]
    lines = [list(headers)] + [[_cell(value) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    )


def shown_tokens(tokens: Sequence[str]) -> str:
    """Tokens in quotation marks, so that their spaces and line ends can be seen."""
    return " ".join(json.dumps(token, ensure_ascii=False) for token in tokens)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return " ".join(str(value).split()) if isinstance(value, str) else str(value)
