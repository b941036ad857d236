"""One contract for SQLite in memory, SQLite in a file and PostgreSQL."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, text

from saif_core.errors import StorageError, UnknownNameError
from saif_core.records import (
    ChosenLatent,
    Instruction,
    JobRecord,
    SteeringRecipe,
    SteeringSession,
    Wording,
)
from storage import Store, open_store
from storage.tables import Base
from tests.storage_fixtures import database_url, postgres_server

__all__ = ["database_url", "postgres_server"]


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = open_store(database_url)
    yield opened
    opened.close()


def make_session(name: str = "French", **changes: object) -> SteeringSession:
    session = SteeringSession(
        name=name,
        notes="α = µ + βσ",
        instruction=Instruction(
            "translate-to-french", "d", "language", {}, (Wording("In French"),)
        ),
        recipe=SteeringRecipe(
            "m", "h", "m/layer14", "h2", "blocks.14.hook_resid_post", (ChosenLatent(7, 1.5),)
        ),
        prompts=("one", "two"),
    )
    return replace(session, **changes)


class TestSessions:
    def test_saved_session_comes_back_as_it_was(self, store: Store) -> None:
        saved = store.sessions.save(make_session())
        assert store.sessions.get(saved.id) == saved
        changed = store.sessions.save(replace(saved, notes="more"))
        assert store.sessions.get(saved.id).notes == "more"
        assert changed.created_at == saved.created_at

    def test_list_shows_the_last_changed_first(self, store: Store) -> None:
        first = store.sessions.save(make_session("first"))
        second = store.sessions.save(make_session("second"))
        with store._database.writing() as transaction:
            transaction.execute(
                text("UPDATE steering_session SET updated_at = '2999' WHERE id = :id"),
                {"id": first.id},
            )
        assert [s.id for s in store.sessions.list()] == [first.id, second.id]
        summary = store.sessions.list()[1]
        assert (summary.model, summary.sae, summary.n_prompts) == ("m", "m/layer14", 2)
        assert summary.instruction == "translate-to-french"
        assert len(store.sessions.list(limit=1)) == 1

    @pytest.mark.parametrize(
        ("search", "found"),
        [
            ("FRENCH", ["100% French", "Ünïcode"]),
            ("%", ["100% French"]),
            ("_", []),
            ("ÜNÏ", ["Ünïcode"]),
            ("µ + Β", ["100% French", "Ünïcode"]),
            ("'; DROP TABLE steering_session; --", []),
        ],
    )
    def test_search_is_literal_and_ignores_case(
        self, search: str, found: list[str], store: Store
    ) -> None:
        for name in ("100% French", "Ünïcode"):
            store.sessions.save(make_session(name))
        assert sorted(s.name for s in store.sessions.list(search)) == sorted(found)

    def test_rename_and_duplicate(self, store: Store) -> None:
        saved = store.sessions.save(make_session())
        store.sessions.share(saved.id)
        assert store.sessions.rename(saved.id, "  New ").name == "New"
        assert store.sessions.list("new")[0].id == saved.id
        copy = store.sessions.duplicate(saved.id)
        assert copy.id != saved.id
        assert copy.share_id is None
        assert copy.recipe == saved.recipe
        with pytest.raises(StorageError, match="empty"):
            store.sessions.rename(saved.id, "  ")

    def test_delete_can_be_undone(self, store: Store) -> None:
        saved = store.sessions.save(make_session())
        link = store.sessions.share(saved.id)
        store.sessions.delete(saved.id)
        assert store.sessions.list() == []
        assert store.sessions.get_shared(link) is None
        with pytest.raises(UnknownNameError):
            store.sessions.get(saved.id)
        store.sessions.restore(saved.id)
        shared = store.sessions.get_shared(link)
        assert shared is not None
        assert shared.id == saved.id

    def test_share_links_are_long_revocable_and_survive_saving(self, store: Store) -> None:
        saved = store.sessions.save(make_session())
        link = store.sessions.share(saved.id)
        assert len(link) >= 22
        assert store.sessions.share(saved.id) == link
        store.sessions.save(replace(saved, notes="x", share_id=None))
        found = store.sessions.get_shared(link)
        assert found is not None
        assert found.share_id == link
        assert store.sessions.list()[0].shared
        store.sessions.unshare(saved.id)
        assert store.sessions.get_shared(link) is None
        assert store.sessions.share(saved.id) != link
        assert store.sessions.get_shared("guess") is None

    def test_unknown_ids_are_named(self, store: Store) -> None:
        for act in (
            store.sessions.get,
            store.sessions.delete,
            store.sessions.restore,
            store.sessions.share,
            store.sessions.duplicate,
        ):
            with pytest.raises(UnknownNameError, match="nothing-here"):
                act("nothing-here")

    def test_session_of_a_newer_format_is_refused(self, store: Store) -> None:
        saved = store.sessions.save(make_session(schema_version=99))
        with pytest.raises(StorageError, match="newer version"):
            store.sessions.get(saved.id)


class TestJobs:
    def test_jobs_are_updated_in_place(self, store: Store) -> None:
        job = JobRecord("a", "rank", "Find")
        store.jobs.save_job(job)
        store.jobs.save_job(replace(job, state="done", result={"x": [1.5]}))
        assert store.jobs.get("a") == replace(job, state="done", result={"x": [1.5]})
        assert store.jobs.get("b") is None
        assert len(store.jobs.list()) == 1

    def test_only_silent_unfinished_jobs_are_lost(self, store: Store) -> None:
        old = "2001-01-01T00:00:00+00:00"
        store.jobs.save_job(JobRecord("old", "rank", "t", state="running", heartbeat_at=old))
        store.jobs.save_job(JobRecord("done", "rank", "t", state="done", heartbeat_at=old))
        store.jobs.save_job(JobRecord("new", "rank", "t", state="running"))
        assert store.jobs.mark_lost(60) == 1
        states = {job.id: job.state for job in store.jobs.list()}
        assert states == {"old": "lost", "done": "done", "new": "running"}


class TestCache:
    def test_payloads_come_back_and_the_first_one_stays(self, store: Store) -> None:
        many = {f"{n:064x}": bytes([n % 256]) * 3 for n in range(1000)}
        store.cache.put_many(many)
        assert store.cache.get_many([*many, "missing"]) == many
        store.cache.put_many({f"{1:064x}": b"other", "f" * 64: b"new"})
        assert store.cache.get_many([f"{1:064x}", "f" * 64]) == {
            f"{1:064x}": b"\x01" * 3,
            "f" * 64: b"new",
        }
        assert store.cache.size_bytes() == 3003
        store.cache.put_many({})
        assert store.cache.get_many([]) == {}

    def test_failed_write_leaves_nothing_behind(self, store: Store) -> None:
        broken: dict[str, bytes] = {f"{n:064x}": b"x" for n in range(900)}
        broken["z" * 64] = None  # type: ignore[assignment]
        with pytest.raises((StorageError, TypeError)):
            store.cache.put_many(broken)
        assert store.cache.size_bytes() == 0

    def test_threads_may_write_at_once(self, store: Store) -> None:
        errors: list[Exception] = []

        def write(number: int) -> None:
            try:
                for turn in range(10):
                    store.cache.put_many({f"{turn:032x}{n:032x}": b"abc" for n in range(20)})
                    store.jobs.save_job(JobRecord(f"job-{number}", "rank", f"turn {turn}"))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert store.cache.size_bytes() == 600
        assert len(store.jobs.list()) == 4


WRITER = """
import sys
from storage import open_store
store = open_store(sys.argv[1])
for turn in range(15):
    store.cache.put_many({f"{turn:032x}{n:032x}": bytes(50) for n in range(50)})
"""


def test_two_processes_may_open_and_write_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'saif.db'}"
    runs = [
        subprocess.Popen([sys.executable, "-c", WRITER, url], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in runs:
        _, stderr = run.communicate(timeout=120)
        assert run.returncode == 0, stderr
    store = open_store(url)
    assert store.cache.size_bytes() == 15 * 50 * 50
    store.close()


def test_migrations_make_the_tables_that_the_code_expects(database_url: str) -> None:
    store = open_store(database_url)
    found = inspect(store._database.engine)
    for table in Base.metadata.sorted_tables:
        columns = {column["name"] for column in found.get_columns(table.name)}
        assert columns == set(table.columns.keys())
    store.sessions.save(make_session())
    store._database.migrate()
    assert len(store.sessions.list()) == 1
    store.close()


def test_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'saif.db'}"
    open_store(url).close()
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(StorageError, match="newer version"):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter2@h/d", "nonsense", "sqlite:////no/such/folder/saif.db"]
)
def test_unusable_url_is_one_sentence_without_its_secrets(url: str) -> None:
    with pytest.raises(StorageError) as raised:
        open_store(url)
    assert "hunter2" not in str(raised.value)
    assert "/no/such" not in str(raised.value)


def test_importing_storage_does_not_import_torch() -> None:
    code = "import sys, storage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
