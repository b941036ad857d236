"""``saif replay``: the texts of a session written again, and whether they are the same."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.groups import ModelOption
from app.cli.options import JsonOption
from app.cli.output import answering, table, wait_for
from app.cli.requests import settings_for
from app.installation import opened_store, started_engine
from app.presentation.session_files import import_session
from saif_core.errors import StorageError
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import SteeringRecipe
from saif_core.records.texts import Generation, GenerationResult

if TYPE_CHECKING:
    from storage import Store

# What a recipe names besides the request, and what it is called.
COMPARED = {
    "model_sha256": "model",
    "sae_sha256s": "SAE",
    "plugin_sha256s": "method",
    "chat_template_sha256": "chat template",
    "dtype": "dtype",
    "versions": "version",
}


def replay(
    session: Annotated[
        str,
        typer.Argument(
            metavar="SESSION",
            help="Id that `saif session list` shows, or a file that SAIF exported.",
        ),
    ],
    model: ModelOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write the texts of a session again and say whether their tokens are equal.

    If they are not, which hash or version differs from the recipe; then the exit status is 1.
    """
    with answering(as_json) as answer:
        with opened_store(settings_for(model)) as store:
            found = _read(store, session)
        recipe = _recipe(found)
        saes = sorted({e.sae_id for arm in recipe.request.arms for e in arm.edits if e.sae_id})
        settings = settings_for(model or recipe.model, saes)
        with opened_store(settings) as store, started_engine(settings, store) as engine:
            made: GenerationResult = wait_for(engine.submit(recipe.request))
        assert found.result is not None
        data = {"session": found.id, "name": found.name, **compare(found.result, made)}
        answer(data, _text(data))
    if not data["equal"]:
        raise typer.Exit(1)


def compare(then: GenerationResult, now: GenerationResult) -> dict[str, Any]:
    """Whether two results of one request have the same tokens, and what differs, as data."""
    again = {_key(text): text for text in now.generations}
    texts = [_pair(text, again.get(_key(text))) for text in then.generations]
    n_equal = sum(text["equal"] for text in texts)
    return {
        "equal": n_equal == len(texts),
        "n_equal": n_equal,
        "n_texts": len(texts),
        "differs": differences(then.recipe, now.recipe),
        "texts": texts,
    }


def differences(then: SteeringRecipe, now: SteeringRecipe) -> list[dict[str, str]]:
    """Hashes and versions in which two recipes differ: what, then and now."""
    found = []
    for name, what in COMPARED.items():
        old, new = _named(getattr(then, name), what), _named(getattr(now, name), what)
        found += [
            {"what": key, "then": old.get(key, ""), "now": new.get(key, "")}
            for key in dict.fromkeys([*old, *new])
            if old.get(key, "") != new.get(key, "")
        ]
    return found


def _named(value: Any, what: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        return {what: str(value)}
    return {f"{what} {name}": str(found) for name, found in value.items()}


def _key(text: Generation) -> tuple[int, str, int]:
    return text.prompt_index, text.arm, text.sample


def _pair(then: Generation, now: Generation | None) -> dict[str, Any]:
    return {
        "prompt": then.prompt,
        "arm": then.arm,
        "sample": then.sample,
        "equal": now is not None and now.token_ids == then.token_ids,
        "then": then.text,
        "now": now.text if now else "",
    }


def _read(store: "Store", session: str) -> SteeringSession:
    """The session of an id, or in a file.

    Raises:
        SaifError: there is none.
    """
    path = Path(session)
    if path.suffix == ".json" or path.is_file():
        return import_session(path.read_bytes(), filename=path.name, tensors=store.tensors)
    return store.sessions.get(session)


def _recipe(session: SteeringSession) -> SteeringRecipe:
    if session.recipe is None or session.result is None:
        raise StorageError(
            f"Session {session.name!r} holds no texts, so there is nothing to compare with; choose "
            "one whose texts were written."
        )
    return session.result.recipe


def _text(data: dict[str, Any]) -> str:
    n_equal, n = data["n_equal"], data["n_texts"]
    lines = [f"{data['name']}: {n_equal} of {n} texts have the same tokens as before."]
    if data["differs"]:
        rows = [
            (one["what"], one["then"] or "none", one["now"] or "none") for one in data["differs"]
        ]
        lines += ["", "What differs from the recipe:", table(("what", "then", "now"), rows)]
    elif not data["equal"]:
        lines.append("No hash and no version differs from the recipe.")
    changed = [one for one in data["texts"] if not one["equal"]]
    if changed:
        texts = [(one["arm"], one["prompt"], one["then"], one["now"]) for one in changed]
        lines += ["", table(("arm", "prompt", "then", "now"), texts)]
    return "\n".join(lines)
