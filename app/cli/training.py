"""``saif train-sae``: SAEs trained on a model's residual stream, measured on held-out text."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import JsonOption, ModelOption
from app.cli.output import ProgressLine, answering, say, table
from app.cli.requests import absolute_folder, settings_for
from app.cli.training_inputs import (
    check_layers,
    check_sources,
    parse_layers,
    parse_source,
    shape_like,
)
from app.installation import quiet_libraries
from saif_core.errors import SaifError
from saif_core.records.as_json import to_json
from saif_core.records.saes import SaeCard

if TYPE_CHECKING:  # these import torch
    from saif_core.catalog import Catalog
    from saif_core.models.loaded_model import LoadedModel
    from saif_core.saes.training import TextSource, TrainingPlan

HELD_OUT_SEQUENCES = 64  # per source: some 10,000 tokens, enough for figures of two digits
PLAN_FILE = "plan.json"
CARD_FILE = "card.json"


@dataclass(frozen=True)
class _Training:
    model: "LoadedModel"
    catalog: "Catalog"
    sources: "Sequence[TextSource]"
    plan: "TrainingPlan"
    folder: Path
    mixed_precision: bool


def train_sae(
    source: Annotated[
        list[str],
        typer.Option(
            "--source",
            metavar="PATH[:SHARE]",
            help='JSONL file (or .zst) of {"text": …} or {"messages": …}, and its share of the '
            "tokens; repeat it for several.",
        ),
    ],
    layers: Annotated[
        str,
        typer.Option(
            "--layers",
            metavar="N,…",
            show_default="14,22,29 for the default model",
            help="Layers to train for, read in one pass over the text.",
        ),
    ] = "",
    tokens: Annotated[
        int,
        typer.Option("--tokens", min=1, help="Tokens to read; each is trained on --epochs times."),
    ] = 2_000_000,
    epochs: Annotated[
        float, typer.Option("--epochs", min=0.01, help="Passes over the tokens.")
    ] = 3.0,
    d_sae: Annotated[int, typer.Option("--d-sae", min=1, help="Number of latents.")] = 4608,
    k: Annotated[int, typer.Option("--k", min=1, help="Latents active on each token.")] = 64,
    batch_tokens: Annotated[
        int, typer.Option("--batch-tokens", min=1, help="Tokens of one training step.")
    ] = 2048,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of weights and order.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            file_okay=False,
            show_default="saes/MODEL in SAIF_HOME",
            help="Folder for the SAEs and, per layer, the activations (2 bytes × d_model a token).",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", show_default="SAIF_DEVICE", help="auto, cpu, cuda or mps.")
    ] = "",
    mixed_precision: Annotated[
        bool,
        typer.Option(
            "--mixed-precision/--full-precision",
            help="Read with bfloat16 products and a float32 residual stream, which is faster.",
        ),
    ] = False,
    model: ModelOption = "",
    sae: Annotated[
        str,
        typer.Option(
            "--sae",
            metavar="ID",
            show_default=False,
            help="Train one like this SAE: its layer and its number of latents.",
        ),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Train and measure an SAE per layer.

    Started again with the same options, it goes on where it stopped.
    """
    started = time.perf_counter()
    settings = settings_for(model, sae, device)
    with answering(as_json) as answer:
        from saif_core.catalog import Catalog
        from saif_core.saes.training import TrainingPlan

        quiet_libraries()
        sources = [parse_source(text) for text in source]
        check_sources(sources)
        catalog = Catalog(settings.home, extra_saes=settings.saes)
        shape = (d_sae, parse_layers(layers, settings.model))
        if sae:
            shape = shape_like(catalog, settings.model, absolute_folder(sae), layers)
        if k > shape[0]:
            raise SaifError(f"--k {k} is more than the {shape[0]} latents; choose a smaller one.")
        loaded = catalog.load_model(settings.model, device=settings.device, dtype=settings.dtype)
        check_layers(shape[1], loaded)
        training = _Training(
            loaded,
            catalog,
            sources,
            TrainingPlan(
                layers=shape[1],
                n_tokens=tokens,
                d_sae=shape[0],
                k=k,
                n_epochs=epochs,
                batch_tokens=batch_tokens,
                seed=seed,
            ),
            out or settings.home / "saes" / Path(settings.model).name,
            mixed_precision,
        )
        trained = _train(training)
        data = {"model": loaded.id, "saes": trained, "seconds": time.perf_counter() - started}
        answer(data, _trained_text(trained))


def _train(training: _Training) -> list[dict[str, Any]]:
    from saif_core.saes.training import extract_activations, train_sae

    model, plan, folder = training.model, training.plan, training.folder
    held_out = _held_out_sequences(training)
    _keep_plan(training)
    missing = [
        layer for layer in plan.layers if not (folder / f"layer{layer}" / CARD_FILE).exists()
    ]
    if not missing:
        say(f"Every SAE in {folder} is finished.")
        return [_describe(folder, layer) for layer in plan.layers]
    progress = ProgressLine()
    try:
        _set_precision(model, training.mixed_precision)
        state = extract_activations(
            model, training.sources, plan.layers, folder, n_tokens=plan.n_tokens, progress=progress
        )
        _set_precision(model, False)
        for layer in missing:
            path = train_sae(
                model.id,
                model.d_model,
                layer,
                folder,
                plan,
                device=str(model.device),
                progress=progress,
            )
            progress(f"measuring layer {layer}", 0, 0)
            _write_card(training, path, held_out, state.n_tokens, sorted(state.per_source))
    finally:
        progress.close()
    return [_describe(folder, layer) for layer in plan.layers]


def _write_card(
    training: _Training,
    path: Path,
    held_out: dict[str, list[list[int]]],
    n_tokens: int,
    sources: list[str],
) -> None:
    from saif_core.saes.card import measure_sae

    sae = training.catalog.load_sae(str(path), training.model)
    measured = measure_sae(training.model, sae, held_out)
    card = {
        "tokens_seen": n_tokens,
        "epochs": training.plan.n_epochs,
        "sources": sources,
        "dead_fraction": measured.dead_fraction,
        "cards": [to_json(card) for card in measured.cards],
    }
    (path / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")


def _describe(folder: Path, layer: int) -> dict[str, Any]:
    path = folder / f"layer{layer}"
    config = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
    card = json.loads((path / CARD_FILE).read_text(encoding="utf-8"))
    return {
        "id": str(path),
        "path": str(path),
        "layer": layer,
        "hook_point": config["metadata"]["hook_name"],
        "d_sae": config["d_sae"],
        **card,
    }


def _set_precision(model: "LoadedModel", mixed: bool) -> None:
    model.mixed_precision = mixed
    model.lock_parameters()


def _held_out_sequences(training: _Training) -> dict[str, list[list[int]]]:
    """{source: sequences that are never trained on}, read before anything long starts."""
    from saif_core.saes.training import read_documents, tokenize_document

    held_out: dict[str, list[list[int]]] = {}
    for source in training.sources:
        documents = read_documents(source.path, held_out=True)
        # Few of each document, so that a long book does not stand for the whole source.
        sequences = (
            sequence
            for document in documents
            for sequence in tokenize_document(training.model, document)[:4]
        )
        found = list(islice(sequences, HELD_OUT_SEQUENCES))
        if found:
            held_out.setdefault(source.path.name.split(".")[0], []).extend(found)
    if not held_out:
        raise SaifError(
            "The sources hold too few documents to keep one in fifty for measuring; give more text."
        )
    return held_out


def _keep_plan(training: _Training) -> None:
    """Write the plan down, or refuse a folder that holds the work of another one."""
    plan = {
        **asdict(training.plan),
        "layers": list(training.plan.layers),
        "sources": [[str(item.path), item.share] for item in training.sources],
        "model_sha256": training.model.sha256,
        "mixed_precision": training.mixed_precision,
    }
    path = training.folder / PLAN_FILE
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in plan if old.get(name) != plan[name])
        if other:
            raise SaifError(
                f"{training.folder} holds training with other settings ({', '.join(other)}); "
                "give the same ones to go on with it, or another --out."
            )
        return
    training.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def _trained_text(trained: Sequence[dict[str, Any]]) -> str:
    rows = [
        (sae["path"], card.text, card.fvu, card.ce_recovered, card.l0, float(sae["dead_fraction"]))
        for sae in trained
        for card in (SaeCard(**data) for data in sae["cards"])
    ]
    return table(("SAE", "held-out text", "FVU", "CE recovered", "L0", "dead"), rows)
