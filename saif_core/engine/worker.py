"""The worker: one thread that owns the model, and a queue in front of it.

What people wait for (questions, texts) goes before batch work, which gives way in the middle of a
forward pass. Texts that arrive while others are being written join them. So that batch work comes
to an end on a server where somebody always writes, it has a turn now and then: texts pause for it,
and only questions interrupt it.
"""

import gc
import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable

import torch

from saif_core.engine.job import Job
from saif_core.engine.shared_writing import SharedWriting
from saif_core.errors import BudgetError, SaifError

QUESTION, WRITING, BATCH = 0, 1, 2
BEAT_SECONDS = 10.0
# Batch work that has waited for so long goes on for so long.
PATIENCE_SECONDS, TURN_SECONDS = 8.0, 2.0
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
        self._writing = SharedWriting(on_settled=clean_up)
        self._batch_waits_since: float | None = None
        self._turn_ends = 0.0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="saif-engine", daemon=True)
        self._thread.start()
        threading.Thread(target=self._beat, name="saif-heartbeat", daemon=True).start()

    def put(self, job: Job, priority: int) -> None:
        """Queue a job."""
        self._queue.put((priority, next(self._numbers), job))
        if priority == BATCH and self._batch_waits_since is None:
            self._batch_waits_since = time.monotonic()

    def close(self, timeout: float) -> None:
        """Stop after the current step."""
        self._queue.put((QUESTION, -1, None))
        self._thread.join(timeout=timeout)
        self._closed.set()

    def someone_waits(self) -> bool:
        """Whether there is something that goes before the batch work under way."""
        # Peeking at the head of the heap is safe: at worst it is seen one check later.
        heap = self._queue.queue
        if self._batch_has_turn():
            return bool(heap) and heap[0][0] == QUESTION and heap[0][2] is not None
        urgent = bool(heap) and heap[0][0] < BATCH and heap[0][2] is not None
        return urgent or self._writing.n_rows > 0

    def serve_waiting(self) -> None:
        """Do what goes before batch work, on this thread; batch work calls it between its steps."""
        self._batch_waits_since = time.monotonic()
        self._serve(texts=not self._batch_has_turn())
        if self._batch_starves():
            self._begin_turn()

    def _beat(self) -> None:
        """Keep jobs from looking as if their process had died, whatever takes them long."""
        while not self._closed.wait(BEAT_SECONDS):
            for job in self._unfinished():
                job.beat()

    def _work(self) -> None:
        while True:
            self._serve(texts=True)
            if self._batch_starves():
                self._run_batch(self._take_batch())
                continue
            priority, _, job = self._queue.get()
            if job is None:
                self._cancel_waiting()
                return
            if priority == BATCH:
                self._run_batch(job)
            else:
                self._run(job)

    def _run_batch(self, job: Job | None) -> None:
        if self._batch_starves():
            self._begin_turn()
        if job is not None:
            self._run(job)
        self._turn_ends, self._batch_waits_since = 0.0, None
        # In this order: batch work that comes meanwhile is seen here or sets the time itself.
        if any(entry[0] == BATCH for entry in list(self._queue.queue)):
            self._batch_waits_since = time.monotonic()

    def _serve(self, *, texts: bool) -> None:
        """Answer and write until nothing is left of it, or until it is the turn of batch work."""
        while not self._batch_starves():
            waiting = self._next_before(BATCH if texts else WRITING)
            if waiting is not None:
                self._run(waiting)
            elif texts and self._writing.n_rows:
                self._writing.step()
            else:
                return

    def _take_batch(self) -> Job | None:
        """The batch work that has waited longest, out of its turn."""
        with self._queue.mutex:
            waiting = [entry for entry in self._queue.queue if entry[0] == BATCH]
            if not waiting:
                return None
            self._queue.queue.remove(min(waiting))
            heapq.heapify(self._queue.queue)
            return min(waiting)[2]

    def _batch_starves(self) -> bool:
        since = self._batch_waits_since
        return since is not None and time.monotonic() - since > PATIENCE_SECONDS

    def _batch_has_turn(self) -> bool:
        return time.monotonic() < self._turn_ends

    def _begin_turn(self) -> None:
        self._turn_ends = time.monotonic() + TURN_SECONDS

    def _cancel_waiting(self) -> None:
        """End what is still queued: whoever waits for it would wait forever."""
        while not self._queue.empty():
            _, _, job = self._queue.get()
            if job is not None:
                job.cancel()
                job.run()

    def _run(self, job: Job) -> None:
        if job.writes_texts:
            self._writing.admit(job)
        else:
            job.run()
            clean_up(job)

    def _next_before(self, priority: int) -> Job | None:
        """The next job of a higher rank, unless it has no room now."""
        try:
            entry = self._queue.get_nowait()
        except queue.Empty:
            return None
        rank, _, job = entry
        if rank < priority and job is not None and self._writing.has_room_for(job):
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
