"""The engine's cache in every kind of database."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from saif_core.errors import StorageError
from saif_core.records import ActivationCache
from storage import Store
from storage.activation_cache import CHUNK, TOUCH_AFTER_SECONDS, ActivationStore
from storage.database import Database

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


@pytest.fixture
def cache(database_url: str, clock: Clock) -> Iterator[ActivationStore]:
    database = Database(database_url)
    database.migrate()
    yield ActivationStore(database, clock)
    database.close()


def test_payloads_come_back_and_missing_keys_do_not(store: Store) -> None:
    engine_side: ActivationCache = store.cache
    payloads = {"a": b"\x00\xff", "b": b"", "'; DROP TABLE activations; --": b"x", "é": b"y"}
    engine_side.put_many(payloads)
    assert engine_side.get_many([*payloads, "missing", "a"]) == payloads


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


def test_what_was_used_last_is_evicted_last(cache: ActivationStore, clock: Clock) -> None:
    for key in ("a", "b", "c"):
        cache.put_many({key: b"1234"})
        clock.now += 10
    clock.now += 2 * TOUCH_AFTER_SECONDS
    cache.get_many(["a"])
    assert cache.evict(max_bytes=9) == 1
    assert sorted(cache.get_many(["a", "b", "c"])) == ["a", "c"]
    assert cache.evict(max_bytes=7) == 1
    assert sorted(cache.get_many(["a", "b", "c"])) == ["a"]
    assert cache.evict(max_bytes=4) == 0
    assert cache.evict(max_bytes=0) == 1
    assert cache.size_bytes() == 0


def test_uses_soon_after_one_another_write_nothing(cache: ActivationStore, clock: Clock) -> None:
    cache.put_many({"a": b"1"})
    clock.now += 10
    cache.put_many({"b": b"1"})
    clock.now += 10
    cache.get_many(["a"])
    cache.evict(max_bytes=1)
    assert list(cache.get_many(["a", "b"])) == ["b"]


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
