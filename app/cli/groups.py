"""Groups of options that several commands share, so that they mean the same everywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from app.cli.options import Of
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.prompts import InstructionPosition
from saif_core.records.ranking import RankingRequest, ReadPosition

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
InstructionOption = Annotated[
    str,
    typer.Option(
        "--instruction",
        metavar="NAME|FILE",
        show_default=False,
        help="Instruction that ships with SAIF, or a YAML file with one of your own.",
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
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        dir_okay=False,
        show_default="standard output",
        help="File to write to.",
    ),
]
VectorOption = Annotated[
    Path | None,
    typer.Option(
        "--vector",
        exists=True,
        dir_okay=False,
        show_default=False,
        help="A .npy or .safetensors file with one vector of the residual stream.",
    ),
]
LatentsOption = Annotated[
    str,
    typer.Option(
        "--latents",
        metavar="I:COEF,…",
        show_default=False,
        help="Latents, each with its coefficient (its activation at strength 1).",
    ),
]
SourceParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source-parameter",
        metavar="NAME=VALUE",
        show_default=False,
        help="Parameter of the source; may be given several times.",
    ),
]
MethodParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--method-parameter",
        metavar="NAME=VALUE",
        show_default=False,
        help="Parameter of the steering method; may be given several times.",
    ),
]


@dataclass(frozen=True)
class Place:
    """The model, and one SAE of it."""

    layer: Annotated[
        int | None,
        typer.Option(
            "--layer", min=0, help="Take the SAE of this layer (0-based); not with --sae."
        ),
    ] = None
    model: ModelOption = ""
    sae: SaeOption = ""


@dataclass(frozen=True)
class Places:
    """The model, SAEs of some of its layers, and further layers."""

    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            "--layer",
            metavar="L,…",
            show_default="the layer of --sae, or of the first SAE offered",
            help="Take the SAEs of these layers (0-based); not with --sae.",
        ),
    ] = ""
    further_layers: Annotated[
        str,
        typer.Option(
            "--further-layers",
            metavar="L,…",
            show_default=False,
            help="Write after these layers too, for sources that need no SAE.",
        ),
    ] = ""
    model: ModelOption = ""
    sae: Annotated[
        list[str] | None,
        typer.Option(
            "--sae",
            metavar="ID",
            show_default="the first one offered for the model",
            help="SAE: an id that `saif doctor` lists, a sae-lens RELEASE:SAE_ID or a folder; "
            "several times for several layers.",
        ),
    ] = None


@dataclass(frozen=True)
class Pairs:
    """Where prompt pairs come from."""

    instruction: InstructionOption = ""
    pairs: Annotated[
        Path | None,
        typer.Option(
            "--pairs",
            exists=True,
            dir_okay=False,
            readable=True,
            show_default=False,
            help="JSONL or CSV with content and instruction, or positive and negative, per row.",
        ),
    ] = None
    contents: ContentsOption = None
    n_contents: Annotated[
        int | None,
        typer.Option(
            "--n-contents",
            min=1,
            show_default="8, or all if there are fewer",
            help="How many contents to use, from the first on.",
        ),
    ] = None
    wordings: Annotated[
        Wordings,
        typer.Option("--wordings", help="Use the instruction's first wording or all of them."),
    ] = "all"
    position: Annotated[InstructionPosition, Of(EvaluationRequest)] = "after"

    @property
    def given(self) -> bool:
        """Whether there are any."""
        return bool(self.instruction) or self.pairs is not None


@dataclass(frozen=True)
class Reading:
    """Which tokens are compared."""

    read: Annotated[ReadPosition, Of(RankingRequest)] = RankingRequest.read
    response_tokens: Annotated[int, Of(RankingRequest)] = RankingRequest.response_tokens


@dataclass(frozen=True)
class Selecting:
    """What scores latents."""

    selector: Annotated[
        str,
        typer.Option("--selector", metavar="NAME", help="Latent selector that gives the scores."),
    ] = RankingRequest.selector
    selector_parameter: Annotated[
        list[str] | None,
        typer.Option(
            "--selector-parameter",
            metavar="NAME=VALUE",
            show_default=False,
            help="Parameter of the selector; may be given several times.",
        ),
    ] = None
