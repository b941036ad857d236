"""Learned tensors in every kind of database."""

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save
from sqlalchemy import func, select, update

from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.ports import TensorPort
from storage import Store, open_store, tensor_store
from storage.database import CHUNK, Database
from storage.evaluation_store import EvaluationStore
from storage.session_store import SessionStore
from storage.tables import EvaluationRow, SessionRow, TensorsRow
from storage.tensor_store import DTYPES, SECONDS_PER_DAY, TensorStore
from tests.storage_samples import (
    ODD_TEXT,
    sample_evaluation,
    sample_recipe,
    sample_session,
)

pytest_plugins = ["tests.storage_fixtures"]


class Clock:
    """Seconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tensors(database_url: str, clock: Clock) -> Iterator[TensorStore]:
    database = Database(database_url)
    database.migrate()
    yield TensorStore(database, clock)
    database.close()


def low_rank(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "up": rng.standard_normal((5, 2), dtype=np.float32),
        "down": rng.standard_normal((2, 5)).astype(np.float16),
        "layers": np.array([3, 7]),
    }


def n_entries(tensors: TensorStore) -> int:
    with tensors._database.transaction("Counting") as db:
        return db.scalar(select(func.count()).select_from(TensorsRow)) or 0


def stored(tensors: TensorStore, sha256: str) -> TensorsRow:
    query = select(TensorsRow).where(TensorsRow.sha256 == sha256)
    with tensors._database.transaction("Looking") as db:
        row = db.scalars(query).one()
        assert row.n_bytes == len(row.payload)
        return row


def test_tensors_come_back_as_they_were_put(store: Store) -> None:
    engine_side: TensorPort = store.tensors
    sha256 = engine_side.put(low_rank(), note="a map")
    found = engine_side.get(sha256)
    assert set(found) == set(low_rank())
    for name, tensor in low_rank().items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype
        assert found[name].flags.writeable
    assert store.tensors.has(sha256)
    assert not store.tensors.has("0" * 64)


def test_the_hash_is_that_of_the_safetensors_bytes(tensors: TensorStore) -> None:
    sha256 = tensors.put(low_rank())
    payload = stored(tensors, sha256).payload
    assert hashlib.sha256(payload).hexdigest() == sha256
    assert set(load(payload)) == set(low_rank())


def test_the_same_content_is_one_entry(tensors: TensorStore, clock: Clock) -> None:
    first = tensors.put(low_rank(), note="first")
    clock.now += 10
    backwards = dict(reversed(low_rank().items()))
    assert tensors.put(backwards, note="second") == first
    assert n_entries(tensors) == 1
    row = stored(tensors, first)
    assert (row.note, row.put_at) == ("first", int(clock.now))
    assert tensors.put(low_rank(1)) != first
    assert tensors.put({"name": np.ones(2)}) != tensors.put({"other": np.ones(2)})
    assert tensors.put({"x": np.zeros(4)}) != tensors.put({"x": np.zeros((2, 2))})


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_that_is_named_can_be_stored(dtype: str) -> None:
    store = open_store("sqlite://")
    tensor = np.array([[1, 0, 3]]).astype(dtype)
    found = store.tensors.get(store.tensors.put({"x": tensor}))["x"]
    assert (found.dtype, found.tolist()) == (tensor.dtype, tensor.tolist())
    store.close()


def test_what_counts_is_the_content_and_not_how_it_lies_in_memory() -> None:
    store = open_store("sqlite://")
    tensor = np.arange(12, dtype=np.float32).reshape(3, 4)
    sha256 = store.tensors.put({"x": tensor})
    wide = np.repeat(tensor, 2, axis=1)
    for same in (np.asfortranarray(tensor), wide[:, ::2], tensor.astype(">f4")):
        assert store.tensors.put({"x": same}) == sha256
    found = store.tensors.get(store.tensors.put({"t": tensor.T, "scalar": np.array(2.5)}))
    np.testing.assert_array_equal(found["t"], tensor.T)
    assert (found["scalar"].shape, float(found["scalar"])) == ((), 2.5)
    store.close()


@pytest.mark.parametrize(
    ("tensors", "problem"),
    [
        ({}, "there is none"),
        ({"": np.ones(1)}, "name that cannot be stored"),
        ({"__metadata__": np.ones(1)}, "name that cannot be stored"),
        ({"a\0": np.ones(1)}, "name that cannot be stored"),
        ({"a\ud83d": np.ones(1)}, "name that cannot be stored"),
        ({"x": np.ones(1, dtype=np.complex64)}, "its type is complex64; .*float32"),
        ({"x": np.array(["a"])}, "its type is str"),
        ({"x": np.array([None])}, "its type is object"),
        ({"x": np.zeros(1, dtype="V2")}, "its type is void"),
        ({"ok": np.ones(1), "x": np.array([1.0, np.nan])}, "'x' .* not finite"),
        ({"x": np.array([-np.inf], dtype=np.float16)}, "not finite"),
        ({"x": np.ones(300)}, "Tensors of 0.0 MB .* store fewer"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_one_sentence(
    tensors: dict[str, np.ndarray], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_store, "MOST_BYTES", 2000)
    store = open_store("sqlite://")
    with pytest.raises(StorageError, match=problem) as raised:
        store.tensors.put(tensors)
    assert str(raised.value).endswith(".")
    assert str(raised.value).count(". ") == 0
    assert n_entries(store.tensors) == 0
    store.tensors.put({"x": np.ones(250)})
    store.close()


def test_an_unknown_hash_is_said_and_the_known_ones_are_named(store: Store) -> None:
    sha256 = store.tensors.put(low_rank())
    for unknown in ("missing", ODD_TEXT, ""):
        assert not store.tensors.has(unknown)
        with pytest.raises(UnknownNameError, match=f"the known ones are: {sha256}"):
            store.tensors.get(unknown)


@pytest.mark.parametrize(
    "payload",
    [b"", b"not tensors", save({"x": np.ones(2)}), json.dumps({"x": [1]}).encode()],
)
def test_a_payload_that_is_not_what_was_put_is_refused(store: Store, payload: bytes) -> None:
    sha256 = store.tensors.put(low_rank())
    with store._database.transaction("Damaging", write=True) as db:
        db.execute(update(TensorsRow).values(payload=payload))
    with pytest.raises(StorageError, match="not what was put there; restore") as raised:
        store.tensors.get(sha256)
    assert str(raised.value).count(".") == 1


def test_odd_text_is_noted_as_far_as_databases_can(tensors: TensorStore) -> None:
    shown = ODD_TEXT.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")
    assert stored(tensors, tensors.put(low_rank(), note=ODD_TEXT)).note == shown


def test_only_what_is_old_and_not_in_use_is_purged(tensors: TensorStore, clock: Clock) -> None:
    named, unused, again = (tensors.put(low_rank(seed)) for seed in range(3))
    clock.now += 8 * SECONDS_PER_DAY
    young = tensors.put(low_rank(3))
    assert tensors.put(low_rank(2)) == again
    assert tensors.purge([named, "of another database"], older_than_days=7) == 1
    assert [tensors.has(sha256) for sha256 in (named, unused, again, young)] == [
        True,
        False,
        True,
        True,
    ]
    assert tensors.purge({named}, older_than_days=7) == 0
    clock.now += 8 * SECONDS_PER_DAY
    assert tensors.purge({named}, older_than_days=7) == 2
    assert set(tensors.get(named)) == set(low_rank())
    assert tensors.put(low_rank(1)) == unused


def test_any_number_of_entries_can_be_purged_and_in_use(tensors: TensorStore) -> None:
    with tensors._database.transaction("Filling", write=True) as db:
        db.add_all(
            TensorsRow(sha256=f"{n:064x}", note="", n_bytes=0, put_at=0, payload=b"")
            for n in range(2 * CHUNK + 7)
        )
    in_use = [f"{n:064x}" for n in range(CHUNK - 1, 3 * CHUNK)]
    assert tensors.purge(in_use, older_than_days=1) == CHUNK - 1
    assert n_entries(tensors) == CHUNK + 8
    assert tensors.purge([], older_than_days=1) == CHUNK + 8


def test_a_vector_is_the_tensor_that_edits_read(tensors: TensorStore) -> None:
    sha256 = tensors.put_vector([1, -2.5, 1e-3], note="of a test")
    assert tensors.put({"vector": np.array([1, -2.5, 1e-3], dtype=np.float32)}) == sha256
    assert stored(tensors, sha256).note == "of a test"
    with pytest.raises(StorageError, match="not finite"):
        tensors.put_vector([float("nan")])


def test_a_vector_can_be_put_by_a_transaction_under_way(tensors: TensorStore) -> None:
    class Stop(Exception):
        pass

    def put_and_stop() -> None:
        with tensors._database.transaction("Writing", write=True) as db:
            found.append(tensors.put_vector([2.0], db=db))
            raise Stop

    found: list[str] = []
    with pytest.raises(Stop):
        put_and_stop()
    assert not tensors.has(found[0])
    with tensors._database.transaction("Writing", write=True) as db:
        assert tensors.put_vector([2.0], db=db) == found[0]
    assert tensors.has(found[0])


def test_an_entry_goes_to_another_store_as_its_bytes(tensors: TensorStore) -> None:
    sha256 = tensors.put(low_rank())
    payload = tensors.payload(sha256)
    assert hashlib.sha256(payload).hexdigest() == sha256
    elsewhere = open_store("sqlite://")
    assert elsewhere.tensors.put_payload(payload, note="copied") == sha256
    assert elsewhere.tensors.payload(sha256) == payload
    elsewhere.close()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not tensors",
        save({"b": np.ones(2)}, {"made": "by hand"}),
        save({"x": np.zeros(0, dtype=np.float32)})[:-1],
        (1 << 62).to_bytes(8, "little") + b"{}",
    ],
)
def test_bytes_that_no_store_wrote_are_refused(payload: bytes) -> None:
    store = open_store("sqlite://")
    with pytest.raises(StorageError, match="not as a store of SAIF writes them") as raised:
        store.tensors.put_payload(payload)
    assert str(raised.value).count(".") == 1
    assert n_entries(store.tensors) == 0
    store.close()


def test_what_sessions_and_evaluations_name_is_found_in_their_records(
    tensors: TensorStore,
) -> None:
    names = [f"{number:064x}" for number in range(10)]
    sessions, evaluations = SessionStore(tensors._database), EvaluationStore(tensors._database)
    for name in names[:3]:
        sessions.save(sample_session(recipe=sample_recipe(tensors=name)))
    sessions.save(sample_session())
    # Neither a text that looks like an edit nor what is no hash counts.
    sessions.save(sample_session(notes=f'"tensors": "{names[3]}"'))
    sessions.save(sample_session(recipe=sample_recipe(tensors="no hash")))
    found = sample_evaluation()
    edit = replace(found.made[0].edits[0], tensors=names[4])
    evaluations.save(replace(found, made=(replace(found.made[0], edits=(edit,)),)), ())
    evaluations.save(sample_evaluation(), ())
    assert tensors.named_in(SessionRow.record) == set(names[:3])
    assert tensors.named_in(EvaluationRow.record) == {names[4]}


def test_no_record_is_read_while_no_entry_is_old(
    tensors: TensorStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors.put(low_rank())
    monkeypatch.setattr(tensors, "named_in", lambda _column: pytest.fail("read"))
    assert tensors.purge_unnamed(7) == 0
    monkeypatch.undo()
    clock.now += 8 * SECONDS_PER_DAY
    assert tensors.purge_unnamed(7) == 1


def test_threads_may_put_the_same_content_at_once(store: Store) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(store.tensors.put(low_rank())))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == n_entries(store.tensors) == 1


def test_two_processes_share_what_was_put(shared_url: str) -> None:
    stores = [open_store(shared_url), open_store(shared_url)]
    sha256 = stores[0].tensors.put(low_rank())
    assert stores[1].tensors.put(low_rank()) == sha256
    assert set(stores[1].tensors.get(sha256)) == set(low_rank())
    for opened in stores:
        opened.close()
