"""The only code that knows a database exists: records in, records out.

``open_store`` is the whole interface. It takes a SQLite or PostgreSQL URL, brings the schema up to
date and returns a `Store`, which is safe to use from several threads; several processes may open
the same database.
"""

from dataclasses import dataclass, field

from storage.activation_cache import ActivationStore
from storage.database import Database
from storage.job_store import JobStore
from storage.session_store import SessionStore

__all__ = ["Store", "open_store"]


@dataclass(frozen=True)
class Store:
    """Everything that outlives a process.

    Attributes:
        cache: what the engine computed, by content hash.
        jobs: state and progress of jobs.
        sessions: saved steering sessions.
    """

    cache: ActivationStore
    jobs: JobStore
    sessions: SessionStore
    _database: Database = field(repr=False)

    def close(self) -> None:
        """Release every connection; an in-memory database is gone then."""
        self._database.close()


def open_store(url: str) -> Store:
    """The store at a database URL, created or migrated to the newest schema.

    Args:
        url: ``sqlite:///path``, ``sqlite://`` (in memory) or ``postgresql://…``.

    Raises:
        StorageError: the URL is not one of these, the database cannot be reached, or a newer SAIF
            has changed its schema.
    """
    database = Database(url)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return Store(ActivationStore(database), JobStore(database), SessionStore(database), database)
