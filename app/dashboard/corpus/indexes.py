"""Which corpus index tells of the latents of an SAE; the shipped ones are taken in when needed."""

import threading
from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from app.dashboard.fields.url_fields import publish, seed_choice
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import page_progress
from app.presentation.glossary import explain
from app.presentation.latents import corpus_words, usable_indexes
from app.presentation.latents import summaries_of as stored_summaries
from saif_core.inputs.shipped import shipped_index
from saif_core.records.corpus import LatentIndex, LatentSummary

_PICKER = "index"


def indexes_of(sae_id: str) -> list[LatentIndex]:
    """Indexes of an SAE that have profiles: the finished ones, the largest corpus first.

    Raises:
        StorageError: the database refused.
    """
    take_in_shipped(sae_id)
    return usable_indexes(store().latents.indexes(), sae_id)


def choose_index(indexes: Sequence[LatentIndex]) -> LatentIndex:
    """The index to read from, on any page; with several, a choice that stands in the URL."""
    if len(indexes) == 1:
        return indexes[0]
    by_id = {index.id: index for index in indexes}
    seed_choice(_PICKER, indexes[0].id, list(by_id))
    chosen = st.selectbox(
        "Corpus",
        list(by_id),
        format_func=lambda id: corpus_words(by_id[id]),
        key=_PICKER,
        persist_state="session",
        width=320,
        help=explain("corpus", "The largest is the default."),
    )
    publish(_PICKER, indexes[0].id)
    return by_id[chosen]


def summaries_of(index: LatentIndex | None, latents: Sequence[int]) -> dict[int, LatentSummary]:
    """Lines of some latents in an index, by latent; those that are not in it are left out."""
    return stored_summaries(store(), index, latents, engine().token_texts)


def take_in_shipped(sae_id: str) -> None:
    """Import the index that ships with an SAE, once per process and database."""
    file = shipped_index(sae_id)
    if file is None:
        return
    shipped = _shipped(str(file), id(store()))
    if not shipped.is_in:
        with st.spinner("Unpacking the shipped index of this SAE …"), shipped.lock:
            _take_in(shipped)


class _Shipped:
    """A shipped index on its way into a database; the lock makes others wait for it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lock = threading.Lock()
        self.is_in = False


@st.cache_resource(show_spinner=False)
def _shipped(file: str, store_number: int) -> _Shipped:  # noqa: ARG001
    return _Shipped(Path(file))


def _take_in(shipped: _Shipped) -> None:
    # Not in a cached function: Streamlit would draw its bar again at every look at the cache.
    if shipped.is_in:
        return
    with page_progress(shipped.file.name) as step:
        store().profiles.import_index(shipped.file.read_bytes(), step=step)
    shipped.is_in = True
