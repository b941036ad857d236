"""Sessions in every kind of database: saved, found, shared, deleted and restored."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.ranking import ChosenLatent
from saif_core.records.sessions import SESSION_SCHEMA_VERSION, SteeringSession
from saif_core.records.steering import Arm, Edit
from storage import Store
from storage.database import LISTED_IN_ERRORS
from storage.tables import SessionRow
from tests.storage_samples import KEPT_TEXT, ODD_TEXT, sample_ranking, sample_recipe, sample_session

pytest_plugins = ["tests.storage_fixtures"]

LONG_AGO = "2001-01-01T00:00:00+00:00"


def change_row(store: Store, session_id: str, **values: Any) -> None:
    with store._database.transaction("Changing a row", write=True) as db:
        db.execute(update(SessionRow).where(SessionRow.id == session_id).values(**values))


def names(store: Store, search: str = "") -> list[str]:
    return [summary.name for summary in store.sessions.list(search)]


def test_a_saved_session_comes_back_as_it_was_with_the_time_of_saving(store: Store) -> None:
    session = sample_session(created_at=LONG_AGO, updated_at=LONG_AGO)
    saved = store.sessions.save(session)
    assert saved.updated_at > LONG_AGO
    assert saved == replace(session, updated_at=saved.updated_at)
    assert store.sessions.get(session.id) == saved


def test_saving_again_replaces_the_session(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    changed = replace(saved, notes="more", recipe=sample_recipe(("three",)))
    store.sessions.save(changed)
    found = store.sessions.get(saved.id)
    assert found == replace(changed, updated_at=found.updated_at)
    assert (found.notes, found.created_at) == ("more", saved.created_at)
    assert len(store.sessions.list()) == 1


def test_a_bare_session_can_be_saved(store: Store) -> None:
    saved = store.sessions.save(SteeringSession(name="bare"))
    assert store.sessions.get(saved.id) == saved
    summary = store.sessions.list()[0]
    assert (summary.instruction, summary.model, summary.sae, summary.n_prompts) == ("", "", "", 0)


@pytest.mark.parametrize("given", [ODD_TEXT, KEPT_TEXT])
def test_odd_text_is_kept_exactly_in_the_record(given: str, store: Store) -> None:
    recipe = sample_recipe((given,))
    saved = store.sessions.save(sample_session(given, notes=given, recipe=recipe))
    found = store.sessions.get(saved.id)
    kept = sample_recipe((KEPT_TEXT,))
    assert (found.name, found.notes, found.recipe) == (KEPT_TEXT, KEPT_TEXT, kept)
    listed = names(store, "'; DROP TABLE sessions; --")[0]
    assert listed == ODD_TEXT.replace("\x00", "\ufffd").replace("\ud83d", "\ufffd")


def test_odd_ids_are_unknown_and_nothing_else(store: Store) -> None:
    store.sessions.save(sample_session())
    with pytest.raises(UnknownNameError):
        store.sessions.get(ODD_TEXT)
    assert store.sessions.get_shared(ODD_TEXT) is None
    assert names(store) == ["French"]


def test_the_list_sums_sessions_up_last_saved_first(store: Store) -> None:
    first = store.sessions.save(sample_session("first", created_at=LONG_AGO))
    time.sleep(0.01)
    second = store.sessions.save(sample_session("second", recipe=None, instruction=None))
    assert names(store) == ["second", "first"]
    time.sleep(0.01)
    first = store.sessions.save(first)
    newest, oldest = store.sessions.list()
    assert (newest.id, newest.created_at) == (first.id, LONG_AGO)
    assert newest.updated_at == first.updated_at
    assert (oldest.id, oldest.shared) == (second.id, False)
    for summary in (newest, oldest):
        assert summary.instruction == "translate-to-french"
        assert (summary.model, summary.sae) == ("tiny", "tiny/layer1")
    assert (newest.n_prompts, oldest.n_prompts) == (2, 0)


def test_the_list_names_the_sae_that_is_steered_with_and_else_the_ranked_one(store: Store) -> None:
    recipe = sample_recipe()
    by_vector = Arm("steered", edits=(Edit(layer=0, tensors="ab"),))
    by_latents = Arm("more", edits=(Edit(layer=2, sae_id="tiny/2", latents=(ChosenLatent(1, 1),)),))
    for arms, sae in (((by_vector, by_latents), "tiny/2"), ((by_vector,), "tiny/layer1")):
        asked = replace(recipe, request=replace(recipe.request, arms=arms))
        saved = store.sessions.save(sample_session(recipe=asked))
        assert {found.id: found.sae for found in store.sessions.list()}[saved.id] == sae


def test_the_list_is_no_longer_than_asked_for(store: Store) -> None:
    for number in range(3):
        store.sessions.save(sample_session(str(number)))
    assert [len(store.sessions.list(limit=limit)) for limit in (-1, 0, 2, 9)] == [0, 0, 2, 3]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", ["100% French", "Straße_É"]),
        ("  \t", ["100% French", "Straße_É"]),
        ("FRENCH", ["100% French"]),
        ("%", ["100% French"]),
        ("_", ["Straße_É"]),
        ("%%", []),
        ("1__%", []),
        ("STRASSE", ["Straße_É"]),
        ("e\u0301", ["Straße_É"]),
        ("β.SIGMA\\", ["Straße_É"]),
        ("write json", ["Straße_É"]),
        ("' OR '1'='1", []),
        ("x" * 100_000, []),
        ("tiny/layer1", []),
    ],
)
def test_search_is_literal_and_ignores_case(search: str, found: list[str], store: Store) -> None:
    bare = replace(sample_ranking(), instruction="none")
    instruction = sample_session().instruction
    assert instruction is not None
    changed = replace(instruction, name="write JSON", description="", wordings=())
    store.sessions.save(
        sample_session("100% French", notes="", instruction=None, ranking=bare, recipe=None)
    )
    store.sessions.save(sample_session("Straße_É", notes="Β.sigma\\", instruction=changed))
    assert sorted(names(store, search)) == found


def test_rename_changes_the_record_the_list_and_what_is_found(store: Store) -> None:
    saved = store.sessions.save(sample_session("old", updated_at=LONG_AGO))
    assert store.sessions.rename(saved.id, "  New name ").name == "New name"
    assert store.sessions.get(saved.id).name == "New name"
    assert names(store, "new NAME") == ["New name"]
    assert names(store, "old") == []
    with pytest.raises(StorageError, match="empty"):
        store.sessions.rename(saved.id, " \n")


def test_renaming_keeps_the_share_link(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    share_id = store.sessions.share(saved.id)
    assert store.sessions.rename(saved.id, "new").share_id == share_id
    assert store.sessions.get_shared(share_id) == store.sessions.get(saved.id)


def test_a_duplicate_is_a_session_of_its_own(store: Store) -> None:
    saved = store.sessions.save(sample_session(created_at=LONG_AGO))
    store.sessions.share(saved.id)
    copy = store.sessions.duplicate(saved.id)
    assert store.sessions.get(copy.id) == copy
    assert (copy.name, copy.share_id) == ("French (copy)", None)
    assert copy.created_at > LONG_AGO
    assert (copy.ranking, copy.recipe, copy.result) == (saved.ranking, saved.recipe, saved.result)
    store.sessions.delete(copy.id)
    assert names(store) == ["French"]


def test_deletion_hides_a_session_everywhere_and_can_be_undone(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    share_id = store.sessions.share(saved.id)
    store.sessions.delete(saved.id)
    assert names(store) == names(store, "French") == []
    assert store.sessions.get_shared(share_id) is None
    with pytest.raises(UnknownNameError):
        store.sessions.get(saved.id)
    store.sessions.restore(saved.id)
    assert store.sessions.get(saved.id) == replace(saved, share_id=share_id)
    assert store.sessions.get_shared(share_id) == store.sessions.get(saved.id)


def test_restoring_a_session_that_is_there_changes_nothing(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    store.sessions.restore(saved.id)
    assert store.sessions.get(saved.id) == saved


def test_purging_removes_for_good_what_was_deleted_long_ago_and_nothing_else(store: Store) -> None:
    kept, fresh, old = (store.sessions.save(sample_session(name)) for name in ("a", "b", "c"))
    for session in (fresh, old):
        store.sessions.delete(session.id)
    change_row(store, old.id, deleted_at=LONG_AGO)
    assert store.sessions.purge(30) == 1
    assert names(store) == ["a"]
    store.sessions.restore(fresh.id)
    with pytest.raises(UnknownNameError):
        store.sessions.restore(old.id)
    assert store.sessions.get(kept.id) == kept


def test_saving_a_deleted_session_brings_it_back_unshared(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    share_id = store.sessions.share(saved.id)
    store.sessions.delete(saved.id)
    store.sessions.save(saved)
    assert store.sessions.get(saved.id).share_id is None
    assert store.sessions.get_shared(share_id) is None


def test_a_share_link_is_unguessable_stays_the_same_and_can_be_withdrawn(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    share_id = store.sessions.share(saved.id)
    assert len(share_id) >= 22
    assert share_id != saved.id
    assert store.sessions.share(saved.id) == share_id
    assert store.sessions.get_shared(share_id) == replace(saved, share_id=share_id)
    assert store.sessions.list()[0].shared
    store.sessions.unshare(saved.id)
    assert store.sessions.get_shared(share_id) is None
    assert not store.sessions.list()[0].shared
    assert store.sessions.share(saved.id) != share_id


def test_an_old_copy_cannot_bring_back_or_lose_a_share_link(store: Store) -> None:
    unshared = store.sessions.save(sample_session())
    share_id = store.sessions.share(unshared.id)
    assert store.sessions.save(replace(unshared, notes="kept")).share_id == share_id
    shared = store.sessions.get(unshared.id)
    store.sessions.unshare(shared.id)
    assert store.sessions.save(shared).share_id is None
    assert store.sessions.get_shared(share_id) is None


def test_no_share_link_reaches_sessions_that_are_not_shared(store: Store) -> None:
    saved = store.sessions.save(sample_session(share_id="chosen-by-a-file"))
    for share_id in ("", "None", saved.id, "chosen-by-a-file", "%"):
        assert store.sessions.get_shared(share_id) is None


ACTIONS: dict[str, Callable[[Store, str], object]] = {
    "get": lambda store, id: store.sessions.get(id),
    "rename": lambda store, id: store.sessions.rename(id, "new"),
    "duplicate": lambda store, id: store.sessions.duplicate(id),
    "delete": lambda store, id: store.sessions.delete(id),
    "restore": lambda store, id: store.sessions.restore(id),
    "share": lambda store, id: store.sessions.share(id),
    "unshare": lambda store, id: store.sessions.unshare(id),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_missing_id_is_named_with_those_there_are(action: str, store: Store) -> None:
    saved = store.sessions.save(sample_session())
    with pytest.raises(UnknownNameError, match="no session called 'missing'") as raised:
        ACTIONS[action](store, "missing")
    assert raised.value.known == [saved.id]


@pytest.mark.parametrize("action", [name for name in ACTIONS if name != "restore"])
def test_a_deleted_session_is_missing(action: str, store: Store) -> None:
    saved = store.sessions.save(sample_session())
    store.sessions.delete(saved.id)
    with pytest.raises(UnknownNameError) as raised:
        ACTIONS[action](store, saved.id)
    assert raised.value.known == []


def test_a_long_list_of_known_ids_is_cut(store: Store) -> None:
    for _ in range(LISTED_IN_ERRORS + 2):
        store.sessions.save(sample_session())
    with pytest.raises(UnknownNameError, match=r"and 2 more\.$"):
        store.sessions.get("missing")


def test_a_session_of_a_newer_version_is_neither_read_nor_overwritten(store: Store) -> None:
    saved = store.sessions.save(sample_session())
    share_id = store.sessions.share(saved.id)
    record = '{"from": "the future"}'
    change_row(store, saved.id, schema_version=SESSION_SCHEMA_VERSION + 1, record=record)
    attempts: list[Callable[[], object]] = [
        lambda: store.sessions.get(saved.id),
        lambda: store.sessions.get_shared(share_id),
        lambda: store.sessions.save(saved),
        lambda: store.sessions.rename(saved.id, "new"),
        lambda: store.sessions.duplicate(saved.id),
    ]
    for act in attempts:
        with pytest.raises(StorageError, match="newer version"):
            act()
    with store._database.transaction("Reading a row") as db:
        assert db.scalar(select(SessionRow.record)) == record
    assert names(store) == ["French"]


def test_a_session_that_says_an_older_version_is_saved_as_one_of_today(store: Store) -> None:
    saved = store.sessions.save(sample_session(schema_version=SESSION_SCHEMA_VERSION - 1))
    assert saved.schema_version == SESSION_SCHEMA_VERSION
    assert store.sessions.get(saved.id) == saved


def test_a_session_of_a_newer_version_is_not_saved(store: Store) -> None:
    with pytest.raises(StorageError, match="newer version"):
        store.sessions.save(sample_session(schema_version=SESSION_SCHEMA_VERSION + 1))
    assert store.sessions.list() == []


@pytest.mark.parametrize("record", ['{"name": "cut', "[]", '{"name": "n", "surprise": 1}', "{}"])
def test_a_damaged_record_is_one_error(record: str, store: Store) -> None:
    saved = store.sessions.save(sample_session())
    change_row(store, saved.id, record=record)
    with pytest.raises(StorageError, match="not a complete session"):
        store.sessions.get(saved.id)
    store.sessions.delete(saved.id)
    assert store.sessions.list() == []


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(number: float, store: Store) -> None:
    ranking = replace(sample_ranking(), seconds=number)
    with pytest.raises(StorageError, match="not finite"):
        store.sessions.save(sample_session(ranking=ranking))
    assert store.sessions.list() == []
