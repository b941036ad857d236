"""``saif fetch`` and ``saif doctor``: is everything here, and does it work together?"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from app.cli.groups import ModelOption, SaeOption
from app.cli.options import JsonOption
from app.cli.output import answering, say, table, wait_for
from app.cli.requests import absolute_folder, settings_for
from app.installation import installed_catalog, opened_store, started_engine
from app.settings import Settings
from saif_core.errors import SaifError
from saif_core.records.as_json import to_json
from saif_core.records.saes import SaeCard, SaeInfo

if TYPE_CHECKING:  # imports torch
    from saif_core.engine.engine import Engine

T = TypeVar("T")


def fetch(model: ModelOption = "", sae: SaeOption = "", as_json: JsonOption = False) -> None:
    """Fetch the model, and an SAE if named.

    Later starts then need no network.
    """
    settings = settings_for(model, sae)
    with answering(as_json) as answer:
        from saif_core.models.default_model import DEFAULT_MODEL, fetch_default_model

        if settings.model == DEFAULT_MODEL:
            fetch_default_model(settings.home, report=say)
        # The default model is proved by its checksum; anything else by loading it.
        if sae or settings.model != DEFAULT_MODEL:
            from saif_core.records.questions import ModelQuestion, SaeQuestion

            asked = SaeQuestion(absolute_folder(sae)) if sae else ModelQuestion()
            with started_engine(settings) as engine:
                wait_for(engine.submit(asked))
        path = model_path(settings)
        data = {"model": settings.model, "path": path, "sae": absolute_folder(sae) or None}
        answer(data, f"{settings.model} is ready in {path}")


def doctor(model: ModelOption = "", sae: SaeOption = "", as_json: JsonOption = False) -> None:
    """Check that model and SAEs load.

    All SAEs of the model are loaded, or the one that is named. Problems make the exit status 1.
    """
    with answering(as_json) as answer:
        report = _examine(settings_for(model, sae), absolute_folder(sae))
        answer(report, _report_text(report))
    if not report["ok"]:
        raise typer.Exit(1)


def _examine(settings: Settings, sae: str) -> dict[str, Any]:
    import platform

    from saif_core.versions import library_versions

    problems: list[str] = []
    report: dict[str, Any] = {
        "ok": False,
        "problems": problems,
        "device": settings.device,
        "dtype": settings.dtype,
        "versions": {"python": platform.python_version(), **library_versions()},
        "model": None,
        "saes": [],
    }
    _attempt(problems, "the database", lambda: _open_and_close(settings))
    _attempt(problems, "the model", lambda: _examine_engine(settings, sae, report))
    report["ok"] = not problems
    return report


def _attempt(problems: list[str], what: str, work: Callable[[], T]) -> T | None:
    """What the work returns; what goes wrong becomes a problem, so that the rest is examined."""
    try:
        return work()
    except SaifError as error:
        problems.append(str(error))
    except Exception as error:
        problems.append(f"Examining {what} failed ({type(error).__name__}: {error}).")
    return None


def _open_and_close(settings: Settings) -> None:
    with opened_store(settings) as store:
        store.sessions.list(limit=1)


def _examine_engine(settings: Settings, sae: str, report: dict[str, Any]) -> None:
    """What the engine says of the model and of each SAE; it works without the database."""
    from saif_core.records.questions import ModelQuestion

    with started_engine(settings) as engine:
        status = engine.status()
        report |= {"device": status.device, "dtype": status.dtype}
        told = wait_for(engine.submit(ModelQuestion()))
        report["model"] = {
            "id": told.model,
            "path": model_path(settings),
            "sha256": told.sha256,
            "n_layers": told.n_layers,
            "d_model": told.d_model,
        }
        _examine_saes(engine, settings, sae, report)


def _examine_saes(engine: "Engine", settings: Settings, sae: str, report: dict[str, Any]) -> None:
    problems = report["problems"]
    offered = installed_catalog(settings).offered_saes(settings.model)
    infos = [info for info in offered if sae in ("", info.id)]
    if not infos:
        asked = f"SAE {sae!r} was not found" if sae else "no SAE is offered"
        problems.append(f"For model {settings.model!r} {asked}; name one with --sae or SAIF_SAES.")
    for info in infos:
        entry = _describe(info)
        report["saes"].append(entry)
        if info.unsupported:
            problems.append(f"SAE {info.id!r} cannot be used. {info.unsupported}")
        else:
            _load(engine, info.id, entry, problems)


def _load(engine: "Engine", sae_id: str, entry: dict[str, Any], problems: list[str]) -> None:
    """Fill in what loading an SAE tells."""
    from saif_core.records.questions import SaeQuestion

    loaded = _attempt(
        problems, f"SAE {sae_id!r}", lambda: wait_for(engine.submit(SaeQuestion(sae_id)))
    )
    if loaded is not None:
        entry |= {"hook_point": loaded.hook_point, "d_sae": loaded.d_sae}
        entry |= {"layer": loaded.layer, "warning": loaded.warning}
        entry["fvu_at_load"] = loaded.fvu
        entry["fvu"] = loaded.fvu if entry["fvu"] is None else entry["fvu"]


def _describe(info: SaeInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "path": info.path,
        "hook_point": info.hook_point,
        "layer": info.layer,
        "d_sae": info.d_sae,
        "unsupported": info.unsupported,
        "warning": "",
        "fvu": _mean(info.cards, lambda card: card.fvu),
        "ce_recovered": _mean(info.cards, lambda card: card.ce_recovered),
        "l0": _mean(info.cards, lambda card: card.l0),
        "dead_fraction": info.dead_fraction,
        "fvu_at_load": None,
        "tokens_seen": info.tokens_seen,
        "cards": [to_json(card) for card in info.cards],
    }


def _mean(cards: tuple[SaeCard, ...], figure: Callable[[SaeCard], float]) -> float | None:
    return sum(map(figure, cards)) / len(cards) if cards else None


def model_path(settings: Settings) -> str:
    """Where the model's files are; a hub model's id while it is not on this disk."""
    from saif_core.models.default_model import DEFAULT_MODEL

    if settings.model == DEFAULT_MODEL:
        return str(settings.home / "models" / DEFAULT_MODEL)
    if Path(settings.model).is_dir():
        return settings.model
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(settings.model, "config.json")
    return str(Path(cached).parent) if isinstance(cached, str) else settings.model


def _report_text(report: dict[str, Any]) -> str:
    model = report["model"]
    lines = [
        f"device {report['device']}, {report['dtype']}",
        ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    ]
    if model:
        lines.append(
            f"model {model['id']}: {model['n_layers']} layers of {model['d_model']} dimensions, "
            f"in {model['path']}"
        )
    rows = [
        (sae["id"], sae["hook_point"], sae["d_sae"] or "unknown")
        + tuple(_figure(sae[name]) for name in ("fvu", "ce_recovered", "l0", "dead_fraction"))
        for sae in report["saes"]
    ]
    headers = ("SAE", "hook point", "latents", "FVU", "CE recovered", "L0", "dead")
    lines += ["", table(headers, rows), ""]
    lines += [f"warning: {sae['warning']}" for sae in report["saes"] if sae["warning"]]
    lines += [f"problem: {problem}" for problem in report["problems"]] or ["No problems."]
    return "\n".join(lines)


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
