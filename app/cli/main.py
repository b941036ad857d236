"""The command line ``saif``: every capability without a browser.

Each command prints its answer on standard output, as text or with --json as one JSON object;
progress and warnings go to standard error. Exit status: 0 done, 1 `saif doctor` found problems,
`saif replay` found other texts, or SAIF failed, 2 the request cannot be carried out (one sentence
on standard error says why).
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import typer

from app.cli import evaluations, notes, search, sessions, vectors
from app.cli.corpus import index, write_text
from app.cli.doctor import doctor, fetch
from app.cli.evaluate import evaluate
from app.cli.example import example
from app.cli.generate import generate
from app.cli.health import health
from app.cli.latent import describe, latent
from app.cli.listings import methods, saes
from app.cli.options import add_command
from app.cli.output import say
from app.cli.ranking import rank
from app.cli.replay import replay
from app.cli.serve import serve
from app.cli.training import train_sae
from app.settings import be_courteous
from saif_core.errors import SaifError

app = typer.Typer(
    name="saif",
    help="Find the SAE latents behind an instruction, and steer a language model with them.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., Any]] = {
    "serve": serve,
    "fetch": fetch,
    "doctor": doctor,
    "rank": rank,
    "generate": generate,
    "evaluate": evaluate,
    "replay": replay,
    "example": example,
    "latent": latent,
    "describe": describe,
    "index": index,
    "write-text": write_text,
    "health": health,
    "train-sae": train_sae,
    "methods": methods,
    "saes": saes,
}
GROUPS = {
    "search": search.app,
    "note": notes.app,
    "vector": vectors.app,
    "session": sessions.app,
    "evaluations": evaluations.app,
}
for _name, _command in COMMANDS.items():
    add_command(app, _name, _command)
for _name, _group in GROUPS.items():
    app.add_typer(_group, name=_name)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run ``saif`` with the given arguments, or those of the process, and exit."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    be_courteous()
    sys.exit(_run(given or ["--help"]))


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        status = command.main(arguments, prog_name="saif", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error.format_message())
    except SaifError as error:
        return _refuse(str(error))
    except OSError as error:
        if error.filename is None:
            raise
        return _refuse(f"{error.filename!r} cannot be used: {error.strerror or error}.")
    # A command that ends early, as --help does, ends with its exit status instead of an answer.
    return status if isinstance(status, int) else 0


def _refuse(message: str) -> int:
    say(" ".join(message.split()))
    return 2


if __name__ == "__main__":
    main()
