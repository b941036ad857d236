"""What ``saif train-sae`` is given: sources, layers and shapes, checked before hours of work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.groups import ModelOption
from saif_core.errors import SaifError

if TYPE_CHECKING:  # these import torch
    from saif_core.catalog import Catalog
    from saif_core.saes.training import TextSource

DEFAULT_LAYERS = (14, 22, 29)


@dataclass(frozen=True)
class TrainingOptions:
    """What is trained, on what, and where it goes."""

    source: Annotated[
        list[str],
        typer.Option(
            "--source",
            metavar="PATH[:SHARE]",
            help='JSONL file (or .zst) of {"text": …} or {"messages": …}, and its share of the '
            "tokens; repeat it for several.",
        ),
    ]
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            metavar="N,…",
            show_default="14,22,29 for the default model",
            help="Layers to train for, read in one pass over the text.",
        ),
    ] = ""
    tokens: Annotated[
        int,
        typer.Option("--tokens", min=1, help="Tokens to read; each is trained on --epochs times."),
    ] = 2_000_000
    epochs: Annotated[float, typer.Option("--epochs", min=0.01, help="Passes over the tokens.")] = (
        3.0
    )
    d_sae: Annotated[int, typer.Option("--d-sae", min=1, help="Number of latents.")] = 4608
    k: Annotated[int, typer.Option("--k", min=1, help="Latents active on each token.")] = 64
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", min=1, help="Tokens of one training step.")
    ] = 2048
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of weights and order.")] = 0
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            file_okay=False,
            show_default="saes/MODEL in SAIF_HOME",
            help="Folder for the SAEs and, per layer, the activations (2 bytes × d_model a token).",
        ),
    ] = None
    device: Annotated[
        str, typer.Option("--device", show_default="SAIF_DEVICE", help="auto, cpu, cuda or mps.")
    ] = ""
    mixed_precision: Annotated[
        bool,
        typer.Option(
            "--mixed-precision/--full-precision",
            help="Read with bfloat16 products and a float32 residual stream, which is faster.",
        ),
    ] = False
    model: ModelOption = ""
    sae: Annotated[
        str,
        typer.Option(
            "--sae",
            metavar="ID",
            show_default=False,
            help="Train one like this SAE: its layer and its number of latents.",
        ),
    ] = ""


def parse_source(text: str) -> "TextSource":
    """The source written as PATH or PATH:SHARE.

    Raises:
        SaifError: there is no such file, or the share is not above 0.
    """
    from saif_core.saes.training import TextSource

    name, colon, share_text = text.rpartition(":")
    if not colon or Path(text).exists():
        name, share_text = text, "1"
    try:
        share = float(share_text)
    except ValueError:
        name, share = text, 1.0
    if not Path(name).is_file():
        raise SaifError(f"--source {text!r} names no file; give PATH or PATH:SHARE.")
    if not (share > 0 and math.isfinite(share)):
        raise SaifError(f"--source {text!r} has the share {share:g}; give one above 0.")
    return TextSource(Path(name).absolute(), share)


def check_sources(sources: "Sequence[TextSource]") -> None:
    """Read each source's first lines, so that a bad file is refused before anything long starts.

    Raises:
        SaifError: a file was given twice, or is not JSONL with text.
    """
    from saif_core.saes.training import read_documents

    paths = [source.path for source in sources]
    if len(set(paths)) < len(paths):
        raise SaifError("A --source was given twice; give each file once, with its share.")
    for path in paths:
        try:
            documents = list(islice(read_documents(path, held_out=False), 20))
            bad = [item for item in documents if not ("text" in item or "messages" in item)]
        except Exception as error:
            raise SaifError(
                f"--source {path.name} cannot be read ({type(error).__name__}); give JSONL, one "
                'object with "text" or "messages" a line, plain or compressed as .zst.'
            ) from error
        if bad or not documents:
            raise SaifError(
                f"--source {path.name} has no text to train on; give JSONL, one object with "
                '"text" or "messages" a line.'
            )


def parse_layers(text: str, model_id: str) -> tuple[int, ...]:
    """Layers written as N,…; when empty those of the shipped SAEs, for the default model.

    Raises:
        SaifError: the text is not of that form, or there is none.
    """
    from saif_core.models.default_model import DEFAULT_MODEL

    if not text:
        if model_id != DEFAULT_MODEL:
            raise SaifError(
                f"No layer of model {model_id!r} was named; choose some with --layers, or an SAE "
                "to train one like with --sae."
            )
        return DEFAULT_LAYERS
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise SaifError(f"--layers is {text!r}; give layer numbers as in 14,22,29.")
    return tuple(sorted({int(part) for part in parts}))


def shape_like(
    catalog: "Catalog", model_id: str, sae: str, layers: str
) -> tuple[int, tuple[int, ...]]:
    """Number of latents and layers of a known SAE; ``layers`` given in so many words come first.

    Raises:
        SaifError: the SAE, its layer or its size is not known.
    """
    info = next((info for info in catalog.saes(model_id) if info.id == sae), None)
    if info is None or info.layer is None or not info.d_sae:
        raise SaifError(
            f"The layer and size of SAE {sae!r} are not known; give --layers and --d-sae."
        )
    return info.d_sae, parse_layers(layers, model_id) if layers else (info.layer,)
