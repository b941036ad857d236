"""``saif evaluations …``: the finished evaluations."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from app.cli.groups import FileOption
from app.cli.options import JsonOption, add_command
from app.cli.output import answering, table
from app.cli.texts import evaluation_text
from app.installation import opened_store
from app.presentation.figures import moment_words
from app.settings import load_settings
from saif_core.records.as_json import to_json
from saif_core.records.evaluation import Evaluation

if TYPE_CHECKING:
    from storage import Store

Form = Literal["html", "csv", "texts-csv", "json"]

app = typer.Typer(
    help="List, show, export and delete finished evaluations.",
    rich_markup_mode=None,
    no_args_is_help=False,
)
IdArgument = Annotated[
    str,
    typer.Argument(metavar="ID", show_default=False, help="Id that `saif evaluations list` shows."),
]


def list_evaluations(
    instruction: Annotated[
        str,
        typer.Option(
            "--instruction", metavar="NAME", show_default=False, help="Only those of this one."
        ),
    ] = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """List evaluations, the newest first."""
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        found = store.evaluations.list(instruction=instruction, limit=limit)
        rows = [
            (
                one.id,
                one.instruction,
                one.model,
                str(one.n),
                one.best_sae_arm,
                _percent(one.best_useful),
                _percent(one.best_strict),
                moment_words(one.created_at),
            )
            for one in found
        ]
        rates = ("useful", "strict")
        headers = ("id", "instruction", "model", "n", "best arm", *rates, "finished")
        empty = "No evaluations; `saif evaluate` and the Evaluate page make them."
        data = {"evaluations": [to_json(one) for one in found]}
        answer(data, table(headers, rows) if rows else empty)


def show_evaluation(
    evaluation_id: IdArgument,
    cell: Annotated[
        int | None,
        typer.Option(
            "--cell", min=0, show_default=False, help="Show the texts of the cell of this number."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the figures of an evaluation, or the texts of one cell."""
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        from app.presentation.evaluation import content_words
        from app.presentation.evaluation_files import evaluation_data

        evaluation = store.evaluations.get(evaluation_id)
        if cell is None:
            answer(evaluation_data(evaluation), evaluation_text(evaluation))
            return
        texts = store.evaluations.texts(evaluation_id, cell)
        rows = [
            (t.grade or "not judged", t.outcome, content_words(t), t.reason, t.content, t.text)
            for t in texts
        ]
        data = {"id": evaluation.id, "cell": cell, "texts": [to_json(text) for text in texts]}
        headers = ("grade", "outcome", "about", "reason", "content", "text")
        answer(data, table(headers, rows))


def export_evaluation(
    evaluation_id: IdArgument,
    form: Annotated[
        Form,
        typer.Option(
            "--as",
            help="A page with texts, a table of all cells, a table of all texts, or all of it.",
        ),
    ] = "html",
    out: FileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write an evaluation as html, csv, texts-csv or json."""
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        evaluation = store.evaluations.get(evaluation_id)
        document = _exported(store, evaluation, form)
        if out is None:
            answer.document(document.decode())
            return
        out.write_bytes(document)
        data = {"id": evaluation.id, "as": form, "file": str(out)}
        answer(data, f"The evaluation was written to {out}.")


def delete_evaluation(evaluation_id: IdArgument, as_json: JsonOption = False) -> None:
    """Delete an evaluation and its texts for good."""
    with answering(as_json) as answer, opened_store(load_settings()) as store:
        store.evaluations.delete(evaluation_id)
        data = {"id": evaluation_id, "deleted": True}
        answer(data, f"Evaluation {evaluation_id} was deleted.")


def evaluation_page(store: "Store", evaluation: Evaluation) -> bytes:
    """An evaluation with the texts of its best cells as an HTML page."""
    from app.presentation.evaluation_page import evaluation_html

    cells = [best.cell for best in evaluation.best]
    texts = {cell: store.evaluations.texts(evaluation.id, cell) for cell in cells}
    return evaluation_html(evaluation, texts)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _exported(store: "Store", evaluation: Evaluation, form: Form) -> bytes:
    from app.presentation.evaluation_files import evaluation_csv, evaluation_json, texts_csv

    if form == "html":
        return evaluation_page(store, evaluation)
    if form == "csv":
        return evaluation_csv(evaluation)
    cells = range(len(evaluation.cells))
    texts = {cell: store.evaluations.texts(evaluation.id, cell) for cell in cells}
    if form == "texts-csv":
        return texts_csv(evaluation, texts)
    return evaluation_json(evaluation, texts)


add_command(app, "list", list_evaluations)
add_command(app, "show", show_evaluation)
add_command(app, "export", export_evaluation)
add_command(app, "delete", delete_evaluation)
