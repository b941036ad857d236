"""Job: the handle of work that an engine has queued; it knows nothing of models."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from saif_core.errors import JobCancelled, SaifError
from saif_core.records.as_json import new_id, utc_now
from saif_core.records.jobs import JobRecord
from saif_core.records.ports import JobLog
from saif_core.records.texts import TokenEvent

LOG_INTERVAL_SECONDS = 0.5
log = logging.getLogger(__name__)


class Job:
    """Queued work with progress, events, a result and a way to stop it; safe from any thread.

    Attributes:
        id, kind, title: what it is, for people and URLs.
        request: what was asked for.
        writes_texts: its work is rows for a decoder, which writes them with those of others.

    Args:
        log: is told every change of state.
        summarize: the result as the log keeps it.
        explain: turns what went wrong into what people are told.
    """

    def __init__(
        self,
        kind: str,
        title: str,
        request: Any,
        work: Callable[["Job"], Any],
        *,
        log: JobLog | None = None,
        summarize: Callable[[Any], dict[str, Any] | None] = lambda _result: None,
        explain: Callable[[BaseException], BaseException] = lambda error: error,
        writes_texts: bool = False,
    ) -> None:
        self.id = new_id()
        self.kind = kind
        self.title = title
        self.request = request
        self.writes_texts = writes_texts
        self._work = work
        self._log = log
        self._summarize = summarize
        self._explain = explain
        self._record = JobRecord(id=self.id, kind=kind, title=title)
        self._result: Any = None
        self._error: BaseException | None = None
        self._events: list[TokenEvent] = []
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._finished = threading.Event()
        self._cancelled = threading.Event()
        self._last_logged = 0.0
        self._save(force=True)

    @property
    def record(self) -> JobRecord:
        """State now."""
        with self._lock:
            return self._record

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is finished, after waiting for at most so many seconds."""
        return self._finished.wait(timeout)

    def finished(self) -> bool:
        """Whether it is done, failed or cancelled."""
        return self._finished.is_set()

    def result(self, timeout: float | None = None) -> Any:
        """What the work returned; waits for it.

        Raises:
            SaifError: the work failed, or was cancelled.
            TimeoutError: it is not finished after ``timeout`` seconds.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError(f"{self.title} is not finished after {timeout} s.")
        if self._error is not None:
            raise self._error
        return self._result

    @property
    def error(self) -> BaseException | None:
        """What the work raised, if it failed."""
        return self._error

    def cancel(self) -> None:
        """Ask the work to stop at its next step; a queued job never starts."""
        self._cancelled.set()

    def events(self, start: int = 0) -> list[TokenEvent]:
        """Token events from number ``start`` on."""
        with self._lock:
            return self._events[start:]

    def add_event(self, event: TokenEvent) -> None:
        """Publish a token."""
        with self._lock:
            self._events.append(event)

    def step(self, done: int, total: int, message: str) -> None:
        """Report progress; never more than all of it.

        Raises:
            JobCancelled: someone asked the job to stop.
        """
        if self._cancelled.is_set():
            raise JobCancelled(f"{self.title} was stopped.")
        self._update(done=min(done, total), total=total, message=message)

    def beat(self) -> None:
        """Tell the log that this job is still known, though nothing has happened to it."""
        if not self.finished():
            self._update(force=True)

    def run(self) -> None:
        """Do the work on the calling thread; every outcome ends up in the job."""
        with self.settling():
            self.start()
            self.finish(self.prepare())

    def start(self) -> None:
        """Begin.

        Raises:
            JobCancelled: someone asked the job to stop before it began.
        """
        self.step(0, 0, "starting")
        self._update(force=True, state="running")

    def prepare(self) -> Any:
        """What the work returns: the result or, of work done in shared steps, what goes on."""
        return self._work(self)

    def finish(self, result: Any) -> None:
        """End with a result."""
        self._result = result
        self._update(force=True, state="done", result=self._summarize(result))
        self._finished.set()

    def forget_summary(self) -> None:
        """Drop the copy of the result that was made for the log, which has it by now."""
        with self._lock:
            if self._finished.is_set() and self._log is not None:
                self._record = replace(self._record, result=None)

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Whatever is raised inside ends this job as failed or cancelled, and goes no further."""
        try:
            yield
        except BaseException as raised:
            self._error = raised
            # Explaining an error must not hide it, nor end the thread that works for everybody.
            with suppress(Exception):
                self._error = self._explain(raised)
            self._record_failure(self._error)
            self._finished.set()
            if not isinstance(raised, Exception):
                raise

    def _record_failure(self, error: BaseException) -> None:
        if isinstance(error, JobCancelled):
            self._update(force=True, state="cancelled", error=str(error))
        elif isinstance(error, SaifError):
            self._update(force=True, state="failed", error=str(error))
        else:
            # What went wrong inside is for the log of the process, not for a page.
            sentence = f"{self.title} failed unexpectedly; see the log."
            self._update(force=True, state="failed", error=sentence)

    def _update(self, *, force: bool = False, **changes: Any) -> None:
        with self._lock:
            self._record = replace(self._record, heartbeat_at=utc_now(), **changes)
        self._save(force=force)

    def _save(self, *, force: bool) -> None:
        if self._log is None:
            return
        now = time.monotonic()
        if force or now - self._last_logged >= LOG_INTERVAL_SECONDS:
            self._last_logged = now
            try:
                # One after the other, or what was true before could be written last.
                with self._saving:
                    self._log.save_job(self.record)
            except Exception:
                # The work goes on, and its handle has its state, while the store is out of reach.
                log.exception("The state of %r could not be kept", self.title)
