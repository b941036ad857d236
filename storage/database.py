"""One database, SQLite or PostgreSQL: connections, transactions and the translation of errors.

Every statement of this package runs inside `Database.transaction`. Messages never hold the URL,
a file path, a host or a user, as they are shown to whoever uses the dashboard.
"""

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Select, create_engine, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.orm import Session as OrmSession
from sqlalchemy.pool import QueuePool

from saif_core.errors import StorageError
from storage import migrations
from storage.tables import Base

T = TypeVar("T")

BUSY_SECONDS = 10
# Databases limit the parameters of a statement; the smallest limit still in use is 999.
CHUNK = 500
LISTED_IN_ERRORS = 10
# Between two transactions of a write that takes many, so that whoever waits has a chance.
PAUSE_SECONDS = 0.005
WRITE_OPTION = "saif_write"

SQLITE_REASONS = {
    sqlite3.SQLITE_BUSY: f"something else kept the database locked for {BUSY_SECONDS} seconds; "
    "try again",
    sqlite3.SQLITE_LOCKED: "something else kept the database locked; try again",
    sqlite3.SQLITE_FULL: "the disk is full; free some space and try again",
    sqlite3.SQLITE_READONLY: "the database is read-only; let this user write to its file",
    sqlite3.SQLITE_CANTOPEN: "the database file cannot be opened; check that its folder exists "
    "and that this user may write there",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database; choose another file",
    sqlite3.SQLITE_CORRUPT: "the database file is damaged; restore it from a backup",
}


class Database:
    """A pool of connections to one database; safe from several threads.

    Args:
        url: see ``open_store``.

    Raises:
        StorageError: the URL cannot be read, or names another kind of database.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        try:
            engine = _sqlite_engine(parsed) if self.is_sqlite else _postgresql_engine(parsed)
        except ModuleNotFoundError as error:
            raise StorageError(
                "A PostgreSQL database was asked for, but its driver psycopg is not installed; "
                "install SAIF with the extra 'postgres'."
            ) from error
        except (SQLAlchemyError, ValueError, TypeError) as error:
            raise StorageError(
                "The database URL holds options that its driver does not know; remove them."
            ) from error
        self._engines = {False: engine, True: engine.execution_options(**{WRITE_OPTION: True})}

    @contextlib.contextmanager
    def transaction(self, action: str, *, write: bool = False) -> Iterator[OrmSession]:
        """A transaction that commits at the end of the block and rolls back on any error.

        Transactions do not nest: an in-memory database has a single connection.

        Args:
            action: what is being done, as the beginning of an error message.
            write: take SQLite's write lock at once; taking it half-way cannot wait for others.

        Raises:
            StorageError: the database refused.
        """
        with (
            translated(action),
            OrmSession(self._engines[write], expire_on_commit=False) as db,
            db.begin(),
        ):
            yield db

    def migrate(self) -> None:
        """Bring the schema up to date; a database that is up to date is only read.

        Raises:
            StorageError: it cannot be opened, or its schema is of a newer SAIF.
        """
        with self.transaction("Opening the database") as db:
            current = migrations.is_current(db.connection())
        if not current:
            with self.transaction("Updating the database schema", write=True) as db:
                migrations.upgrade(db.connection())

    def take_turns(self, db: OrmSession, lock: int) -> None:
        """Wait until no other transaction holds the lock, and hold it to this one's end.

        On SQLite a transaction that writes has waited for all others already.

        Args:
            lock: the same number wherever the same is done.
        """
        if not self.is_sqlite:
            db.execute(select(func.pg_advisory_xact_lock(lock)))

    def insert(self, row: type[Base]) -> sqlite.Insert | postgresql.Insert:
        """An INSERT in the database's own dialect, for its ON CONFLICT clauses."""
        return sqlite.insert(row) if self.is_sqlite else postgresql.insert(row)

    def contains(self, column: InstrumentedAttribute[str], text: str) -> ColumnElement[bool]:
        """Whether a column holds a text literally; no character of it is a wildcard."""
        position: Any = func.instr if self.is_sqlite else func.strpos
        return position(column, text) > 0  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close every connection that is not in use."""
        self._engines[False].dispose()


@contextlib.contextmanager
def translated(action: str) -> Iterator[None]:
    """Turn what the database libraries raise into StorageError.

    Args:
        action: as in ``Database.transaction``.

    Raises:
        StorageError: a statement or a connection in the block failed.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise StorageError(f"{action} failed: {_reason(error)}.") from error


def chunks(values: Iterable[T]) -> Iterator[list[T]]:
    """As many values at a time as one statement may name."""
    rest = iter(values)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def some_ids(db: OrmSession, query: Select[str]) -> list[str]:
    """The first ids that a query finds, as an error lists them, and how many more there are."""
    ids = [*db.scalars(query.limit(LISTED_IN_ERRORS))]
    total = db.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    return ids + ([f"and {total - len(ids)} more"] if total > len(ids) else [])


def _reason(error: Exception) -> str:
    origin = getattr(error, "orig", None) or error
    if isinstance(origin, sqlite3.Error):
        code = getattr(origin, "sqlite_errorcode", None)
        known = SQLITE_REASONS.get(code & 0xFF) if code is not None else None
        if known:
            return known
    elif isinstance(error, OperationalError):
        return (
            "the database server cannot be reached or closed the connection; check that it runs "
            "and that the database URL is right"
        )
    if isinstance(error, PoolTimeoutError):
        return f"every connection was in use for {BUSY_SECONDS} seconds; try again"
    return f"the database answered with {type(origin).__name__}; try again"


def _parse_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StorageError(
            "The database URL cannot be read; write it as sqlite:///path or "
            "postgresql://user:password@host/name."
        ) from error
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        return parsed.set(drivername="sqlite+pysqlite")
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    raise StorageError(
        f"The database URL begins with {parsed.drivername!r}, but SAIF keeps its data in SQLite "
        "or PostgreSQL; begin it with sqlite:/// or postgresql://."
    )


def _postgresql_engine(url: URL) -> Engine:
    return create_engine(
        url,
        hide_parameters=True,
        pool_pre_ping=True,
        pool_timeout=BUSY_SECONDS,
        connect_args={"connect_timeout": BUSY_SECONDS},
    )


def _sqlite_engine(url: URL) -> Engine:
    in_memory = url.database in (None, "", ":memory:")
    engine = create_engine(
        url,
        hide_parameters=True,
        poolclass=QueuePool,
        # In memory, a second connection would be a second, empty database.
        pool_size=1 if in_memory else 5,
        max_overflow=0 if in_memory else 10,
        pool_timeout=BUSY_SECONDS,
        connect_args={
            "timeout": BUSY_SECONDS,
            "check_same_thread": False,
            # The driver would begin transactions by itself, too late to hold the write lock.
            "isolation_level": None,
        },
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").close()
            return
        except sqlite3.OperationalError as error:
            # SQLite does not wait by itself while another process turns WAL on.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE_OPTION)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
