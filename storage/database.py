"""One database: its engine, its transactions, its schema version.

Every SQLAlchemy error becomes a StorageError here, without the URL or the statement in it.
"""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool

from saif_core.errors import StorageError

BUSY_SECONDS = 10
_MIGRATIONS = Path(__file__).parent / "migrations"
_MIGRATION_LOCK = 728_411  # any constant: processes that migrate the same PostgreSQL share it


class Database:
    """An SQLAlchemy engine with short transactions; safe from several threads.

    Raises:
        StorageError: the URL is not one of SQLite or PostgreSQL.
    """

    def __init__(self, url: str) -> None:
        try:
            parsed = make_url(url)
            dialect = parsed.get_backend_name()
            if dialect not in ("sqlite", "postgresql"):
                raise StorageError(
                    f"The database is of kind {dialect!r}; use an SQLite or PostgreSQL URL."
                )
            options: dict[str, Any] = {}
            if dialect == "sqlite":
                options["connect_args"] = {"timeout": BUSY_SECONDS, "check_same_thread": False}
                if parsed.database in (None, "", ":memory:"):
                    # One connection for all threads: each new one would be an empty database.
                    options["poolclass"] = StaticPool
            self.engine = create_engine(parsed, **options)
        except (SQLAlchemyError, ImportError) as error:
            raise StorageError(
                "The database URL cannot be used; give one like sqlite:///saif.db or "
                "postgresql+psycopg://user:password@host/database, with its driver installed."
            ) from error
        self._writer = self.engine.execution_options(sqlite_begin="IMMEDIATE")
        # All threads share the one connection of an in-memory database, so they take turns.
        self._turn = threading.RLock() if "poolclass" in options else contextlib.nullcontext()
        if dialect == "sqlite":
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @property
    def dialect(self) -> str:
        """Name of the database: "sqlite" or "postgresql"."""
        return self.engine.dialect.name

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that only reads.

        Raises:
            StorageError: the database refused.
        """
        with self._turn, _translated_errors(), Session(self.engine) as session, session.begin():
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session that commits at the end, or rolls back on any error.

        On SQLite it waits for other writers at its start: a transaction that reads first and
        writes later would be refused at once when somebody wrote in between.

        Raises:
            StorageError: the database refused.
        """
        with self._turn, _translated_errors(), Session(self._writer) as session, session.begin():
            yield session

    def migrate(self) -> None:
        """Bring the schema to the newest revision; a newer one is refused.

        Raises:
            StorageError: the database cannot be reached or was made by a newer SAIF.
        """
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        scripts = ScriptDirectory.from_config(config)
        head = scripts.get_current_head()
        with _translated_errors(), self.engine.connect() as connection:
            if _revision(connection) == head:
                return
        with _translated_errors(), self._writer.connect() as connection:
            # Two processes may open a new database at once: the second waits, then finds it done.
            if self.dialect == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            current = _revision(connection)
            known = {script.revision for script in scripts.walk_revisions()}
            if current is not None and current not in known:
                raise StorageError(
                    "The database was made by a newer version of SAIF; update SAIF, or point "
                    "SAIF_DATABASE_URL to another database."
                )
            if current != head:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            connection.commit()

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # Python's driver would open transactions by itself and commit before each schema change.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise StorageError(
            f"The database refused the request ({type(error).__name__}); check that it is "
            "reachable, writable and has free space, then try again."
        ) from error
