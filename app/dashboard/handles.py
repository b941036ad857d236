"""Store and engine of this process, as the pages reach them.

They do not live in Streamlit's caches: any visitor may have those cleared.
"""

import atexit
import threading
from typing import TYPE_CHECKING

from app.installation import open_installed_store, start_installed_engine
from app.settings import Settings, load_settings
from storage import Store

if TYPE_CHECKING:  # importing the engine imports torch, which the first paint need not wait for
    from saif_core.engine.engine import Engine


LOST_AFTER_SECONDS = 60.0
KEPT_DELETED_DAYS = 30
_LOCK = threading.RLock()
_STORES: dict[Settings, Store] = {}
_ENGINES: dict[Settings, "Engine"] = {}


def store() -> Store:
    """The store of this process, with its schema up to date."""
    return _store(load_settings())


def engine() -> "Engine":
    """The engine of this process; the model is loaded by its first job, not here."""
    settings = load_settings()
    with _LOCK:
        if settings not in _ENGINES:
            _ENGINES[settings] = start_installed_engine(settings, _store(settings))
        return _ENGINES[settings]


def end_process() -> None:
    """Close every engine and forget every store: what comes next begins as a new process does."""
    with _LOCK:
        ended = list(_ENGINES.values())
        _ENGINES.clear()
        _STORES.clear()
    for one in ended:
        one.close()


def _store(settings: Settings) -> Store:
    with _LOCK:
        if settings not in _STORES:
            opened = open_installed_store(settings)
            opened.jobs.mark_lost(LOST_AFTER_SECONDS)
            opened.purge(KEPT_DELETED_DAYS)
            _STORES[settings] = opened
        return _STORES[settings]


# A worker that is still inside the model when the interpreter goes would crash the process.
atexit.register(end_process)
