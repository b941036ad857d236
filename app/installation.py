"""Store and engine of this installation, for every door."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from app.settings import Settings
from saif_core.errors import SaifError

if TYPE_CHECKING:  # these take seconds to import, and `saif --help` needs none of them
    from saif_core.catalog import Catalog
    from saif_core.engine.engine import Engine
    from saif_core.models.language_endpoint import LanguageEndpoint
    from saif_core.records.recipes import Recipe
    from storage import Store


def open_installed_store(settings: Settings) -> "Store":
    """The store of this installation, its schema up to date; the caller closes it."""
    from storage import open_store

    settings.home.mkdir(parents=True, exist_ok=True)
    return open_store(settings.database_url, cache_mb=settings.cache_mb)


def installed_catalog(settings: Settings) -> "Catalog":
    """The models and SAEs that this installation knows."""
    from saif_core.catalog import Catalog

    return Catalog(settings.home, extra_saes=settings.saes)


def use_installed_plugins(settings: Settings) -> None:
    """Offer the plug-ins of this installation beside the shipped ones.

    Raises:
        SaifError: a folder of theirs is none, or one of them is broken.
    """
    from saif_core.registry import use_plugins

    missing = [folder for folder in settings.plugins if not folder.is_dir()]
    if missing:
        raise SaifError(
            f"SAIF_PLUGINS names {str(missing[0])!r}, but there is no such folder; make it, or "
            "leave it out."
        )
    try:
        use_plugins(settings.plugins)
    except ImportError as error:
        raise SaifError(str(error)) from error


def take_in_recipe(store: "Store", recipe: "Recipe") -> None:
    """Keep the learned tensors of a shipped recipe, so that its edits find them."""
    from safetensors.numpy import load

    from saif_core.inputs.shipped import recipe_tensors

    for sha256, payload in recipe_tensors(recipe).items():
        kept = store.tensors.put(load(payload), note=f"recipe of {recipe.instruction}")
        if kept != sha256:
            raise SaifError(
                f"The recipe of {recipe.instruction!r} names tensors that its file does not hold; "
                "install SAIF again."
            )


def start_installed_engine(settings: Settings, store: "Store | None") -> "Engine":
    """The engine of this installation, which loads its model when first asked to work.

    Args:
        store: where it keeps what outlives it; None for work that leaves nothing behind.
    """
    from saif_core.engine.engine import Engine
    from saif_core.judging.judge_endpoint import configure_judge

    use_installed_plugins(settings)
    configure_judge(settings.llm_url, settings.llm_model, settings.llm_key)
    return Engine(
        installed_catalog(settings),
        model_id=settings.model,
        endpoint=_endpoint(settings),
        device=settings.device,
        dtype=settings.dtype,
        **({} if store is None else _kept_in(settings, store)),
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
def started_engine(settings: Settings, store: "Store | None" = None) -> Iterator["Engine"]:
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


def _endpoint(settings: Settings) -> "LanguageEndpoint | None":
    """The language endpoint; one that cannot be used must not keep everything else from working."""
    from saif_core.models.language_endpoint import LanguageEndpoint

    if settings.llm_url:
        with contextlib.suppress(SaifError):
            return LanguageEndpoint(settings.llm_url, settings.llm_model, settings.llm_key)
    return None


def _kept_in(settings: Settings, store: "Store") -> dict[str, Any]:
    """What of an engine is kept in a store, and what can be asked of the store."""
    from app.store_tasks import store_tasks

    return {
        "cache": store.cache,
        "tensors": store.tensors,
        "job_log": store.jobs,
        "corpus": (store.latents, store.profiles),
        "evaluations": store.evaluations,
        "notes": store.notes,
        "tasks": store_tasks(store, settings.home),
    }
