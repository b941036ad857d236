"""Options that several commands of ``saif`` share, so that they mean the same everywhere."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Wordings = Literal["first", "all"]

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="ID",
        show_default="SAIF_MODEL, or the default model",
        help="Model: the default's name, a Hugging Face id or a folder.",
    ),
]
SaeOption = Annotated[
    str,
    typer.Option(
        "--sae",
        metavar="ID",
        show_default="the first one offered for the model",
        help="SAE: an id that `saif doctor` lists, a sae-lens RELEASE:SAE_ID or a folder.",
    ),
]
LayerOption = Annotated[
    int | None,
    typer.Option("--layer", min=0, help="Take the SAE of this layer (0-based); not with --sae."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")
]
InstructionOption = Annotated[
    str,
    typer.Option(
        "--instruction",
        metavar="NAME|FILE",
        show_default=False,
        help="Instruction that ships with SAIF, or a YAML file with one of your own.",
    ),
]
PairsOption = Annotated[
    Path | None,
    typer.Option(
        "--pairs",
        exists=True,
        dir_okay=False,
        readable=True,
        help="JSONL or CSV with content and instruction, or positive and negative, per row.",
    ),
]
ContentsOption = Annotated[
    Path | None,
    typer.Option(
        "--contents",
        exists=True,
        dir_okay=False,
        readable=True,
        show_default="sentences that ship with SAIF",
        help="Contents to put the instruction to: a text file with one a line, JSONL or CSV.",
    ),
]
NContentsOption = Annotated[
    int | None,
    typer.Option(
        "--n-contents",
        min=1,
        show_default="8, or all if there are fewer",
        help="How many contents to use, from the first on.",
    ),
]
WordingsOption = Annotated[
    Wordings, typer.Option("--wordings", help="Use the instruction's first wording or all of them.")
]
PositionOption = Annotated[
    Literal["after", "before"],
    typer.Option("--position", help="Where the instruction stands, seen from the content."),
]
ReadOption = Annotated[
    Literal["last-token", "response"],
    typer.Option("--read", help="Tokens compared: the prompt's last one, or the model's answer."),
]
ResponseTokensOption = Annotated[
    int,
    typer.Option("--response-tokens", min=1, help="Tokens of the answer read (--read response)."),
]
SelectorOption = Annotated[
    str, typer.Option("--selector", metavar="NAME", help="Latent selector that gives the scores.")
]
SelectorParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--selector-parameter",
        metavar="NAME=VALUE",
        show_default=False,
        help="Parameter of the selector; may be given several times.",
    ),
]
TopOption = Annotated[int, typer.Option("--top", min=1, max=1000, help="How many latents to take.")]
ChatOption = Annotated[
    bool, typer.Option("--chat/--raw", help="Put prompts through the model's chat template or not.")
]
