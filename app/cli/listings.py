"""``saif methods`` and ``saif saes``: what can be chosen, with everything that decides on it."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.groups import ModelOption
from app.cli.options import JsonOption
from app.cli.output import answering, table
from app.cli.requests import settings_for
from app.installation import installed_catalog, quiet_libraries, use_installed_plugins
from app.settings import load_settings
from saif_core.parameters import Parameter
from saif_core.records.as_json import to_json
from saif_core.records.saes import SaeInfo

if TYPE_CHECKING:
    from saif_core.registry import Registered

KINDS = {bool: "bool", int: "int", float: "float", str: "str"}


def methods(as_json: JsonOption = False) -> None:
    """List every selector, source, steering method and evaluator.

    With its parameters, their types, ranges, defaults and help, and the hash of its file. Those of
    the folders in SAIF_PLUGINS are among them.
    """
    with answering(as_json) as answer:
        from saif_core.registry import REGISTRIES

        quiet_libraries()
        use_installed_plugins(load_settings())
        data = {
            f"{registry.kind.replace(' ', '_')}s": [_method(one) for one in registry]
            for registry in REGISTRIES
        }
        answer(data, _methods_text(data))


def saes(
    every: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Those of every release of sae-lens too; with --model, of its versions alone.",
        ),
    ] = False,
    model: ModelOption = "",
    as_json: JsonOption = False,
) -> None:
    """List the SAEs of the model, those that cannot be used with the reason."""
    settings = settings_for(model)
    with answering(as_json) as answer:
        quiet_libraries()
        catalog = installed_catalog(settings)
        if every:
            found = catalog.known_saes(settings.model if model else None)
        else:
            found = catalog.offered_saes(settings.model)
        data = {"model": settings.model, "saes": [_sae(info) for info in found]}
        answer(data, _saes_text(found))


def parameter_data(parameter: Parameter) -> dict[str, Any]:
    """A parameter as JSON-ready data."""
    return {
        "name": parameter.name,
        "type": KINDS.get(parameter.kind, "choice"),
        "choices": list(parameter.choices),
        "optional": parameter.optional,
        "required": parameter.required,
        "default": None if parameter.required else parameter.default,
        "at_least": parameter.bounds.ge,
        "above": parameter.bounds.gt,
        "at_most": parameter.bounds.le,
        "below": parameter.bounds.lt,
        "help": parameter.help,
    }


def _method(one: "Registered[Any]") -> dict[str, Any]:
    return {
        "name": one.name,
        "help": one.help,
        "takes": list(one.takes),
        "needs_sae": one.needs_sae,
        "writes_its_edits": one.write is not None,
        "file_sha256": one.file_sha256,
        "parameters": [parameter_data(parameter) for parameter in one.parameters],
    }


def _methods_text(data: dict[str, list[dict[str, Any]]]) -> str:
    headers = ("name", "parameters", "what it does")
    return "\n\n".join(
        f"{kind.replace('_', ' ')}\n{table(headers, list(_method_rows(found)))}"
        for kind, found in data.items()
    )


def _method_rows(found: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for one in found:
        given = ", ".join(
            p["name"] + ("" if p["required"] else f"={_shown(p['default'])}")
            for p in one["parameters"]
        )
        yield one["name"], given, one["help"]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value) if value != "" else '""'


def _sae(info: SaeInfo) -> dict[str, Any]:
    return {**to_json(info), "supported": not info.unsupported}


def _saes_text(found: list[SaeInfo]) -> str:
    if not found:
        return "No SAE is offered for this model; name one in SAIF_SAES, or list more with --all."
    rows = [
        (
            info.id,
            info.model_id,
            "" if info.layer is None else str(info.layer),
            info.hook_point,
            "" if info.d_sae is None else f"{info.d_sae:,}",
            info.unsupported or "can be used",
        )
        for info in found
    ]
    return table(("SAE", "model", "layer", "hook point", "latents", "state"), rows)
