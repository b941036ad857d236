"""Generations of several people written in the same forward passes, each text to its own job."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from saif_core.engine.job import Job
from saif_core.writing.decoder import Decoder, Row
from saif_core.writing.run import GenerationRun

# More rows than this would make everybody wait for the slowest step.
MAX_ROWS = 64
log = logging.getLogger(__name__)


class _Writing(NamedTuple):
    job: Job
    run: GenerationRun
    rows: list[Row]
    decoder: Decoder


class SharedWriting:
    """Jobs whose rows share one decoder; they come and go between two tokens.

    What goes wrong with one job ends that job alone: where a pass fails, each of its jobs goes on
    in a decoder of its own, and those that fail there are at fault.

    Args:
        on_settled: told of every job that has ended.
    """

    def __init__(self, *, on_settled: Callable[[Job], None]) -> None:
        self._on_settled = on_settled
        self._writings: list[_Writing] = []

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
            decoder = self._writings[0].decoder if self._writings else Decoder(run.model)
            self._writings.append(_Writing(job, run, decoder.admit(run.rows), decoder))
        if job.finished():
            self._on_settled(job)

    def step(self) -> None:
        """Write one token of every row; tell the jobs, and end those that are complete."""
        for decoder in list({id(one.decoder): one.decoder for one in self._writings}.values()):
            self._step(decoder, [one for one in self._writings if one.decoder is decoder])
        for writing in list(self._writings):
            self._settle(writing, _report, writing)
        for writing in self._writings:
            if writing.job.finished():
                writing.decoder.drop(writing.rows)
        self._writings = [one for one in self._writings if not one.job.finished()]

    def _step(self, decoder: Decoder, sharing: Sequence[_Writing]) -> None:
        try:
            decoder.step()
        except Exception as error:
            if len(sharing) == 1:
                self._settle(sharing[0], _raise, error)
                return
            log.warning("A pass of %d jobs failed (%s); each goes on alone.", len(sharing), error)
            for writing in sharing:
                self._go_on_alone(writing)

    def _go_on_alone(self, writing: _Writing) -> None:
        at = self._writings.index(writing)

        def take_out(shared: Decoder) -> None:
            self._writings[at] = writing._replace(decoder=shared.take_out(writing.rows))

        self._settle(writing, take_out, writing.decoder)
        if not writing.job.finished():
            self._step(self._writings[at].decoder, [self._writings[at]])

    def _settle(self, writing: _Writing, action: Callable[[Any], None], argument: Any) -> None:
        if writing.job.finished():
            return
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
