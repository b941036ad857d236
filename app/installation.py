"""Store and engine of this installation, for every door."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from app.settings import Settings

if TYPE_CHECKING:  # these take seconds to import, and `saif --help` needs neither
    from saif_core.engine.engine import Engine
    from storage import Store


def open_installed_store(settings: Settings) -> "Store":
    """The store of this installation, its schema up to date; the caller closes it."""
    from storage import open_store

    settings.home.mkdir(parents=True, exist_ok=True)
    return open_store(settings.database_url, cache_mb=settings.cache_mb)


def start_installed_engine(settings: Settings, store: "Store") -> "Engine":
    """The engine of this installation, which loads its model when first asked to work."""
    from saif_core.catalog import Catalog
    from saif_core.engine.engine import Engine
    from saif_core.judging.judge_endpoint import configure_judge

    configure_judge(settings.llm_url, settings.llm_model, settings.llm_key)
    return Engine(
        Catalog(settings.home, extra_saes=settings.saes),
        model_id=settings.model,
        cache=store.cache,
        job_log=store.jobs,
        corpus=(store.latents, store.profiles),
        evaluations=store.evaluations,
        device=settings.device,
        dtype=settings.dtype,
    )


@contextlib.contextmanager
def opened_store(settings: Settings) -> Iterator["Store"]:
    """The store, closed at the end."""
    store = open_installed_store(settings)
    try:
        yield store
    finally:
        store.close()


@contextlib.contextmanager
def started_engine(settings: Settings, store: "Store") -> Iterator["Engine"]:
    """An engine, closed at the end."""
    quiet_libraries()
    engine = start_installed_engine(settings, store)
    try:
        yield engine
    finally:
        engine.close()


def quiet_libraries() -> None:
    """Silence what libraries say on success, so that a refusal stands alone on standard error."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
