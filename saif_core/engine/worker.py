"""The worker: one thread that owns the model, and a queue in front of it.

What people wait for (texts, questions) goes before batch work, which gives way in the middle of a
forward pass. Texts that arrive while others are being written join them.
"""

import gc
import itertools
import logging
import queue
import threading
from collections.abc import Callable

import torch

from saif_core.engine.job import Job
from saif_core.engine.shared_writing import SharedWriting
from saif_core.errors import BudgetError, SaifError

INTERACTIVE, BATCH = 0, 1
BEAT_SECONDS = 10.0
log = logging.getLogger(__name__)


class Worker:
    """Runs jobs one at a time, those that write texts together.

    Args:
        unfinished: the jobs that are to be kept from looking dead while they wait.
    """

    def __init__(self, unfinished: Callable[[], list[Job]]) -> None:
        self._unfinished = unfinished
        self._queue: queue.PriorityQueue[tuple[int, int, Job | None]] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="saif-engine", daemon=True)
        self._thread.start()
        threading.Thread(target=self._beat, name="saif-heartbeat", daemon=True).start()

    def put(self, job: Job, priority: int) -> None:
        """Queue a job."""
        self._queue.put((priority, next(self._numbers), job))

    def close(self, timeout: float) -> None:
        """Stop after the current step."""
        self._queue.put((INTERACTIVE, -1, None))
        self._thread.join(timeout=timeout)
        self._closed.set()

    def someone_waits(self) -> bool:
        """Whether an interactive job waits for its turn."""
        # Peeking at the head of the heap is safe: at worst it is seen one check later.
        heap = self._queue.queue
        return bool(heap) and heap[0][0] == INTERACTIVE and heap[0][2] is not None

    def serve_waiting(self) -> None:
        """Run the interactive jobs that wait, on this thread; batch work calls it between steps."""
        while (waiting := self._next_interactive()) is not None:
            self._run(waiting)

    def _beat(self) -> None:
        """Keep jobs from looking as if their process had died, whatever takes them long."""
        while not self._closed.wait(BEAT_SECONDS):
            for job in self._unfinished():
                job.beat()

    def _work(self) -> None:
        while True:
            _, _, job = self._queue.get()
            if job is None:
                self._cancel_waiting()
                return
            self._run(job)

    def _cancel_waiting(self) -> None:
        """End what is still queued: whoever waits for it would wait forever."""
        while not self._queue.empty():
            _, _, job = self._queue.get()
            if job is not None:
                job.cancel()
                job.run()

    def _run(self, job: Job) -> None:
        if job.writes_texts:
            self._write_together(job)
        else:
            job.run()
            clean_up(job)

    def _write_together(self, first: Job) -> None:
        """Write the texts of a job and of all that arrive meanwhile, first come first served."""
        writing = SharedWriting(on_settled=clean_up)
        writing.admit(first)
        while writing.n_rows:
            while (waiting := self._next_interactive(writing.has_room_for)) is not None:
                if waiting.writes_texts:
                    writing.admit(waiting)
                else:
                    self._run(waiting)
            writing.step()

    def _next_interactive(self, fits: Callable[[Job], bool] = lambda _job: True) -> Job | None:
        try:
            entry = self._queue.get_nowait()
        except queue.Empty:
            return None
        priority, _, job = entry
        if priority == INTERACTIVE and job is not None and fits(job):
            return job
        self._queue.put(entry)
        return None


def clean_up(job: Job) -> None:
    """Log what nobody expected of a job that has ended, and free what it ran out of."""
    error = job.error
    if isinstance(error, Exception) and not isinstance(error, SaifError):
        log.error("%s failed", job.title, exc_info=error)
    if isinstance(error, BudgetError):
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
