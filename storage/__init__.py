"""Everything that is kept: sessions, jobs and the activation cache, in SQLite or PostgreSQL.

``open_store(url)`` is the only way in; records go in and come out, never rows. It knows nothing of
models, and importing it does not import torch.
"""

from storage.activation_cache import StoredActivationCache
from storage.database import Database
from storage.job_store import JobStore
from storage.session_store import SessionStore

__all__ = ["Store", "open_store"]


class Store:
    """The three stores over one database.

    Attributes:
        cache: latent activations and responses, keyed by content.
        jobs: state and results of rankings and generations.
        sessions: what people saved.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.cache = StoredActivationCache(database)
        self.jobs = JobStore(database)
        self.sessions = SessionStore(database)

    def close(self) -> None:
        """Close every connection."""
        self._database.close()


def open_store(url: str) -> Store:
    """The store at a database URL, its schema created or brought up to date.

    Args:
        url: an SQLAlchemy URL such as ``sqlite:///saif.db`` or ``postgresql+psycopg://…``.

    Raises:
        StorageError: the database cannot be opened or is newer than this SAIF.
    """
    database = Database(url)
    database.migrate()
    return Store(database)
