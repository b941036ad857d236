"""The schema and its history; ``versions/`` holds one file per change, in Alembic's form.

A new revision is made with a copy of the newest file in ``versions/``; a test compares the schema
they lead to with ``tables.py``.
"""

import threading
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from saif_core.errors import StorageError

FOLDER = Path(__file__).parent
POSTGRESQL_LOCK = 0x53414946

# Alembic hands the connection to env.py through module globals.
_alembic = threading.Lock()


def is_current(connection: Connection) -> bool:
    """Whether the schema is the newest one that this version of SAIF knows.

    Raises:
        StorageError: the schema was made by a newer SAIF.
    """
    scripts = ScriptDirectory.from_config(_config())
    found = set(MigrationContext.configure(connection).get_current_heads())
    if not found <= {script.revision for script in scripts.walk_revisions()}:
        raise StorageError(
            "The database was to be opened, but a newer version of SAIF has changed it; "
            "update SAIF or choose another database."
        )
    return found == set(scripts.get_heads())


def upgrade(connection: Connection) -> None:
    """Run every missing revision inside the connection's open transaction, all or none.

    Whoever comes second waits for the first and finds nothing left to do: SQLite's write lock is
    held by the transaction already, PostgreSQL gets a lock of its own.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRESQL_LOCK})
    config = _config()
    config.attributes["connection"] = connection
    with _alembic:
        command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config
