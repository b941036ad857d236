"""The file in which profiles go from one database to another."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from saif_core.errors import StorageError
from saif_core.records.corpus import CorpusBlock, LatentPage, ProfileText
from saif_core.records.packing import pack_profile
from storage import Store, open_store, profile_file
from storage.corpus_store import CONTEXTS_PER_READ
from storage.profile_store import ProfileStore
from storage.tables import CorpusContextRow, LatentRow, LatentTextRow
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
    with pytest.raises(StorageError, match=r"unpacks to more than 1 MB; export fewer"):
        second.profiles.import_index(bomb)
    assert second.latents.indexes() == []


def test_an_index_without_profiles_can_be_exported(store: Store, second: Store) -> None:
    index_id = make_index(store)
    assert second.profiles.import_index(store.profiles.export(index_id)) == index_id
    assert second.profiles.page(index_id) == LatentPage((), 0)
    assert isinstance(second.profiles, ProfileStore)
