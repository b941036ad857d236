"""Work on the store that the engine runs beside the model: it needs none of the model's weights.

Embeddings of latents are made once for every index, and kept in the home folder.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from app.presentation.figures import counted
from saif_core.errors import UnknownNameError
from saif_core.models.text_embeddings import TextEmbedder, nearest
from saif_core.records.as_json import Record
from saif_core.records.corpus import LatentFilter, LatentIndex

if TYPE_CHECKING:  # the tasks of the engine import torch, which pages need not wait for
    from saif_core.engine.tasks import Bench, Task
    from storage import Store

MAX_LABEL = 200
AT_ONCE = 64
N_EXAMPLES = 8
N_FOUND = 50
# Latents that are embedded to see how long all of them would take.
N_TRIED = 32


@dataclass(frozen=True)
class EmbedRequest(Record):
    """Embed every latent of an index, so that it can be searched by meaning.

    Attributes:
        name: of the index, for people.
    """

    index_id: str
    name: str = ""


@dataclass(frozen=True)
class EmbedReport(Record):
    """Latents that have words to be found by."""

    n_embedded: int


@dataclass(frozen=True)
class NewLabel(Record):
    """A label that others published."""

    latent: int
    text: str
    source: str


@dataclass(frozen=True)
class LabelsRequest(Record):
    """Keep published labels of an SAE's latents.

    Attributes:
        sae_id: of that SAE, for people.
    """

    sae_sha256: str
    labels: tuple[NewLabel, ...]
    sae_id: str = ""


@dataclass(frozen=True)
class LabelsReport(Record):
    """What came of taking labels in.

    Attributes:
        n_known: that were there already, and were left as they are.
        n_cut: that were too long.
    """

    n_added: int
    n_known: int
    n_cut: int


@dataclass(frozen=True)
class FoundLatent(Record):
    """A latent near a query, by the cosine of their embeddings."""

    latent: int
    cosine: float


@cache
def embedder() -> TextEmbedder:
    """The sentence model of this process; loaded when it first embeds."""
    return TextEmbedder()


def store_tasks(store: "Store", home: Path) -> "tuple[Task, ...]":
    """What can be asked of a store beside the engine's own tasks.

    Args:
        home: where embeddings are kept.
    """
    from saif_core.engine.tasks import Task

    return (
        Task(
            "embed",
            EmbedRequest,
            EmbedReport,
            partial(_embed, store, home),
            lambda asked: f"Embed the latents of {asked.name or asked.index_id}",
            "aside",
        ),
        Task(
            "labels",
            LabelsRequest,
            LabelsReport,
            partial(_add_labels, store),
            lambda asked: f"Take in {counted(len(asked.labels), 'label')}",
            "aside",
        ),
    )


def vectors_file(home: Path, index_id: str) -> Path:
    """Where the embeddings of an index are kept: a row per latent, zeros for one without words."""
    # Ids are uuids; whatever else a database holds must not become a path.
    name = re.sub(r"[^0-9a-zA-Z-]", "_", index_id)
    return home / "embeddings" / f"{name}.npy"


def search_meaning(home: Path, index_id: str, query: str) -> list[FoundLatent]:
    """The latents of an embedded index that are nearest to a query, the nearest first.

    Raises:
        SaifError: the sentence model is not installed.
    """
    (vector,) = embedder().embed([query])
    rows = np.load(vectors_file(home, index_id), mmap_mode="r")
    found = nearest(vector, rows, N_FOUND)
    return [FoundLatent(one.row, one.cosine) for one in found if one.cosine > 0]


def embedding_seconds(
    store: "Store", index: LatentIndex, token_texts: Callable[[Sequence[int]], list[str]]
) -> float:
    """How long embedding an index would take, from a few of its latents embedded now."""
    n = min(N_TRIED, index.d_sae)
    embedder().embed(["warm"])
    started = time.perf_counter()
    # Spread over the index, as neighbours may be alike.
    tried = range(0, index.d_sae, max(index.d_sae // n, 1))[:n]
    if texts := _texts(store, index, tried, token_texts):
        embedder().embed(list(texts.values()))
    return (time.perf_counter() - started) * index.d_sae / len(tried)


def _embed(store: "Store", home: Path, bench: "Bench", request: EmbedRequest) -> EmbedReport:
    """Embed every latent of an index and write the rows to its file, all or none."""
    index = next((i for i in store.latents.indexes() if i.id == request.index_id), None)
    if index is None:
        raise UnknownNameError("index", request.index_id, [])
    latents: list[int] = []
    vectors: list[np.ndarray] = []
    for start in range(0, index.d_sae, AT_ONCE):
        bench.step(start, index.d_sae, "embedding")
        chunk = range(start, min(start + AT_ONCE, index.d_sae))
        texts = _texts(store, index, chunk, bench.token_texts)
        latents += texts
        vectors.append(embedder().embed(list(texts.values())))
    found = np.concatenate(vectors)
    rows = np.zeros((index.d_sae, found.shape[1]), dtype=np.float32)
    rows[latents] = found
    file = vectors_file(home, index.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    with unfinished.open("wb") as stream:
        np.save(stream, rows)
    unfinished.replace(file)
    return EmbedReport(len(latents))


def _texts(
    store: "Store",
    index: LatentIndex,
    latents: range,
    token_texts: Callable[[Sequence[int]], list[str]],
) -> dict[int, str]:
    """What is known of latents that have a profile, in words."""
    page = store.profiles.page(
        index.id, filters=LatentFilter(latents=tuple(latents)), limit=len(latents)
    )
    texts = {}
    for row in page.rows:
        examples = store.profiles.get(index.id, row.latent).examples
        best = [example for example in examples if example.kind == 0][:N_EXAMPLES]
        contexts = store.profiles.contexts(index.id, [example.context for example in best])
        ids = [int(contexts[example.context][example.position]) for example in best]
        fires_on = " ".join(token.strip() for token in token_texts(list(dict.fromkeys(ids))))
        known = (row.label or "", row.promotes, fires_on)
        texts[row.latent] = ". ".join(" ".join(text.split()) for text in known if text.strip())
    return {latent: text for latent, text in texts.items() if text}


def _add_labels(store: "Store", bench: "Bench", request: LabelsRequest) -> LabelsReport:
    """Keep published labels with their source; one that is there already is left as it is."""
    n_added = n_cut = 0
    for number, label in enumerate(request.labels):
        bench.step(number, len(request.labels), "taking labels in")
        text = label.text if len(label.text) <= MAX_LABEL else f"{label.text[: MAX_LABEL - 1]}…"
        known = store.notes.list(request.sae_sha256, label.latent)
        if any((note.text, note.source) == (text, label.source) for note in known):
            continue
        store.notes.add(request.sae_sha256, label.latent, "label", text, source=label.source)
        n_added += 1
        n_cut += text != label.text
    return LabelsReport(n_added, len(request.labels) - n_added, n_cut)
