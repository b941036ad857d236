"""The file in which profiles go from one database to another."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from sqlalchemy.orm import Session

from saif_core.errors import JobCancelled, StorageError, UnknownNameError
from saif_core.records.corpus import CorpusBlock, LatentPage, ProfileText
from saif_core.records.packing import pack_profile
from storage import Store, open_store, pending, profile_file, profile_store
from storage.corpus_store import CONTEXTS_PER_READ
from storage.pending import PendingIndex, remove_abandoned
from storage.profile_store import ProfileStore
from storage.tables import CorpusContextRow, LatentIndexRow, LatentRow, LatentTextRow
from tests.test_profile_store import (
    N_CONTEXTS,
    N_TOKENS,
    SAE,
    make_index,
    make_profile,
    n_rows,
    put,
    search,
)

pytest_plugins = ["tests.storage_fixtures"]


@pytest.fixture
def second(tmp_path: Path) -> Iterator[Store]:
    """Another database, to import into."""
    opened = open_store(f"sqlite:///{tmp_path / 'second.db'}")
    yield opened
    opened.close()


def exported(store: Store) -> bytes:
    """A file with two profiles that point to the contexts 1, 2 and 4."""
    index_id = make_index(store)
    store.profiles.put(
        index_id,
        [make_profile(2, (4, 1), s_in=0.5), make_profile(5, (4, 2))],
        [ProfileText("Water, rain", "river", "ship"), ProfileText("Éléphant", "zoo", "fire")],
    )
    return store.profiles.export(index_id)


def test_an_imported_index_is_what_was_exported(store: Store, second: Store) -> None:
    data = exported(store)
    (original,) = store.latents.indexes()
    make_index(second, "so that numbers differ")
    second.notes.add(SAE, 5, "label", "big animals")
    index_id = second.profiles.import_index(data)
    found = second.latents.indexes()[0]
    assert index_id == original.id
    assert found == original
    assert found.finished
    for latent in (2, 5):
        before = store.profiles.get(index_id, latent)
        assert pack_profile(second.profiles.get(index_id, latent)) == pack_profile(before)
    assert second.latents.density(index_id).tolist() == [0, 0, 0, N_TOKENS, 0, 0, 0, 0]
    assert second.profiles.page(index_id).rows[0] == store.profiles.page(index_id).rows[0]
    assert search(second, index_id, "ship river") == [2]
    assert search(second, index_id, "animals elephant zoo fire") == [5]
    assert second.profiles.export(index_id) == data


def test_an_imported_index_has_the_contexts_of_its_examples_only(
    store: Store, second: Store
) -> None:
    index_id = second.profiles.import_index(exported(store))
    contexts = second.profiles.contexts(index_id, range(N_CONTEXTS))
    assert {ordinal: ids.tolist() for ordinal, ids in contexts.items()} == {
        c: [10 * c, 10 * c + 1, 10 * c + 2, 10 * c + 3] for c in (1, 2, 4)
    }
    (block,) = second.latents.blocks(index_id)
    assert block.token_ids[block.context_starts[2] :].tolist() == [40, 41, 42, 43]
    assert block.counts.tolist() == [0] * 12
    assert block.documents == ("document 1", "document 2", "document 4")
    assert second.latents.firing_tokens(index_id, [3])[3].tolist() == []


def test_an_imported_index_may_lack_long_stretches_of_its_contexts(
    store: Store, second: Store
) -> None:
    index_id = make_index(store, finish=False)
    silent = CorpusBlock(
        np.arange(4 * CONTEXTS_PER_READ),
        np.arange(CONTEXTS_PER_READ) * 4,
        np.zeros(4 * CONTEXTS_PER_READ, dtype=np.int64),
        np.zeros(0, dtype=np.int64),
        np.zeros(0, dtype=np.float32),
        ("silent",) * CONTEXTS_PER_READ,
    )
    store.latents.append(index_id, silent)
    store.latents.append(index_id, silent)
    store.latents.finish(index_id)
    put(store, index_id, make_profile(3, (N_CONTEXTS + 2 * CONTEXTS_PER_READ - 1,)))
    second.profiles.import_index(store.profiles.export(index_id))
    (block,) = second.latents.blocks(index_id)
    assert block.token_ids.tolist() == [*range(4 * CONTEXTS_PER_READ)][-4:]


def test_imported_twice_is_imported_once(store: Store) -> None:
    data = exported(store)
    (index,) = store.latents.indexes()
    assert store.profiles.import_index(data) == index.id
    store.latents.delete_index(index.id)
    assert store.profiles.import_index(data) == index.id
    assert store.profiles.import_index(data) == index.id
    assert len(store.latents.indexes()) == 1
    assert store.profiles.page(index.id).n_total == 2
    store.latents.delete_index(index.id)
    assert n_rows(store, CorpusContextRow) == n_rows(store, LatentTextRow) == 0


def parts_of(data: bytes) -> list[bytes]:
    """The parts of an exported file, read by hand."""
    content = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    parts = []
    while content:
        length = int.from_bytes(content[:4], "little")
        parts.append(content[4 : 4 + length])
        content = content[4 + length :]
    return parts


def file_of(parts: list[bytes]) -> bytes:
    content = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return zstandard.ZstdCompressor().compress(content)


def with_header(parts: list[bytes], **changes: Any) -> bytes:
    header = json.loads(parts[0])
    header["index"] |= changes
    return file_of([json.dumps(header).encode(), *parts[1:]])


def damaged_files(data: bytes) -> Iterator[bytes]:
    """Files of every kind that nobody exported."""
    parts = parts_of(data)
    # The last 4 bytes are the checksum; without them, everything is still there.
    yield from (data[:length] for length in range(0, len(data) - 4, 7))
    yield bytes([*data[:-1], data[-1] ^ 1])
    yield b"PK\3\4 this is no such file"
    yield from (file_of(parts[:n]) for n in range(len(parts)))
    yield file_of([*parts, b"more"])
    yield file_of([b'{"format": "something else"}', *parts[1:]])
    yield file_of([b"[" * 100_000, *parts[1:]])
    yield file_of([b"[]", *parts[1:]])
    yield zstandard.ZstdCompressor().compress(b"\xff\xff\xff\xff")
    for changes in (
        {"d_sae": 0},
        {"d_sae": 1 << 40},
        {"d_sae": 3},
        {"d_sae": "8"},
        {"id": "../x"},
        {"n_contexts": 2},
        {"n_tokens": -1},
        {"n_nonzero": 1 << 64},
        {"extra": 1},
    ):
        yield with_header(parts, **changes)
    assert len(parts) == 14  # header, density, 2 profiles with texts, end, 3 contexts, end
    for at, part in {
        1: b"12345678",
        2: parts[2][:-1],
        3: b'["one", "two"]',
        4: pack_profile(make_profile(2)) + b"x",
        7: (3).to_bytes(4, "little") + bytes(16),  # nobody points to it
        8: b"\xff\xfe",
        9: parts[7],  # the same context again
        11: parts[11][:8],  # shorter than its examples say
    }.items():
        yield file_of([*parts[:at], part, *parts[at + 1 :]])


def test_a_file_that_was_not_exported_is_refused_whole_in_one_sentence(store: Store) -> None:
    data = exported(store)
    assert parts_of(data)[0].startswith(b'{"format"')
    (index,) = store.latents.indexes()
    store.latents.delete_index(index.id)
    for damaged in damaged_files(data):
        with pytest.raises(StorageError) as raised:
            store.profiles.import_index(damaged)
        assert str(raised.value).count(". ") == 0
        assert "failed" not in str(raised.value)
    assert store.latents.indexes() == []
    assert n_rows(store, LatentRow) == n_rows(store, CorpusContextRow) == 0
    assert store.profiles.import_index(data) == index.id


def test_a_file_of_another_version_is_refused(second: Store) -> None:
    store = open_store("sqlite://")
    parts = parts_of(exported(store))
    store.close()
    header = json.loads(parts[0]) | {"version": 2}
    with pytest.raises(StorageError, match=r"of version 2 .* reads version 1; use"):
        second.profiles.import_index(file_of([json.dumps(header).encode(), *parts[1:]]))


def test_a_file_that_unpacks_to_too_much_is_refused(
    second: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store("sqlite://")
    parts = parts_of(exported(store))
    store.close()
    monkeypatch.setattr(profile_file, "MOST_BYTES", 1 << 20)
    texts = json.dumps(["x" * 300_000] * 3).encode()
    bomb = file_of([*parts[:2], *[parts[2], texts] * 2, *parts[6:]])
    assert len(bomb) < 2000
    with pytest.raises(
        StorageError, match=r"unpacks to more than 1 MB, which is more than one of its size may"
    ):
        second.profiles.import_index(bomb)
    assert second.latents.indexes() == []


def test_an_index_without_profiles_can_be_exported(store: Store, second: Store) -> None:
    index_id = make_index(store)
    assert second.profiles.import_index(store.profiles.export(index_id)) == index_id
    assert second.profiles.page(index_id) == LatentPage((), 0)
    assert isinstance(second.profiles, ProfileStore)


def test_a_file_may_unpack_to_some_times_its_size_and_no_more(
    second: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store("sqlite://")
    data = exported(store)
    store.close()
    parts = parts_of(data)
    monkeypatch.setattr(profile_file, "MOST_BESIDES", 2 * sum(map(len, parts)))
    texts = json.dumps(["x" * 300_000, "", ""]).encode()
    with pytest.raises(StorageError, match="more than one of its size may"):
        second.profiles.import_index(file_of([*parts[:3], texts, *parts[4:]]))
    assert second.profiles.import_index(data)


def test_one_piece_of_a_file_may_be_a_megabyte_at_most(second: Store) -> None:
    store = open_store("sqlite://")
    parts = parts_of(exported(store))
    store.close()
    texts = json.dumps(["x" * (1 << 20), "", ""]).encode()
    with pytest.raises(StorageError, match="not a whole file"):
        second.profiles.import_index(file_of([*parts[:3], texts, *parts[4:]]))


def is_empty(store: Store) -> bool:
    return not any(n_rows(store, kind) for kind in (LatentIndexRow, *pending.ROW_KINDS))


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry in each transaction."""
    monkeypatch.setattr(profile_store, "ENTRIES_AT_ONCE", 1)
    monkeypatch.setattr(pending, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(profile_store, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(pending, "PAUSE_SECONDS", 0.0)


@pytest.mark.usefixtures("small_steps")
def test_nobody_sees_an_index_before_it_is_whole_and_everybody_may_write_meanwhile(
    shared_url: str,
) -> None:
    source = open_store("sqlite://")
    data = exported(source)
    (original,) = source.latents.indexes()
    source.close()
    importing, other = open_store(shared_url), open_store(shared_url)
    steps: list[tuple[int, int]] = []

    def step(done: int, total: int, message: str) -> None:
        steps.append((done, total))
        assert message.startswith("importing: ")
        # A writer that held the lock would refuse this after ten seconds.
        other.notes.add(SAE, 5, "label", f"beasts {len(steps)}")
        assert other.latents.indexes() == []
        for look in (other.profiles.page, other.latents.density, other.profiles.export):
            with pytest.raises(UnknownNameError, match="known ones are: none"):
                look(original.id)

    index_id = importing.profiles.import_index(data, step=step)
    assert index_id == original.id
    assert other.latents.indexes() == [original]
    assert len(steps) == 5  # two profiles and three contexts
    assert steps == sorted(steps)
    assert all(0 < done <= total == len(data) for done, total in steps)
    # A label that was given in the middle is found, as any other.
    assert search(other, index_id, "beasts") == [5]
    assert search(other, index_id, "beasts 5") == [5]
    for opened in (importing, other):
        opened.close()


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("at", range(1, 6))
def test_an_import_that_is_stopped_leaves_nothing(store: Store, second: Store, at: int) -> None:
    data = exported(store)
    n_steps = 0

    def step(_done: int, _total: int, _message: str) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == at:
            raise JobCancelled("stopped")

    with pytest.raises(JobCancelled):
        second.profiles.import_index(data, step=step)
    assert is_empty(second)
    assert second.profiles.import_index(data)


class Killed(BaseException):
    """Stands for the end of a process."""


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("nth", range(1, 7))
def test_what_a_killed_import_or_deletion_leaves_is_invisible_and_goes(
    shared_url: str, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    source = open_store("sqlite://")
    data = exported(source)
    source.close()
    store = open_store(shared_url)

    def kill(patch: pytest.MonkeyPatch) -> None:
        touch, n_calls = PendingIndex._touch, 0

        def touch_or_die(mine: PendingIndex, db: Session) -> bool:
            nonlocal n_calls
            n_calls += 1
            if n_calls >= nth:
                raise Killed
            return touch(mine, db)

        patch.setattr(PendingIndex, "_touch", touch_or_die)

    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            store.profiles.import_index(data)
    assert store.latents.indexes() == []
    # Somebody else imports the same; what was left is not old enough to be taken for abandoned.
    index_id = store.profiles.import_index(data)
    assert n_rows(store, LatentIndexRow) == 2
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            store.latents.delete_index(index_id)
    assert store.latents.indexes() == []
    monkeypatch.setattr(pending, "ABANDONED_SECONDS", -10)
    index = store.latents.open_index("next", "m", "s", 3)
    assert store.latents.indexes() == [index]
    store.latents.delete_index(index.id)
    assert is_empty(store)
    store.close()


@pytest.mark.usefixtures("small_steps")
def test_an_import_that_slept_so_long_that_it_was_removed_touches_no_other_index(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_store("sqlite://")
    data = exported(source)
    source.close()
    store, other = open_store(shared_url), open_store(shared_url)
    n_steps = 0

    def step(_done: int, _total: int, _message: str) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == 2:
            with monkeypatch.context() as patch:
                patch.setattr(pending, "ABANDONED_SECONDS", -10)
                remove_abandoned(other._database)
            # On SQLite, it gets the number of the one that was removed.
            make_index(other, "next")

    with pytest.raises(StorageError, match="import them again"):
        store.profiles.import_index(data, step=step)
    (index,) = other.latents.indexes()
    assert index.name == "next"
    assert n_rows(other, CorpusContextRow) == N_CONTEXTS
    for opened in (store, other):
        opened.close()


@pytest.mark.usefixtures("small_steps")
def test_two_that_import_one_file_at_once_import_it_once(shared_url: str) -> None:
    source = open_store("sqlite://")
    data = exported(source)
    source.close()
    first, second = open_store(shared_url), open_store(shared_url)
    found: list[str] = []

    def step(_done: int, _total: int, _message: str) -> None:
        if not found:
            found.append(second.profiles.import_index(data))

    found.append(first.profiles.import_index(data, step=step))
    assert found[0] == found[1]
    assert [index.id for index in first.latents.indexes()] == found[:1]
    assert n_rows(first, LatentIndexRow) == 1
    assert n_rows(first, CorpusContextRow) == 3
    assert first.profiles.export(found[0]) == data
    for opened in (first, second):
        opened.close()


@pytest.mark.usefixtures("small_steps")
def test_an_index_is_gone_from_the_first_moment_of_its_deletion(
    shared_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = open_store(shared_url), open_store(shared_url)
    index_id, kept = make_index(store), make_index(store, "kept")
    put(store, index_id, make_profile(2, (4, 1)), "water")
    put(store, kept, make_profile(2, (4, 1)), "water")
    remove, seen = PendingIndex.remove, list[list[str]]()

    def look_and_remove(mine: PendingIndex) -> None:
        seen.append([index.name for index in other.latents.indexes()])
        remove(mine)

    monkeypatch.setattr(PendingIndex, "remove", look_and_remove)
    store.latents.delete_index(index_id)
    assert seen == [["kept"]]
    assert search(other, kept, "water") == [2]
    assert n_rows(store, LatentIndexRow) == n_rows(store, LatentRow) == 1
    assert n_rows(store, CorpusContextRow) == N_CONTEXTS
    for opened in (store, other):
        opened.close()
