"""Which corpus index tells of the latents of an SAE; the shipped ones are taken in when needed."""

from pathlib import Path

import streamlit as st

from app.dashboard.handles import store
from saif_core.inputs.shipped import shipped_index
from saif_core.records.corpus import LatentIndex


def indexes_of(sae_id: str) -> list[LatentIndex]:
    """Indexes of an SAE that have profiles: the finished ones, the newest first.

    Raises:
        StorageError: the database refused.
    """
    take_in_shipped(sae_id)
    return [made for made in store().latents.indexes() if made.sae_id == sae_id and made.finished]


def take_in_shipped(sae_id: str) -> None:
    """Import the index that ships with an SAE, once per process and database."""
    file = shipped_index(sae_id)
    if file is not None:
        _take_in(str(file), id(store()))


@st.cache_resource(show_spinner="Unpacking the shipped index of this SAE …")
def _take_in(file: str, _store_number: int) -> str:
    return store().profiles.import_index(Path(file).read_bytes())
