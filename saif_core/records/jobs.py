"""State of queued work."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from saif_core.records.as_json import Record, utc_now

# Progress: (done, total, what is being done); may raise to stop the work.
Step = Callable[[int, int, str], None]
JobState = Literal["queued", "running", "done", "failed", "cancelled", "lost"]


@dataclass(frozen=True)
class JobRecord(Record):
    """State of a job as others see it; times are ISO 8601."""

    id: str
    kind: str
    title: str
    state: JobState = "queued"
    done: int = 0
    total: int = 0
    message: str = ""
    error: str = ""
    result: dict[str, Any] | None = None
    created_at: str = field(default_factory=utc_now)
    heartbeat_at: str = field(default_factory=utc_now)
