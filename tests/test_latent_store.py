"""Latent activations of a corpus, against everything that was added."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saif_core.errors import StorageError, UnknownNameError
from saif_core.records.corpus import CorpusBlock
from saif_core.records.packing import pack_activations, unpack_activations
from storage import Store, open_store
from storage.corpus_store import CONTEXTS_PER_READ, LatentStore

pytest_plugins = ["tests.storage_fixtures"]

D_SAE = 150


def make_block(n_contexts: int, seed: int, *, n_active: int = 12) -> CorpusBlock:
    """Contexts of 1 to 9 tokens."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 10, n_contexts)
    n_tokens = int(lengths.sum())
    counts = rng.integers(0, n_active, n_tokens)
    weights = 1 / np.arange(1, D_SAE + 1)
    indices = [
        rng.choice(D_SAE, n, replace=False, p=weights / weights.sum()).astype(np.int64)
        for n in counts
    ]
    return CorpusBlock(
        rng.integers(0, 1 << 32, n_tokens, dtype=np.uint32),
        np.cumsum([0, *lengths])[:-1],
        counts,
        np.concatenate([np.zeros(0, dtype=np.int64), *indices]),
        rng.lognormal(size=int(counts.sum())).astype(np.float32),
        tuple(f"document {seed}, part {j}" for j in range(n_contexts)),
    )


def split(block: CorpusBlock) -> list[CorpusBlock]:
    """The contexts of a block."""
    bounds = [*block.context_starts, len(block.token_ids)]
    first = np.concatenate([[0], np.cumsum(block.counts)])
    parts = []
    for j, name in enumerate(block.documents):
        start, end = int(bounds[j]), int(bounds[j + 1])
        nonzero = slice(int(first[start]), int(first[end]))
        parts.append(
            CorpusBlock(
                block.token_ids[start:end],
                np.zeros(1),
                block.counts[start:end],
                block.indices[nonzero],
                block.values[nonzero],
                (name,),
            )
        )
    return parts


def cut(block: CorpusBlock) -> list[CorpusBlock]:
    """The contexts of a block, with the values as they are stored."""
    parts = []
    for part in split(block):
        packed = pack_activations(part.counts, part.indices, part.values, D_SAE)
        parts.append(replace(part, values=unpack_activations(packed)[2]))
    return parts


def assert_holds(latents: LatentStore, index_id: str, blocks: list[CorpusBlock]) -> None:
    """The index holds the contexts of the blocks, in their order, and counts their latents."""
    stored = [context for block in latents.blocks(index_id) for context in split(block)]
    expected = [context for block in blocks for context in cut(block)]
    assert [context.documents for context in stored] == [c.documents for c in expected]
    for found, wanted in zip(stored, expected, strict=True):
        for name in ("token_ids", "counts", "indices", "values"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    fired = np.concatenate([block.indices.astype(np.int64) for block in blocks])
    assert latents.density(index_id).tolist() == np.bincount(fired, minlength=D_SAE).tolist()


@pytest.fixture
def latents(store: Store) -> LatentStore:
    return store.latents


def new_index(latents: LatentStore, name: str = "corpus") -> str:
    return latents.open_index(name, "model hash", "sae hash", D_SAE).id


def test_contexts_come_back_as_they_were_added_and_density_is_of_all(
    latents: LatentStore,
) -> None:
    blocks = [make_block(60, seed) for seed in range(6)]
    assert sum(len(block.documents) for block in blocks) > CONTEXTS_PER_READ
    index_id = new_index(latents)
    for number, block in enumerate(blocks):
        latents.append(index_id, block)
        if number == 3:
            latents.checkpoint(index_id)
    latents.finish(index_id)
    assert_holds(latents, index_id, blocks)


def test_a_process_that_stopped_loses_and_repeats_nothing(shared_url: str) -> None:
    blocks = [make_block(30, seed) for seed in range(4)]
    first = open_store(shared_url)
    index_id = new_index(first.latents)
    first.latents.append(index_id, blocks[0])
    first.latents.checkpoint(index_id)
    first.latents.append(index_id, blocks[1])
    first.latents.append(index_id, blocks[2])
    first.close()
    second = open_store(shared_url)
    (index,) = second.latents.indexes()
    assert (index.n_listed, index.n_contexts, index.finished) == (30, 90, False)
    assert second.latents.density(index_id).sum() == blocks[0].counts.sum()
    second.latents.append(index_id, blocks[3])
    second.latents.finish(index_id)
    assert_holds(second.latents, index_id, blocks)
    second.close()


def test_a_write_that_fails_leaves_nothing_of_its_block(
    latents: LatentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [make_block(20, seed) for seed in range(2)]
    index_id = new_index(latents)
    latents.append(index_id, blocks[0])

    def fail(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        # After the index's row has been written, inside the transaction.
        patched.setattr(latents._database, "insert", fail)
        with pytest.raises(KeyboardInterrupt):
            latents.append(index_id, blocks[1])
    assert latents.indexes()[0].n_contexts == 20
    latents.append(index_id, blocks[1])
    latents.finish(index_id)
    assert_holds(latents, index_id, blocks)


def test_an_interruption_after_the_write_counts_the_block_once(
    latents: LatentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [make_block(20, seed) for seed in range(3)]
    index_id = new_index(latents)
    latents.append(index_id, blocks[0])

    def fail(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("storage.corpus_store._Writer.take", fail)
        with pytest.raises(KeyboardInterrupt):
            latents.append(index_id, blocks[1])
    assert latents.indexes()[0].n_contexts == 40
    latents.append(index_id, blocks[2])
    latents.finish(index_id)
    assert_holds(latents, index_id, blocks)


@pytest.mark.parametrize(
    "change",
    [
        LatentStore.checkpoint,
        LatentStore.finish,
        lambda latents, index_id: latents.append(index_id, make_block(1, 9)),
    ],
)
def test_a_second_process_that_adds_is_refused(
    shared_url: str, change: Callable[[LatentStore, str], None]
) -> None:
    stores = [open_store(shared_url), open_store(shared_url)]
    index_id = new_index(stores[0].latents)
    blocks = [make_block(10, seed) for seed in range(3)]
    stores[0].latents.append(index_id, blocks[0])
    stores[1].latents.append(index_id, blocks[1])
    with pytest.raises(StorageError, match="another process has changed it"):
        change(stores[0].latents, index_id)
    # Whoever was refused begins again from what is there.
    stores[0].latents.append(index_id, blocks[2])
    stores[0].latents.finish(index_id)
    assert_holds(stores[1].latents, index_id, blocks)
    for store in stores:
        store.close()


def test_indexes_do_not_mix(latents: LatentStore) -> None:
    blocks = {name: make_block(25, seed) for seed, name in enumerate(("a", "b"))}
    index_ids = {name: new_index(latents, name) for name in blocks}
    for name, block in blocks.items():
        latents.append(index_ids[name], block)
    for name in blocks:
        latents.finish(index_ids[name])
    for name, block in blocks.items():
        assert_holds(latents, index_ids[name], [block])
    assert [index.name for index in latents.indexes()] == ["b", "a"]
    latents.delete_index(index_ids["b"])
    assert [index.name for index in latents.indexes()] == ["a"]
    assert_holds(latents, index_ids["a"], [blocks["a"]])
    # A number that is used again brings nothing back.
    again = new_index(latents, "c")
    latents.append(again, make_block(1, 9))
    latents.finish(again)
    assert_holds(latents, again, [make_block(1, 9)])


def test_an_index_says_what_it_holds(latents: LatentStore) -> None:
    block = make_block(10, 0)
    index_id = latents.open_index("n\0ame", "model hash", "sae hash", D_SAE, "layer 14").id
    latents.append(index_id, block)
    latents.finish(index_id)
    (index,) = latents.indexes()
    assert index.id == index_id
    assert (index.name, index.model_sha256, index.sae_sha256) == (
        "n\ufffdame",
        "model hash",
        "sae hash",
    )
    assert (index.d_sae, index.hook_point, index.finished) == (D_SAE, "layer 14", True)
    assert (index.n_contexts, index.n_listed) == (10, 10)
    assert (index.n_tokens, index.n_nonzero) == (len(block.token_ids), len(block.values))


def test_a_finished_index_cannot_be_changed(latents: LatentStore) -> None:
    index_id = new_index(latents)
    latents.append(index_id, make_block(1, 0))
    latents.finish(index_id)
    for change in (latents.checkpoint, latents.finish):
        with pytest.raises(StorageError, match="it is finished"):
            change(index_id)
    with pytest.raises(StorageError, match="it is finished"):
        latents.append(index_id, make_block(1, 1))


def test_an_empty_index_and_an_empty_block_are_no_error(latents: LatentStore) -> None:
    index_id = new_index(latents)
    assert latents.density(index_id).tolist() == [0] * D_SAE
    latents.append(index_id, make_block(0, 0))
    assert list(latents.blocks(index_id)) == []
    silent = make_block(2, 0, n_active=1)
    assert len(silent.values) == 0
    latents.append(index_id, silent)
    latents.finish(index_id)
    assert_holds(latents, index_id, [silent])
    assert latents.density(index_id).tolist() == [0] * D_SAE


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.uint64])
def test_any_integer_type_will_do(latents: LatentStore, dtype: type[np.integer]) -> None:
    block = make_block(20, 0)
    names = ("context_starts", "counts", "indices")
    typed = replace(block, **{name: getattr(block, name).astype(dtype) for name in names})
    index_id = new_index(latents)
    latents.append(index_id, typed)
    latents.finish(index_id)
    assert_holds(latents, index_id, [block])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"context_starts": np.array([0, 4])}, "token outside"),
        ({"context_starts": np.array([1, 2])}, "token outside"),
        ({"context_starts": np.array([0, 0])}, "context without tokens"),
        ({"context_starts": np.array([0, 2, 3])}, "token outside|documents"),
        ({"documents": ("a",)}, "documents"),
        ({"counts": np.array([1, 1, 2])}, "belong together"),
        ({"counts": np.array([1, 2])}, "belong together"),
        ({"counts": np.array([4, -1, 0])}, "belong together"),
        ({"indices": np.array([1, 2, D_SAE])}, "outside 0 to 149"),
        ({"indices": np.array([1, 2, -1])}, "outside 0 to 149"),
        ({"indices": np.array([1, 2])}, "belong together"),
        ({"values": np.array([1.0, 0.0, 2.0])}, "positive and finite"),
        ({"values": np.array([1.0, np.nan, 2.0])}, "positive and finite"),
        ({"values": np.array([1.0, np.inf, 2.0])}, "positive and finite"),
    ],
)
def test_a_block_that_contradicts_itself_is_refused_in_one_sentence(
    change: dict[str, object], problem: str
) -> None:
    store = open_store("sqlite://")
    good = CorpusBlock(
        np.array([1, 2, 3], dtype=np.uint32),
        np.array([0, 2]),
        np.array([1, 1, 1]),
        np.array([0, 1, 2]),
        np.array([1.0, 2.0, 3.0], dtype=np.float32),
        ("a", "b"),
    )
    index_id = new_index(store.latents)
    store.latents.append(index_id, good)
    with pytest.raises(StorageError, match=problem) as raised:
        store.latents.append(index_id, replace(good, **change))  # type: ignore[arg-type]
    assert str(raised.value).count(".") == 1
    assert store.latents.indexes()[0].n_contexts == 2
    store.close()


def test_what_is_not_there_is_said(latents: LatentStore) -> None:
    index_id = new_index(latents)
    for missing in (latents.checkpoint, latents.density, latents.delete_index):
        with pytest.raises(UnknownNameError, match=index_id):
            missing("nothing")
    with pytest.raises(StorageError, match="0 latents"):
        latents.open_index("none", "", "", 0)


def test_the_file_takes_at_most_six_bytes_per_activation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n_contexts, n_tokens, n_active, d_sae = 100, 128, 64, 4096
    n = n_tokens * n_active
    store = open_store(f"sqlite:///{tmp_path / 'saif.db'}")
    index_id = store.latents.open_index("corpus", "", "", d_sae).id
    for number in range(n_contexts):
        store.latents.append(
            index_id,
            CorpusBlock(
                rng.integers(0, 50_000, n_tokens, dtype=np.uint32),
                np.zeros(1, dtype=np.int64),
                np.full(n_tokens, n_active),
                rng.integers(0, d_sae, n),
                rng.lognormal(size=n),
                (f"document {number}",),
            ),
        )
    store.latents.finish(index_id)
    store.close()
    size = sum(path.stat().st_size for path in tmp_path.glob("saif.db*"))
    assert size <= 6 * n_contexts * n


def test_firing_tokens_are_numbered_over_the_whole_corpus(latents: LatentStore) -> None:
    index_id = latents.open_index("numbers", "m", "s", D_SAE).id
    blocks = [make_block(300, seed) for seed in range(2)]
    for block in blocks:
        latents.append(index_id, block)
    n_before, expected = 0, dict[int, list[int]]()
    for block in blocks:
        owners = np.repeat(np.arange(len(block.counts)), block.counts) + n_before
        for latent in (0, 3, 149):
            mine = owners[block.indices == latent].tolist()
            expected[latent] = expected.get(latent, []) + mine
        n_before += len(block.counts)
    found = latents.firing_tokens(index_id, [0, 3, 149])
    assert {latent: numbers.tolist() for latent, numbers in found.items()} == expected


def test_contexts_that_are_there_already_are_left_out(shared_url: str) -> None:
    blocks = [make_block(20, seed) for seed in range(3)]
    stores = [open_store(shared_url), open_store(shared_url)]
    index = stores[0].latents.open_index("corpus", "m", "s", D_SAE, source_sha256="text")
    # Two that read one text: now the one is ahead, now the other.
    for number, first in ((0, 0), (1, 0), (1, 20), (0, 20), (0, 40), (1, 40)):
        stores[number].latents.append(index.id, blocks[first // 20], first=first)
    with pytest.raises(StorageError, match="from 61 on .* it has only 60"):
        stores[1].latents.append(index.id, blocks[0], first=61)
    stores[1].latents.finish(index.id)
    stores[0].latents.append(index.id, blocks[2], first=40)
    assert_holds(stores[0].latents, index.id, blocks)
    for store in stores:
        store.close()


def test_two_that_open_an_index_at_once_open_one(shared_url: str) -> None:
    stores = [open_store(shared_url) for _ in range(4)]
    ready, found = threading.Barrier(4), list[str]()

    def open_it(store: Store) -> None:
        ready.wait()
        index = store.latents.open_index("corpus", "m", "s", D_SAE, source_sha256="text")
        found.append(index.id)

    threads = [threading.Thread(target=open_it, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (index,) = stores[0].latents.indexes()
    assert found == [index.id] * 4
    other = stores[0].latents.open_index("corpus", "m", "s", D_SAE, source_sha256="another text")
    unknown = [stores[0].latents.open_index("corpus", "m", "s", D_SAE) for _ in range(2)]
    assert len({index.id, other.id, *(one.id for one in unknown)}) == 4
    for store in stores:
        store.close()
