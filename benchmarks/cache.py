"""Size and speed of stored latent activations and profiles, next to two plainer ways of storing.

Synthetic activations: 64 of 65,536 latents fire on a token, some often and most rarely
(Zipf-like), with lognormal values; contexts have 128 tokens. Profiles are as long as those of the
default SAEs, with 16 examples each. Everything is in SQLite files, read back through a new
connection while the operating system still has their pages in memory.

    .venv/bin/python benchmarks/cache.py [--tokens N] [--json FILE]
"""

import argparse
import hashlib
import json
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from saif_core.records.corpus import (
    HISTOGRAM_BINS,
    QUANTILES,
    CorpusBlock,
    LatentProfile,
    ProfileExample,
    ProfileText,
)
from saif_core.records.packing import pack_activations
from storage import Store, open_store

T = TypeVar("T")

D_SAE = 65_536
N_ACTIVE = 64
CONTEXT_TOKENS = 128
BLOCK_CONTEXTS = 128
N_SEGMENTS = 5
N_QUERIES = 25
N_EXAMPLES = 16
N_LISTED = 10
N_LOGIT_BINS = 20
WINDOW_TOKENS, FIRING_IN_WINDOW = 24, 4
PROFILES_PER_WRITE = 512
PAGE_LATENTS = 50
DENSE_CONTEXTS = 15
ROWS_CONTEXTS = 160


@dataclass(frozen=True)
class Figure:
    """One measured quantity: the median of ``n`` measurements, the smallest and the largest."""

    store: str
    quantity: str
    unit: str
    median: float
    smallest: float
    largest: float
    n: int
    tokens: int


class Figures:
    """Figures of one way of storing, on so many tokens."""

    def __init__(self, store: str, tokens: int) -> None:
        self.store = store
        self.tokens = tokens
        self.all: list[Figure] = []

    def add(self, quantity: str, unit: str, values: list[float]) -> None:
        """Enter measurements of a quantity."""
        self.all.append(
            Figure(
                self.store,
                quantity,
                unit,
                statistics.median(values),
                min(values),
                max(values),
                len(values),
                self.tokens,
            )
        )


def make_blocks(n_contexts: int, per_block: int) -> Iterator[CorpusBlock]:
    """Blocks of synthetic contexts, always the same ones."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, D_SAE // N_ACTIVE + 1)
    steps = np.round(np.cumsum(shares / shares.sum()) * (1 << 16)).astype(np.int64)
    rank_of = np.searchsorted(steps, np.arange(1 << 16), side="right")
    # Each of the 64 draws has latents of its own, so no latent is drawn twice for a token.
    own = np.arange(N_ACTIVE)
    for first in range(0, n_contexts, per_block):
        n = min(per_block, n_contexts - first)
        n_tokens = n * CONTEXT_TOKENS
        ranks = rank_of[rng.integers(0, 1 << 16, (n_tokens, N_ACTIVE), dtype=np.uint16)]
        yield CorpusBlock(
            rng.integers(0, 50_000, n_tokens, dtype=np.uint32),
            np.arange(n) * CONTEXT_TOKENS,
            np.full(n_tokens, N_ACTIVE),
            (ranks * N_ACTIVE + own).ravel(),
            np.exp(rng.standard_normal(n_tokens * N_ACTIVE, dtype=np.float32)),
            tuple(f"document {first + j}" for j in range(n)),
        )


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def milliseconds(query: Callable[[T], object], arguments: Sequence[T]) -> list[float]:
    """How long a query takes for each argument, after one call that warms up."""
    query(arguments[0])
    return [1000 * seconds(partial(query, argument)) for argument in arguments]


def file_bytes(folder: Path) -> int:
    """Size of everything in a folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def some_latents() -> list[int]:
    """Latents from the most frequent to the rarest."""
    return [int(rank) - 1 for rank in np.geomspace(1, D_SAE, N_QUERIES)]


def measure_cache(folder: Path, n_rows: int) -> list[Figure]:
    """The engine's cache, with entries of so many rows."""
    n_entries = 20_000 // n_rows
    figures = Figures(f"cache, {n_rows} row{'s' * (n_rows > 1)} an entry", n_entries * n_rows)
    (block,) = make_blocks(-(-n_entries * n_rows // CONTEXT_TOKENS), n_entries)
    n = n_rows * N_ACTIVE
    entries = [slice(j * n, (j + 1) * n) for j in range(n_entries)]
    keys = [hashlib.sha256(str(j).encode()).hexdigest() for j in range(n_entries)]
    counts = np.full(n_rows, N_ACTIVE)
    store = open_store(f"sqlite:///{folder / 'cache.db'}")
    speeds = []
    for part in np.array_split(np.arange(n_entries), 10):

        def write(part: np.ndarray = part) -> None:
            store.cache.put_many(
                {
                    keys[j]: pack_activations(
                        counts, block.indices[entries[j]], block.values[entries[j]], D_SAE
                    )
                    for j in part
                }
            )

        speeds.append(len(part) * n_rows / seconds(write))
    store.close()
    figures.add("size", "bytes/activation", [file_bytes(folder) / (n_entries * n)])
    figures.add("write", "tokens/s", speeds)
    store = open_store(f"sqlite:///{folder / 'cache.db'}")
    picks = np.random.default_rng(1).integers(0, n_entries, (N_QUERIES, 128))
    wanted = [[keys[j] for j in pick] for pick in picks]
    figures.add("read 128 entries", "ms", milliseconds(store.cache.get_many, wanted))
    sizes = milliseconds(lambda _: store.cache.size_bytes(), range(N_SEGMENTS))
    figures.add("total size", "ms", sizes)
    store.close()
    return figures.all


def make_profiles(density: np.ndarray, n_contexts: int) -> Iterator[list[LatentProfile]]:
    """A profile of every latent, some hundred at a time, always the same ones."""
    rng = np.random.default_rng(2)
    for first in range(0, D_SAE, PROFILES_PER_WRITE):
        latents = range(first, min(first + PROFILES_PER_WRITE, D_SAE))
        yield [make_profile(rng, latent, int(density[latent]), n_contexts) for latent in latents]


def make_profile(
    rng: np.random.Generator, latent: int, n_fired: int, n_contexts: int
) -> LatentProfile:
    """A profile with random numbers and examples."""
    examples = []
    for kind, context in enumerate(rng.integers(0, n_contexts, N_EXAMPLES).tolist()):
        window = np.zeros(WINDOW_TOKENS, dtype=np.float32)
        fires = rng.choice(WINDOW_TOKENS, FIRING_IN_WINDOW, replace=False)
        window[fires] = np.exp(rng.standard_normal(FIRING_IN_WINDOW))
        examples.append(ProfileExample(kind * 5 // N_EXAMPLES, context, 40, 26, window))
    tokens = rng.integers(0, 50_000, 2 * N_LISTED).tolist()
    logits = rng.standard_normal(2 * N_LISTED).tolist()
    listed = list(zip(tokens, logits, strict=True))
    return LatentProfile(
        latent=latent,
        n_fired=n_fired,
        maximum=20.0,
        mean=2.0,
        quantiles=tuple(np.sort(rng.random(len(QUANTILES))).tolist()),
        histogram=tuple(rng.integers(0, 1000, HISTOGRAM_BINS).tolist()),
        n_first=0,
        n_special=0,
        cofiring=tuple((int(other), 10) for other in rng.integers(0, D_SAE, N_LISTED)),
        examples=tuple(examples),
        promoted=tuple(listed[:N_LISTED]),
        suppressed=tuple(listed[N_LISTED:]),
        logit_histogram=tuple(rng.integers(0, 5000, N_LOGIT_BINS).tolist()),
        logit_range=(-4.0, 4.0),
        s_in=float(rng.random()),
        s_out=float(rng.random()),
    )


def words_of(profile: LatentProfile) -> ProfileText:
    """What a profile is found by, with numbers for words."""
    promotes = " ".join(f"word{token}" for token, _ in profile.promoted)
    examples = " ".join(f"word{example.context}" for example in profile.examples)
    return ProfileText(promotes, promotes, examples)


def measure_latent_store(folder: Path, n_contexts: int) -> list[Figure]:
    """The latent store; writing is timed by fifths of the corpus, with the density in the last."""
    figures = Figures("latent store", n_contexts * CONTEXT_TOKENS)
    store = open_store(f"sqlite:///{folder / 'latents.db'}")
    index_id = store.latents.open_index("benchmark", "", "", D_SAE).id
    timed: list[tuple[int, float]] = []
    for block in make_blocks(n_contexts, BLOCK_CONTEXTS):
        taken = seconds(partial(store.latents.append, index_id, block))
        timed.append((len(block.token_ids), taken))
    n_tokens, taken = timed.pop()
    timed.append((n_tokens, taken + seconds(lambda: store.latents.checkpoint(index_id))))
    store.close()
    segments = np.array_split(np.array(timed), N_SEGMENTS)
    figures.add("write", "tokens/s", [float(s[:, 0].sum() / s[:, 1].sum()) for s in segments])
    total, taken = np.array(timed).sum(axis=0)
    figures.add("write, whole corpus", "tokens/s", [float(total / taken)])
    n_nonzero = n_contexts * CONTEXT_TOKENS * N_ACTIVE
    n_bytes = file_bytes(folder)
    figures.add("size", "bytes/activation", [n_bytes / n_nonzero])
    store = open_store(f"sqlite:///{folder / 'latents.db'}")
    read = seconds(lambda: sum(len(block.values) for block in store.latents.blocks(index_id)))
    figures.add("read, whole corpus", "tokens/s", [n_contexts * CONTEXT_TOKENS / read])
    densities = milliseconds(lambda _: store.latents.density(index_id), range(N_SEGMENTS))
    figures.add("density", "ms", densities)
    measure_profiles(figures, store, index_id, n_contexts)
    store.close()
    figures.add("size of profiles", "bytes/latent", [(file_bytes(folder) - n_bytes) / D_SAE])
    return figures.all


def measure_profiles(figures: Figures, store: Store, index_id: str, n_contexts: int) -> None:
    """Profiles of the latents of an index, written and read as the pages read them."""
    speeds = []
    for profiles in make_profiles(store.latents.density(index_id), n_contexts):
        texts = [words_of(profile) for profile in profiles]
        taken = seconds(partial(store.profiles.put, index_id, profiles, texts))
        speeds.append(len(profiles) / taken)
    figures.add("write profiles", "latents/s", speeds)

    def show(latent: int) -> dict[int, np.ndarray]:
        examples = store.profiles.get(index_id, latent).examples
        return store.profiles.contexts(index_id, [example.context for example in examples])

    figures.add(f"{N_EXAMPLES} examples of a latent", "ms", milliseconds(show, some_latents()))
    offsets = np.random.default_rng(1).integers(0, D_SAE - PAGE_LATENTS, N_QUERIES).tolist()
    pages = milliseconds(
        lambda offset: store.profiles.page(
            index_id, sort="density", descending=True, offset=offset, limit=PAGE_LATENTS
        ),
        offsets,
    )
    figures.add(f"page of {PAGE_LATENTS} latents by density", "ms", pages)


def measure_dense(folder: Path, n_total: int) -> list[Figure]:
    """One float16 row per token; looking for a latent reads all, so its time is scaled up."""
    n_tokens = DENSE_CONTEXTS * CONTEXT_TOKENS
    figures = Figures("dense float16 rows", n_tokens)
    db = sqlite3.connect(folder / "dense.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE tokens (id INTEGER PRIMARY KEY, token INTEGER, activations BLOB)")
    speeds = []
    for number, block in enumerate(make_blocks(DENSE_CONTEXTS, DENSE_CONTEXTS // N_SEGMENTS)):

        def write(number: int = number, block: CorpusBlock = block) -> None:
            n = len(block.token_ids)
            dense = np.zeros((n, D_SAE), dtype=np.float16)
            dense[np.repeat(np.arange(n), block.counts), block.indices] = block.values
            rows = [
                (number * n + j, int(token), row.tobytes())
                for j, (token, row) in enumerate(zip(block.token_ids, dense, strict=True))
            ]
            with db:
                db.executemany("INSERT INTO tokens VALUES (?, ?, ?)", rows)

        speeds.append(len(block.token_ids) / seconds(write))
    db.close()
    figures.add("write", "tokens/s", speeds)
    figures.add("size", "bytes/activation", [file_bytes(folder) / (n_tokens * N_ACTIVE)])
    db = sqlite3.connect(folder / "dense.db")

    def top(latent: int) -> list[tuple[float, int]]:
        rows = db.execute("SELECT id, activations FROM tokens")
        found = [(float(np.frombuffer(row, np.float16)[latent]), token) for token, row in rows]
        return sorted(found, reverse=True)[:N_EXAMPLES]

    times = milliseconds(top, some_latents()[::5])
    scale = n_total / n_tokens
    figures.add(
        f"{N_EXAMPLES} examples of a latent, scaled to {n_total:,} tokens",
        "ms",
        [scale * time for time in times],
    )
    db.close()
    return figures.all


def measure_rows(folder: Path) -> list[Figure]:
    """One SQL row per activation, with an index on latent and value."""
    figures = Figures("one SQL row per activation", ROWS_CONTEXTS * CONTEXT_TOKENS)
    db = sqlite3.connect(folder / "rows.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(
        """
        CREATE TABLE contexts (id INTEGER PRIMARY KEY, token_ids BLOB);
        CREATE TABLE activations (
            context INTEGER, position INTEGER, latent INTEGER, value REAL,
            PRIMARY KEY (context, position, latent)
        ) WITHOUT ROWID;
        CREATE INDEX by_latent ON activations (latent, value);
        """
    )
    speeds = []
    n_parts = 10
    for part, block in enumerate(make_blocks(ROWS_CONTEXTS, ROWS_CONTEXTS // n_parts)):

        def write(part: int = part, block: CorpusBlock = block) -> None:
            n = len(block.documents)
            first = part * n
            tokens = np.repeat(np.arange(len(block.token_ids)), block.counts)
            rows = zip(
                (first + tokens // CONTEXT_TOKENS).tolist(),
                (tokens % CONTEXT_TOKENS).tolist(),
                block.indices.tolist(),
                block.values.tolist(),
                strict=True,
            )
            ids = block.token_ids.reshape(n, CONTEXT_TOKENS)
            with db:
                db.executemany(
                    "INSERT INTO contexts VALUES (?, ?)",
                    [(first + j, ids[j].tobytes()) for j in range(n)],
                )
                db.executemany("INSERT INTO activations VALUES (?, ?, ?, ?)", rows)

        speeds.append(len(block.token_ids) / seconds(write))
    db.close()
    n_nonzero = ROWS_CONTEXTS * CONTEXT_TOKENS * N_ACTIVE
    figures.add("write", "tokens/s", speeds)
    figures.add("size", "bytes/activation", [file_bytes(folder) / n_nonzero])
    db = sqlite3.connect(folder / "rows.db")

    def top(latent: int) -> list[list[tuple[object, ...]]]:
        best = db.execute(
            "SELECT context, position, value, token_ids FROM activations JOIN contexts "
            "ON contexts.id = context WHERE latent = ? ORDER BY value DESC LIMIT ?",
            (latent, N_EXAMPLES),
        ).fetchall()
        return [
            db.execute(
                "SELECT position, value FROM activations WHERE context = ? AND latent = ?",
                (context, latent),
            ).fetchall()
            for context, *_ in best
        ]

    figures.add(f"{N_EXAMPLES} examples of a latent", "ms", milliseconds(top, some_latents()))
    db.close()
    return figures.all


def measure_all(n_tokens: int) -> list[Figure]:
    """Every figure, each way of storing in an empty folder that is removed afterwards."""
    n_contexts = max(N_SEGMENTS * BLOCK_CONTEXTS, -(-n_tokens // CONTEXT_TOKENS))
    runs: list[Callable[[Path], list[Figure]]] = [
        lambda folder: measure_cache(folder, 1),
        lambda folder: measure_cache(folder, 8),
        lambda folder: measure_cache(folder, 24),
        lambda folder: measure_latent_store(folder, n_contexts),
        lambda folder: measure_dense(folder, n_contexts * CONTEXT_TOKENS),
        measure_rows,
    ]
    figures = []
    for run in runs:
        with tempfile.TemporaryDirectory() as folder:
            figures += run(Path(folder))
    return figures


def table(figures: list[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = [
        "| stored as | tokens | quantity | unit | median | smallest | largest | n |",
        "|---|---:|---|---|---:|---:|---:|---:|",
    ]
    for f in figures:
        numbers = " | ".join(_number(value) for value in (f.median, f.smallest, f.largest))
        lines.append(f"| {f.store} | {f.tokens:,} | {f.quantity} | {f.unit} | {numbers} | {f.n} |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main() -> None:
    """Measure, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=1_000_000, help="tokens in the latent store")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    taken = time.perf_counter()
    figures = measure_all(arguments.tokens)
    taken = time.perf_counter() - taken
    print(table(figures))
    if arguments.json:
        report = {
            "machine": {"processor": platform.processor(), "cores": os.cpu_count()},
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
            "seconds": taken,
            "figures": [asdict(figure) for figure in figures],
        }
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
