"""Generations of several people written in the same forward passes, each text to its own job."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from saif_core.engine.job import Job
from saif_core.writing.decoder import Decoder, Row
from saif_core.writing.run import GenerationRun

# More rows than this would make everybody wait for the slowest step.
MAX_ROWS = 64


class _Writing(NamedTuple):
    job: Job
    run: GenerationRun
    rows: list[Row]


class SharedWriting:
    """Jobs whose rows share one decoder; they come and go between two tokens.

    What goes wrong with one job ends that job alone.

    Args:
        on_settled: told of every job that has ended.
    """

    def __init__(self, *, on_settled: Callable[[Job], None]) -> None:
        self._on_settled = on_settled
        self._writings: list[_Writing] = []
        self._decoder: Decoder | None = None

    @property
    def n_rows(self) -> int:
        """Rows being written."""
        return sum(len(writing.rows) for writing in self._writings)

    def has_room_for(self, job: Job) -> bool:
        """Whether a job may join; work that writes nothing always may."""
        if not job.writes_texts:
            return True
        return not self.n_rows or self.n_rows + job.request.n_texts <= MAX_ROWS

    def admit(self, job: Job) -> None:
        """Read the prompts of a job and write its texts from now on."""
        with job.settling():
            job.start()
            run: GenerationRun = job.prepare()
            job.step(0, job.request.sampling.max_new_tokens, "reading the prompts")
            if self._decoder is None:
                self._decoder = Decoder(run.model)
            rows = self._decoder.admit(run.rows)
            self._writings.append(_Writing(job, run, rows))
        if job.finished():
            self._on_settled(job)

    def step(self) -> None:
        """Write one token of every row; tell the jobs, and end those that are complete."""
        if self._decoder is None:
            return
        try:
            self._decoder.step()
        except Exception as error:
            # A pass that failed half-way has spoiled the texts of everybody in it.
            for writing in self._writings:
                self._settle(writing, _raise, error)
            self._writings, self._decoder = [], None
            return
        for writing in list(self._writings):
            self._settle(writing, _report, writing)
        gone = [writing for writing in self._writings if writing.job.finished()]
        self._decoder.drop([row for writing in gone for row in writing.rows])
        self._writings = [writing for writing in self._writings if writing not in gone]

    def _settle(self, writing: _Writing, action: Callable[[Any], None], argument: Any) -> None:
        with writing.job.settling():
            action(argument)
        if writing.job.finished():
            self._on_settled(writing.job)


def _raise(error: Exception) -> None:
    raise error


def _report(writing: _Writing) -> None:
    """Publish a job's new tokens, or its result once all of its rows are finished."""
    for row in writing.rows:
        if row.error is not None:
            raise row.error
    n_done = max(len(row.token_ids) for row in writing.rows)
    writing.job.step(n_done, writing.job.request.sampling.max_new_tokens, "writing")
    texts: Sequence[Sequence[int]] = [row.token_ids for row in writing.rows]
    for event in writing.run.new_events(texts):
        writing.job.add_event(event)
    if all(row.finished for row in writing.rows):
        writing.job.finish(writing.run.result(writing.rows))
