"""The only code that knows a database exists: records in, records out.

``open_store`` is the whole interface. It takes a SQLite or PostgreSQL URL, brings the schema up to
date and returns a `Store`, which is safe to use from several threads; several processes may open
the same database.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from saif_core.errors import StorageError
from storage.activation_cache import BYTES_PER_MB, DEFAULT_CACHE_MB, ActivationStore
from storage.database import Database
from storage.evaluation_store import EvaluationStore
from storage.job_store import JobStore
from storage.session_store import SessionStore
from storage.work_store import WorkStore

if TYPE_CHECKING:  # they import numpy, which most who open a store do not need
    from storage.corpus_store import LatentStore
    from storage.note_store import NoteStore
    from storage.profile_store import ProfileStore
    from storage.tensor_store import TensorStore

__all__ = ["Store", "open_store"]


@dataclass(frozen=True)
class Store:
    """Everything that outlives a process.

    Attributes:
        cache: what the engine computed, by content hash.
        jobs: state and progress of jobs.
        sessions: saved steering sessions.
        evaluations: finished evaluations.
        work: what people have in hand, for a while.
    """

    cache: ActivationStore
    jobs: JobStore
    sessions: SessionStore
    evaluations: EvaluationStore
    work: WorkStore
    _database: Database = field(repr=False)

    @cached_property
    def latents(self) -> "LatentStore":
        """Latent activations of corpora."""
        from storage.corpus_store import LatentStore

        return LatentStore(self._database)

    @cached_property
    def profiles(self) -> "ProfileStore":
        """What each of those corpora says of each latent."""
        from storage.profile_store import ProfileStore

        return ProfileStore(self._database)

    @cached_property
    def notes(self) -> "NoteStore":
        """What people and methods say of latents."""
        from storage.note_store import NoteStore

        return NoteStore(self._database)

    @cached_property
    def tensors(self) -> "TensorStore":
        """Learned tensors by the hash of their content."""
        from storage.tensor_store import TensorStore

        return TensorStore(self._database)

    def purge(self, older_than_days: float) -> int:
        """Number of sessions and entries of tensors removed for good.

        Sessions that were deleted longer ago than so many days go, then tensors as old that no
        session and no evaluation names any more.

        Raises:
            StorageError: the database refused.
        """
        n_sessions = self.sessions.purge(older_than_days)
        return n_sessions + self.tensors.purge_unnamed(older_than_days)

    def close(self) -> None:
        """Release every connection; an in-memory database is gone then."""
        self._database.close()


def open_store(url: str, *, cache_mb: int = DEFAULT_CACHE_MB) -> Store:
    """The store at a database URL, created or migrated to the newest schema.

    Args:
        url: ``sqlite:///path``, ``sqlite://`` (in memory) or ``postgresql://…``.
        cache_mb: what the payloads of the cache may take together, in MB of 2**20 bytes.

    Raises:
        StorageError: the URL is not one of these, the database cannot be reached, a newer SAIF
            has changed its schema, or the cache is to hold less than 1 MB.
    """
    if cache_mb < 1:
        raise StorageError(f"A cache of {cache_mb} MB was asked for; let it hold 1 MB or more.")
    database = Database(url)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    cache = ActivationStore(database, max_bytes=cache_mb * BYTES_PER_MB)
    return Store(
        cache,
        JobStore(database),
        SessionStore(database),
        EvaluationStore(database),
        WorkStore(database),
        database,
    )
