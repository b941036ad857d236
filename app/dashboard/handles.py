"""Store and engine of this process, as the pages reach them."""

import atexit
from typing import TYPE_CHECKING

import streamlit as st

from app.installation import open_installed_store, start_installed_engine
from app.settings import Settings, load_settings
from storage import Store

if TYPE_CHECKING:  # importing the engine imports torch, which the first paint need not wait for
    from saif_core.engine.engine import Engine


LOST_AFTER_SECONDS = 60.0
KEPT_DELETED_DAYS = 30


def store() -> Store:
    """The store of this process, with its schema up to date."""
    return _store(load_settings())


def engine() -> "Engine":
    """The engine of this process; the model is loaded by its first job, not here."""
    return _engine(load_settings())


@st.cache_resource(show_spinner=False)
def _store(settings: Settings) -> Store:
    opened = open_installed_store(settings)
    opened.jobs.mark_lost(LOST_AFTER_SECONDS)
    opened.purge(KEPT_DELETED_DAYS)
    return opened


@st.cache_resource(show_spinner=False)
def _engine(settings: Settings) -> "Engine":
    started = start_installed_engine(settings, _store(settings))
    # A worker that is still inside the model when the interpreter goes would crash the process.
    atexit.register(started.close)
    return started
