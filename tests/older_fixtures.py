"""Fixtures of what earlier versions wrote: a database, and the evaluation in it."""

import gzip
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from storage import Store, open_store

ASSETS = Path(__file__).parent / "assets"


@pytest.fixture(scope="module")
def database_bytes() -> bytes:
    return gzip.decompress((ASSETS / "schema0005.db.gz").read_bytes())


@pytest.fixture
def database_path(tmp_path: Path, database_bytes: bytes) -> Path:
    path = tmp_path / "old.db"
    path.write_bytes(database_bytes)
    return path


@pytest.fixture
def migrated(database_path: Path) -> Iterator[Store]:
    """A store on the database that an earlier version wrote."""
    opened = open_store(f"sqlite:///{database_path}")
    yield opened
    opened.close()


@pytest.fixture
def old_evaluation(database_path: Path) -> dict[str, Any]:
    """The evaluation in it, as it is stored."""
    connection = sqlite3.connect(database_path)
    (record,) = connection.execute("SELECT record FROM evaluations").fetchone()
    connection.close()
    found: dict[str, Any] = json.loads(record)
    return found
