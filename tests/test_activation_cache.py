"""The engine's cache in every kind of database."""

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as OrmSession

from saif_core.errors import StorageError
from saif_core.records.ports import ActivationCache
from saif_core.saes.latents import LatentActivations, to_payload
from storage import Store, activation_cache, open_store
from storage.activation_cache import (
    CHUNK,
    MEASURE_AFTER_SECONDS,
    PIECE_BITS,
    PIECE_BYTES,
    TOUCH_AFTER_SECONDS,
    ActivationStore,
    _measure,
)
from storage.database import Database
from storage.tables import ActivationTailRow

pytest_plugins = ["tests.storage_fixtures"]


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_payloads_come_back_and_missing_keys_do_not(store: Store) -> None:
    engine_side: ActivationCache = store.cache
    payloads = {"a": b"\x00\xff", "b": b"", "'; DROP TABLE activations; --": b"x", "é": b"y"}
    engine_side.put_many(payloads)
    assert engine_side.get_many([*payloads, "missing", "a"]) == payloads


@pytest.mark.parametrize("n_bytes", [PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 9500])
def test_payloads_of_any_size_come_back_and_go_whole(n_bytes: int, store: Store) -> None:
    rng = np.random.default_rng(0)
    payloads = {str(number): rng.bytes(n_bytes) for number in range(3)}
    store.cache.put_many(payloads)
    store.cache.put_many({"0": b"", "3": b"new"})
    assert store.cache.get_many(["0", "1", "2", "3"]) == {**payloads, "3": b"new"}
    assert store.cache.size_bytes() == 3 * n_bytes + 3
    ActivationStore(store._database, max_bytes=1).put_many({"4": b"too long"})
    assert store.cache.get_many(list(payloads)) == {}
    with store._database.transaction("Counting") as db:
        assert db.scalar(select(func.count()).select_from(ActivationTailRow)) == 0


def test_an_entry_that_lost_a_piece_is_not_there(store: Store) -> None:
    store.cache.put_many({"a": bytes(3 * PIECE_BYTES)})
    store.cache.put_many({"b": bytes(3 * PIECE_BYTES)})
    with store._database.transaction("Deleting", write=True) as db:
        db.execute(delete(ActivationTailRow).where(ActivationTailRow.id == (1 << PIECE_BITS) + 1))
    assert list(store.cache.get_many(["a", "b"])) == ["b"]


def test_nothing_asked_for_is_nothing_done(store: Store) -> None:
    store.cache.put_many({})
    assert store.cache.get_many([]) == {}
    assert store.cache.size_bytes() == 0


def test_the_first_payload_of_a_key_stays(store: Store) -> None:
    store.cache.put_many({"a": b"first"})
    store.cache.put_many({"a": b"other", "b": b"new"})
    assert store.cache.get_many(["a", "b"]) == {"a": b"first", "b": b"new"}
    assert store.cache.size_bytes() == len(b"first" + b"new")


@pytest.mark.parametrize("n", [CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 7])
def test_any_number_of_keys_can_be_asked_for(n: int, store: Store) -> None:
    payloads = {f"{number:064x}": number.to_bytes(4, "big") for number in range(n)}
    store.cache.put_many(payloads)
    assert store.cache.get_many(list(payloads)) == payloads
    assert store.cache.size_bytes() == 4 * n


def test_a_write_that_fails_half_way_leaves_nothing(store: Store) -> None:
    payloads: dict[str, bytes] = {f"{number:04d}": b"x" for number in range(900)}
    payloads["zzzz"] = memoryview(b"abcdef")[::2]  # type: ignore[assignment]
    with pytest.raises((StorageError, BufferError, TypeError)):
        store.cache.put_many(payloads)
    assert store.cache.size_bytes() == 0
    store.cache.put_many({"a": b"x"})
    assert store.cache.size_bytes() == 1


@pytest.fixture
def bounded(database_url: str, clock: Clock) -> Iterator[ActivationStore]:
    """A cache of at most 1,000 bytes."""
    database = Database(database_url)
    database.migrate()
    yield ActivationStore(database, clock, max_bytes=1000)
    database.close()


def test_writing_beyond_the_bound_evicts_the_oldest_down_to_nine_tenths(
    bounded: ActivationStore, clock: Clock
) -> None:
    for number in range(10):
        bounded.put_many({str(number): bytes(100)})
        clock.now += 1
    assert bounded.size_bytes() == 1000
    bounded.put_many({"10": bytes(100)})
    assert bounded.size_bytes() == 900
    assert set(bounded.get_many([str(n) for n in range(11)])) == {str(n) for n in range(2, 11)}


def test_what_was_read_long_after_it_was_written_outlives_what_was_not(
    bounded: ActivationStore, clock: Clock
) -> None:
    for number in range(10):
        bounded.put_many({str(number): bytes(100)})
        clock.now += 1
    clock.now += 2 * TOUCH_AFTER_SECONDS
    bounded.get_many(["0"])
    bounded.put_many({"10": bytes(100)})
    assert set(bounded.get_many(["0", "1", "2", "3"])) == {"0", "3"}


def test_uses_soon_after_one_another_write_nothing(bounded: ActivationStore, clock: Clock) -> None:
    for key in ("a", "b"):
        bounded.put_many({key: bytes(500)})
        clock.now += 10
    bounded.get_many(["a"])
    bounded.put_many({"c": bytes(100)})
    assert set(bounded.get_many(["a", "b", "c"])) == {"b", "c"}


def test_writing_what_is_there_already_evicts_nothing(bounded: ActivationStore) -> None:
    payloads = {str(number): bytes(100) for number in range(9)}
    for _ in range(5):
        bounded.put_many(payloads)
    assert bounded.get_many(list(payloads)) == payloads


def test_one_write_larger_than_the_bound_ends_within_it(bounded: ActivationStore) -> None:
    bounded.put_many({str(number): bytes(100) for number in range(CHUNK + 50)})
    assert 0 < bounded.size_bytes() <= 1000


def test_most_writes_do_not_measure_the_cache(
    bounded: ActivationStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(db: OrmSession) -> int:
        measured.append(clock.now)
        return _measure(db)

    monkeypatch.setattr("storage.activation_cache._measure", measure)
    for number in range(9):
        bounded.put_many({str(number): bytes(100)})
        clock.now += 1
    assert len(measured) == 1


def test_two_writers_of_one_database_keep_its_bound_together(shared_url: str, clock: Clock) -> None:
    databases = [Database(shared_url), Database(shared_url)]
    databases[0].migrate()
    writers = [ActivationStore(database, clock, max_bytes=1000) for database in databases]
    for number in range(8):
        for who, writer in enumerate(writers):
            writer.put_many({f"{who}-{number}": bytes(100)})
    assert writers[0].size_bytes() <= 2000
    clock.now += MEASURE_AFTER_SECONDS + 1
    writers[0].put_many({"last": bytes(100)})
    assert writers[0].size_bytes() <= 1000
    for database in databases:
        database.close()


def test_a_write_that_fails_evicts_nothing(bounded: ActivationStore) -> None:
    bounded.put_many({str(number): bytes(100) for number in range(10)})
    broken: dict[str, bytes] = {"a": bytes(100), "b": memoryview(b"abcdef")[::2]}  # type: ignore[dict-item]
    with pytest.raises((StorageError, BufferError, TypeError)):
        bounded.put_many(broken)
    assert bounded.size_bytes() == 1000


@pytest.mark.parametrize("n_rows", [1, 3, 8, 10, 24])
def test_the_file_takes_at_most_six_bytes_per_activation(n_rows: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n_payloads, n_active, d_sae = 4000 // n_rows, 64, 65_536
    open_store(f"sqlite:///{tmp_path / 'empty.db'}").close()
    n_empty = (tmp_path / "empty.db").stat().st_size
    store = open_store(f"sqlite:///{tmp_path / 'saif.db'}")
    for batch in range(10):
        payloads = {}
        for number in range(n_payloads // 10):
            n = n_rows * n_active
            row = LatentActivations(
                np.arange(n_rows + 1) * n_active,
                rng.integers(0, d_sae, n),
                rng.lognormal(size=n).astype(np.float32),
                np.zeros(n_rows, dtype=np.int64),
                d_sae,
            )
            key = hashlib.sha256(f"{batch} {number}".encode()).hexdigest()
            payloads[key] = to_payload(row)
        store.cache.put_many(payloads)
    store.close()
    n_nonzero = n_payloads // 10 * 10 * n_rows * n_active
    n_bytes = sum(path.stat().st_size for path in tmp_path.glob("saif.db*"))
    assert n_bytes - n_empty <= 6 * n_nonzero


def test_a_reader_does_not_fail_because_a_use_cannot_be_written_down(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.database.BUSY_SECONDS", 0)
    path = tmp_path / "saif.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    cache = ActivationStore(database, clock)
    cache.put_many({"a": b"1"})
    clock.now += 2 * TOUCH_AFTER_SECONDS
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert cache.get_many(["a"]) == {"a": b"1"}
    with pytest.raises(StorageError, match="Writing to the cache failed: .*locked"):
        cache.put_many({"b": b"1"})
    other.execute("ROLLBACK")
    other.close()
    cache.put_many({"b": b"1"})
    assert cache.size_bytes() == 2
    database.close()


def test_room_is_made_in_short_transactions(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url)
    database.migrate()
    cache = ActivationStore(database, max_bytes=100_000)
    monkeypatch.setattr(activation_cache, "EVICTED_AT_ONCE", 5_000)
    transaction, actions = database.transaction, list[str]()

    def counted(action: str, *, write: bool = False) -> Any:
        actions.append(action)
        return transaction(action, write=write)

    monkeypatch.setattr(database, "transaction", counted)
    for number in range(101):
        cache.put_many({str(number): bytes(1_000)})
    # What was written last stays, and is there before room is made for the next.
    assert cache.size_bytes() <= 90_000
    assert cache.get_many(["100"]) == {"100": bytes(1_000)}
    first = actions.index("Making room in the cache")
    assert actions[first - 2 : first] == ["Writing to the cache", "Measuring the cache"]
    assert actions.count("Making room in the cache") == 3
    database.close()
