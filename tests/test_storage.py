"""Opening a store, its schema, and what several threads and processes do to it at once."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, inspect, text, update

from saif_core.errors import StorageError, UnknownNameError
from saif_core.records import ports
from saif_core.records.corpus import CorpusBlock
from saif_core.records.jobs import JobRecord
from saif_core.records.notes import LatentDescription
from storage import Store, open_store
from storage.database import Database
from storage.migrations import FOLDER, _config
from storage.session_store import SessionStore
from storage.tables import Base, SessionRow, TensorsRow
from tests.storage_samples import sample_evaluation, sample_recipe, sample_session

pytest_plugins = ["tests.storage_fixtures"]

ROOT = Path(__file__).parent.parent
HEAD = "0011"

WRITER = """
import sys
from saif_core.records.jobs import JobRecord
from saif_core.records.sessions import SteeringSession
from storage import open_store

url, number = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
store = open_store(url)
for turn in range(15):
    keys = [f"{turn}-{n}" for n in range(50)]
    store.cache.put_many({key: bytes(40) for key in (keys if number == "0" else keys[::-1])})
    assert len(store.cache.get_many(keys)) == 50
    store.jobs.save_job(JobRecord("same", "rank", f"{number}: {turn}"))
    store.sessions.save(SteeringSession(name=f"{number}: {turn}"))
    store.sessions.save(SteeringSession(name="both", id="same", notes=number * 1000))
store.close()
"""

HALF_WRITER = """
import sys
from sqlalchemy import insert
from storage.database import Database
from storage.tables import ActivationRow

with Database(sys.argv[1]).transaction("Writing", write=True) as db:
    rows = [{"key": str(n).encode(), "used_at": 0, "n_bytes": 9000, "head": bytes(9000)}
            for n in range(1000)]
    db.execute(insert(ActivationRow), rows)
    print("ready", flush=True)
    sys.stdin.readline()
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that has said that it is ready and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        pytest.fail(process.communicate()[1])
    return process


def revision(store: Store) -> str | None:
    with store._database.transaction("Reading the revision") as db:
        return MigrationContext.configure(db.connection()).get_current_revision()


def test_a_new_database_gets_exactly_the_schema_of_the_tables(store: Store) -> None:
    assert ScriptDirectory(str(FOLDER)).get_heads() == [HEAD]
    assert revision(store) == HEAD
    with store._database.transaction("Comparing the schema") as db:
        # The full-text index is the database's own matter; SQLAlchemy has no word for it.
        options = {
            "compare_type": True,
            "include_name": lambda name, *_: not (name or "").startswith("latent_search"),
        }
        context = MigrationContext.configure(db.connection(), opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_a_database_that_is_up_to_date_is_only_read(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(store._database._engines[False], "before_cursor_execute", note)
    store._database.migrate()
    assert any("alembic_version" in statement for statement in statements)
    assert not [s for s in statements if "CREATE" in s or "INSERT" in s or "IMMEDIATE" in s]
    assert store.sessions.get(saved.id) == saved


def test_what_was_written_is_there_after_opening_again(shared_url: str) -> None:
    store = open_store(shared_url)
    saved = store.sessions.save(sample_session())
    store.cache.put_many({"a": b"1"})
    store.jobs.save_job(JobRecord("a", "rank", "t"))
    store.close()
    again = open_store(shared_url)
    assert again.sessions.get(saved.id) == saved
    assert again.cache.get_many(["a"]) == {"a": b"1"}
    assert [job.id for job in again.jobs.list()] == ["a"]
    again.close()


def test_the_store_is_what_the_engine_wants_of_one(store: Store) -> None:
    cache: ports.ActivationCache = store.cache
    jobs: ports.JobLog = store.jobs
    tensors: ports.TensorPort = store.tensors
    evaluations: ports.EvaluationLog = store.evaluations
    contexts: ports.ContextStore = store.latents
    profiles: ports.ProfileWriter = store.profiles
    notes: ports.NoteLog = store.notes
    assert all((cache, jobs, tensors, evaluations, contexts, profiles))
    notes.add_description(LatentDescription("sae hash", 7, "judge", "French words"))
    (found,) = store.notes.descriptions("sae hash", 7)
    assert (found.method, found.text) == ("judge", "French words")


def test_tensors_stay_while_anything_names_them_and_go_with_the_last(store: Store) -> None:
    names = [store.tensors.put_vector([float(number)]) for number in range(4)]
    of_session, of_deleted, of_evaluation, of_nothing = names
    kept = store.sessions.save(sample_session(recipe=sample_recipe(tensors=of_session)))
    gone = store.sessions.save(sample_session(recipe=sample_recipe(tensors=of_deleted)))
    found = sample_evaluation()
    edit = replace(found.made[0].edits[0], tensors=of_evaluation)
    store.evaluations.save(replace(found, made=(replace(found.made[0], edits=(edit,)),)), ())
    store.sessions.delete(gone.id)
    assert store.purge(30) == 0
    age_tensors(store, days=31)
    assert store.purge(30) == 1
    assert [store.tensors.has(name) for name in names] == [True, True, True, False]
    store.sessions.restore(gone.id)
    store.sessions.delete(gone.id)
    with store._database.transaction("Making it old", write=True) as db:
        long_ago = update(SessionRow).where(SessionRow.id == gone.id)
        db.execute(long_ago.values(deleted_at="2001-01-01T00:00:00+00:00"))
    assert store.purge(30) == 2
    assert [store.tensors.has(name) for name in names] == [True, False, True, False]
    store.evaluations.delete(found.id)
    assert store.purge(30) == 1
    assert store.tensors.has(of_session)
    assert store.sessions.get(kept.id) == kept
    assert of_nothing not in str(kept)


def age_tensors(store: Store, days: float) -> None:
    with store._database.transaction("Making them old", write=True) as db:
        db.execute(update(TensorsRow).values(put_at=TensorsRow.put_at - int(days * 86_400)))


def test_a_database_of_a_newer_version_is_refused_and_left_alone(shared_url: str) -> None:
    store = open_store(shared_url)
    with store._database.transaction("Changing the revision", write=True) as db:
        db.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match="newer version"):
        open_store(shared_url)
    assert revision(store) == "9999"
    store.close()


def test_a_migration_that_fails_leaves_no_table(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise StorageError("stopped half-way")

    monkeypatch.setattr("alembic.operations.Operations.create_index", fail)
    with pytest.raises(StorageError, match="half-way"):
        open_store(shared_url)
    monkeypatch.undo()
    store = open_store(shared_url)
    assert revision(store) == HEAD
    store.close()


def test_a_database_of_the_first_schema_keeps_its_sessions_and_loses_its_cache(
    shared_url: str,
) -> None:
    database = Database(shared_url)
    config = _config()
    with database.transaction("Making the first schema", write=True) as db:
        config.attributes["connection"] = db.connection()
        command.upgrade(config, "0001")
        db.execute(text("INSERT INTO activations VALUES ('a', 1, 1, 'x')"))
    saved = SessionStore(database).save(sample_session())
    database.close()
    store = open_store(shared_url)
    assert revision(store) == HEAD
    assert store.sessions.get(saved.id) == saved
    assert store.cache.size_bytes() == 0
    store.cache.put_many({"a": b"1"})
    assert store.cache.get_many(["a"]) == {"a": b"1"}
    store.close()


def test_a_database_with_lists_of_largest_activations_keeps_its_contexts(
    shared_url: str,
) -> None:
    old = open_store(shared_url)
    index_id = old.latents.open_index("corpus", "model hash", "sae hash", 3).id
    block = CorpusBlock(
        np.array([7, 8]), np.array([0]), np.array([1, 2]), np.array([2, 0, 2]), np.ones(3), ("a",)
    )
    old.latents.append(index_id, block)
    old.latents.checkpoint(index_id)
    old.latents.append(index_id, block)
    config = _config()
    with old._database.transaction("Going back to the schema with lists", write=True) as db:
        config.attributes["connection"] = db.connection()
        command.downgrade(config, "0005")
        db.execute(text("INSERT INTO latent_lists VALUES (4294967296, 'x')"))
    old.close()
    store = open_store(shared_url)
    assert revision(store) == HEAD
    store.latents.append(index_id, block)
    store.latents.finish(index_id)
    assert store.latents.density(index_id).tolist() == [3, 0, 6]
    (found,) = store.latents.blocks(index_id)
    assert found.token_ids.tolist() == [7, 8] * 3
    with store._database.transaction("Looking") as db:
        assert "latent_lists" not in inspect(db.connection()).get_table_names()
    store.close()


def test_every_revision_can_be_undone(shared_url: str) -> None:
    store = open_store(shared_url)
    config = _config()
    with store._database.transaction("Going back", write=True) as db:
        config.attributes["connection"] = db.connection()
        command.downgrade(config, "base")
    store.close()
    again = open_store(shared_url)
    assert revision(again) == HEAD
    again.close()


@pytest.mark.parametrize("cache_mb", [0, -1])
def test_a_cache_without_room_is_refused_in_one_sentence(cache_mb: int) -> None:
    with pytest.raises(StorageError, match=f"A cache of {cache_mb} MB .* 1 MB or more.$"):
        open_store("sqlite://", cache_mb=cache_mb)


def test_two_processes_may_open_a_new_database_and_write_at_once(shared_url: str) -> None:
    writers = [start(WRITER, shared_url, str(number)) for number in range(2)]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    store = open_store(shared_url)
    assert store.cache.size_bytes() == 15 * 50 * 40
    assert len(store.sessions.list()) == 2 * 15 + 1
    assert store.sessions.get("same").notes in ("0" * 1000, "1" * 1000)
    assert len(store.jobs.list()) == 1
    store.close()


def test_a_write_that_a_killed_process_left_half_done_is_not_visible(shared_url: str) -> None:
    store = open_store(shared_url)
    writer = start(HALF_WRITER, shared_url)
    assert store.cache.get_many(["0", "999"]) == {}
    writer.kill()
    writer.communicate()
    assert store.cache.size_bytes() == 0
    store.cache.put_many({"0": b"whole"})
    assert store.cache.get_many(["0", "999"]) == {"0": b"whole"}
    store.close()


def test_threads_may_read_and_write_at_once(store: Store) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for turn in range(10):
                store.cache.put_many({f"{turn}-{n}": b"abc" for n in range(20)})
                store.jobs.save_job(JobRecord(f"job-{number}", "rank", f"turn {turn}"))
                assert len(store.cache.get_many([f"{turn}-0", f"{turn}-19"])) == 2
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.cache.size_bytes() == 10 * 20 * 3
    assert len(store.jobs.list()) == 4


@pytest.mark.parametrize("error", [UnknownNameError("session", "x", []), KeyboardInterrupt()])
def test_a_transaction_left_by_an_error_changes_nothing(error: BaseException, store: Store) -> None:
    def leave() -> None:
        with store._database.transaction("Writing", write=True) as db:
            db.execute(text("DELETE FROM alembic_version"))
            raise error

    with pytest.raises(type(error)):
        leave()
    assert revision(store) == HEAD


def test_a_refused_statement_names_neither_itself_nor_its_values(store: Store) -> None:
    with (
        pytest.raises(StorageError) as raised,
        store._database.transaction("Doing this", write=True) as db,
    ):
        db.execute(text("SELECT :value FROM no_such_table"), {"value": "hunter2"})
    assert str(raised.value).startswith("Doing this failed: the database answered with ")
    assert "no_such_table" not in str(raised.value)
    assert "hunter2" not in f"{raised.value.__cause__}"


def test_sqlite_files_are_set_up_for_several_processes(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'saif.db'}")
    with store._database.transaction("Reading the settings") as db:
        found = {
            name: db.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    store.close()
    assert found == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000}


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+pysqlite://"])
def test_every_in_memory_store_is_its_own(url: str) -> None:
    first, second = open_store(url), open_store(url)
    first.sessions.save(sample_session())
    assert len(first.sessions.list()) == 1
    assert second.sessions.list() == []
    first.close()
    second.close()


def make_text(path: Path) -> None:
    path.write_text("This is a letter, and not a database at all. " * 50)


def make_damaged(path: Path) -> None:
    open_store(f"sqlite:///{path}").close()
    content = bytearray(path.read_bytes())
    content[100:4096] = os.urandom(3996)
    path.write_bytes(content)


def make_locked(path: Path) -> None:
    # Kept open by the module, so that the lock outlives this function.
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    LOCKS.append(connection)


LOCKS: list[sqlite3.Connection] = []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_text, "not a SQLite database"),
        (make_damaged, "damaged|answered with"),
        (Path.mkdir, "cannot be opened"),
        (make_locked, "locked"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_without_its_path(
    make: Callable[[Path], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.database.BUSY_SECONDS", 0)
    path = tmp_path / "hunter2.db"
    make(path)
    with pytest.raises(StorageError, match=message) as raised:
        open_store(f"sqlite:///{path}")
    while LOCKS:
        LOCKS.pop().close()
    assert "hunter2" not in str(raised.value)
    assert str(raised.value).count(".") == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:hunter2@host/base", "'mysql'"),
        ("mysql+hunter://me:hunter2@host/base", "'mysql\\+hunter'"),
        ("hunter2", "cannot be read"),
        ("postgresql://me:hunter2@host:port/base", "cannot be read"),
        ("", "cannot be read"),
        ("sqlite:////no/such/hunter2/saif.db", "cannot be opened"),
        ("sqlite:///saif.db?timeout=hunter2", "options"),
        ("postgresql://me:hunter2@127.0.0.1:9/base", "cannot be reached"),
        ("postgresql://me:hunter2@127.0.0.1:9/base?colour=hunter2", "failed"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence_without_its_secrets(
    url: str, message: str
) -> None:
    with pytest.raises(StorageError, match=message) as raised:
        open_store(url)
    for secret in ("hunter2", "127.0.0.1", "me:", "/no/such"):
        assert secret not in str(raised.value)


def test_postgresql_without_its_driver_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(StorageError, match="extra 'postgres'"):
        Database("postgresql://host/base")


def test_importing_storage_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, storage; print(sorted({'torch', 'numpy', 'psycopg'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
