"""``saif session …``: the saved steering sessions."""

from pathlib import Path
from typing import Annotated

import typer

from app.cli.groups import FileOption, ModelOption, SaeOption
from app.cli.options import JsonOption, add_command
from app.cli.output import answering, table
from app.cli.requests import absolute_folder
from app.cli.texts import session_text
from app.installation import opened_store
from app.presentation.figures import moment_words
from app.presentation.session_files import export_session, import_session
from app.settings import load_settings
from saif_core.errors import StorageError
from saif_core.records.as_json import to_json
from saif_core.records.sessions import SteeringSession

app = typer.Typer(
    help="List, export and import saved sessions.",
    rich_markup_mode=None,
    no_args_is_help=False,
)

IdArgument = Annotated[
    str, typer.Argument(metavar="ID", show_default=False, help="Id that `saif session list` shows.")
]


def list_sessions(
    search: Annotated[
        str, typer.Option("--search", show_default=False, help="Only those that hold this text.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 200,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """List sessions.

    Only those of one model or SAE if it is named.
    """
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        found = [
            to_json(summary)
            for summary in store.sessions.list(search=search, limit=limit)
            if (not model or summary.model == absolute_folder(model))
            and (not sae or summary.sae == absolute_folder(sae))
        ]
        columns = ("id", "name", "instruction", "sae", "n_prompts")
        rows = [
            (*(summary[column] for column in columns), moment_words(summary["updated_at"]))
            for summary in found
        ]
        headers = ("id", "name", "instruction", "SAE", "prompts", "saved")
        empty = (
            "No sessions; save one in the dashboard or with `saif generate --save`, or use `saif "
            "session import`."
        )
        answer({"sessions": found}, table(headers, rows) if rows else empty)


def show_session(
    session_id: IdArgument,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show a session with its texts.

    One of another model or SAE than those named is refused.
    """
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        session = _check(store.sessions.get(session_id), model, sae)
        answer(to_json(session), session_text(session))


def export_one(
    session_id: IdArgument,
    out: FileOption = None,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write a session as a JSON file.

    `saif session import` and the dashboard read it.
    """
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        session = _check(store.sessions.get(session_id), model, sae)
        document = export_session(session, store.tensors)
        if out is None:
            answer.document(document)
            return
        out.write_text(document, encoding="utf-8")
        data = {"id": session.id, "name": session.name, "file": str(out)}
        answer(data, f"Session {session.name!r} was written to {out}.")


def import_one(
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, help="File that SAIF has exported."
        ),
    ],
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Add the session in a file.

    It becomes a new one; one of another model or SAE than those named is refused.
    """
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        read = import_session(file.read_bytes(), filename=file.name, tensors=store.tensors)
        saved = store.sessions.save(_check(read, model, sae))
        answer(
            {"id": saved.id, "name": saved.name},
            f"Session {saved.name!r} was imported as {saved.id}.",
        )


def delete_one(
    session_id: IdArgument,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Delete a session, which can be undone.

    `saif session restore` brings it back.
    """
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        session = _check(store.sessions.get(session_id), model, sae)
        store.sessions.delete(session.id)
        answer(
            {"id": session.id, "name": session.name, "deleted": True},
            f"Session {session.name!r} was deleted; `saif session restore {session.id}` undoes it.",
        )


def restore_one(session_id: IdArgument, as_json: JsonOption = False) -> None:
    """Bring a deleted session back."""
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        store.sessions.restore(session_id)
        session = store.sessions.get(session_id)
        answer(
            {"id": session.id, "name": session.name, "deleted": False},
            f"Session {session.name!r} is back.",
        )


def _check(session: SteeringSession, model: str, sae: str) -> SteeringSession:
    """The session itself, if it was made with the model and SAE that were named."""
    made_with = session.recipe or session.ranking
    asked = {
        "model": (absolute_folder(model), {made_with.model} if made_with else set()),
        "sae": (absolute_folder(sae), _saes_of(session)),
    }
    for kind, (name, found) in asked.items():
        if name and name not in found:
            raise StorageError(
                f"Session {session.name!r} was asked for with {kind} {name!r}, but it was made "
                f"with {', '.join(sorted(found)) or 'none'!r}; leave out --{kind}."
            )
    return session


def _saes_of(session: SteeringSession) -> set[str]:
    arms = session.request.arms if session.request else ()
    found = {edit.sae_id for arm in arms for edit in arm.edits if edit.sae_id}
    return found or ({session.ranking.sae} if session.ranking else set())


add_command(app, "list", list_sessions)
add_command(app, "show", show_session)
add_command(app, "export", export_one)
add_command(app, "import", import_one)
add_command(app, "delete", delete_one)
add_command(app, "restore", restore_one)
