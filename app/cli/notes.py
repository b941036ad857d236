"""``saif note …``: labels, notes and stars of latents."""

from typing import Annotated

import typer

from app.cli.groups import Place
from app.cli.latent import LatentArgument, sae_sha256_of
from app.cli.options import JsonOption, add_command
from app.cli.output import answering, table
from app.cli.requests import opened_at
from app.installation import opened_store
from app.settings import load_settings
from saif_core.errors import StorageError
from saif_core.records.as_json import to_json
from saif_core.records.notes import NoteKind

app = typer.Typer(
    help="Label latents, write notes, give stars.", rich_markup_mode=None, no_args_is_help=False
)


def add_note(
    number: LatentArgument,
    place: Place,
    label: Annotated[
        str, typer.Option("--label", metavar="TEXT", show_default=False, help="Label it.")
    ] = "",
    note: Annotated[
        str, typer.Option("--note", metavar="TEXT", show_default=False, help="Write a note.")
    ] = "",
    star: Annotated[
        bool, typer.Option("--star", help="Give it a star, or take yours back.")
    ] = False,
    author: Annotated[
        str, typer.Option("--author", metavar="NAME", show_default=False, help="Who says so.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Label a latent, write a note, or star it."""
    texts: dict[NoteKind, str] = {"label": label, "note": note}
    asked: list[tuple[NoteKind, str]] = [(kind, text) for kind, text in texts.items() if text]
    asked += [("star", "")] if star else []
    if not asked:
        raise StorageError("There is nothing to keep; give --label, --note or --star.")
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        sha256 = sae_sha256_of(here, sae_id)
        kept = [here.store.notes.add(sha256, number, *one, author=author) for one in asked]
        data = {"sae": sae_id, "latent": number, "kept": [to_json(one) for one in kept if one]}
        words = ", ".join(
            f"{kind} {'kept' if one else 'taken back'}"
            for (kind, _), one in zip(asked, kept, strict=True)
        )
        answer(data, f"Latent {number} of {sae_id}: {words}.")


def list_notes(number: LatentArgument, place: Place, as_json: JsonOption = False) -> None:
    """List what people say of a latent."""
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        notes = here.store.notes.list(sae_sha256_of(here, sae_id), number)
        rows = [(n.id, n.kind, n.text, n.author or "anonymous", n.source) for n in notes]
        headers = ("id", "kind", "text", "author", "source")
        empty = f"Nobody has labelled latent {number} or written a note yet."
        data = {"sae": sae_id, "latent": number, "notes": [to_json(note) for note in notes]}
        answer(data, table(headers, rows) if rows else empty)


def remove_note(
    note_id: Annotated[str, typer.Argument(metavar="ID", help="Id that `saif note list` shows.")],
    as_json: JsonOption = False,
) -> None:
    """Remove a label, a note or a star for good."""
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        store.notes.remove(note_id)
        answer({"id": note_id, "removed": True}, f"Note {note_id} was removed.")


add_command(app, "add", add_note)
add_command(app, "list", list_notes)
add_command(app, "remove", remove_note)
