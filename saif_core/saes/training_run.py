"""A whole training run: text → activations → an SAE per layer → what was measured of it.

Started again with the same plan in the same folder, it goes on where it stopped.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from saif_core.errors import SaifError
from saif_core.models.hook_points import hook_point_name, parse_hook_point
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.as_json import to_json
from saif_core.records.saes import SaeCard
from saif_core.saes.card import measure_sae
from saif_core.saes.training import (
    Progress,
    TextSource,
    TrainingPlan,
    extract_activations,
    read_documents,
    tokenize_document,
    train_sae,
)
from saif_core.saes.whole_files import replace_file

if TYPE_CHECKING:  # the catalog imports what is here
    from saif_core.catalog import Catalog

HELD_OUT_SEQUENCES = 64  # per source: some 10,000 tokens, enough for figures of two digits
PLAN_FILE = "plan.json"
CARD_FILE = "card.json"


@dataclass(frozen=True)
class TrainedSae:
    """An SAE that was trained here, and how good it is on text that was not trained on."""

    id: str
    path: str
    layer: int
    hook_point: str
    d_sae: int
    tokens_seen: int
    epochs: float
    sources: tuple[str, ...]
    dead_fraction: float
    cards: tuple[SaeCard, ...]


@dataclass(frozen=True)
class _Run:
    model: LoadedModel
    catalog: "Catalog"
    sources: Sequence[TextSource]
    plan: TrainingPlan
    folder: Path
    mixed_precision: bool
    progress: Progress


def run_training(
    catalog: "Catalog",
    model_id: str,
    sources: Sequence[TextSource],
    plan: TrainingPlan,
    folder: Path,
    *,
    device: str,
    dtype: str,
    mixed_precision: bool = False,
    progress: Progress,
) -> list[TrainedSae]:
    """Train and measure an SAE for each layer of a plan.

    Args:
        folder: for the SAEs and, per layer, the activations (2 bytes × d_model a token).
        device, dtype: see ``Catalog.load_model``.
        mixed_precision: read with bfloat16 products and a float32 residual stream.

    Raises:
        SaifError: the model lacks a layer, there is too little text, or the folder holds the work
            of another plan.
    """
    model = catalog.load_model(model_id, device=device, dtype=dtype)
    for layer in plan.layers:
        parse_hook_point(hook_point_name(layer), model.n_layers)
    run = _Run(model, catalog, sources, plan, folder, mixed_precision, progress)
    held_out = _held_out_sequences(run)
    _keep_plan(run)
    missing = [layer for layer in plan.layers if not _card_file(run, layer).exists()]
    if missing:
        _train(run, missing, held_out)
    return [_describe(run, layer) for layer in plan.layers]


def _train(run: _Run, layers: Sequence[int], held_out: dict[str, list[list[int]]]) -> None:
    model, plan = run.model, run.plan
    _set_precision(model, run.mixed_precision)
    state = extract_activations(
        model,
        run.sources,
        plan.layers,
        run.folder,
        n_tokens=plan.n_tokens,
        progress=run.progress,
    )
    _set_precision(model, False)
    for layer in layers:
        path = train_sae(
            model.id,
            model.d_model,
            layer,
            run.folder,
            plan,
            device=str(model.device),
            progress=run.progress,
        )
        run.progress(f"measuring layer {layer}", 0, 0)
        sae = run.catalog.load_sae(str(path), model)
        measured = measure_sae(model, sae, held_out)
        card = {
            "tokens_seen": state.n_tokens,
            "epochs": plan.n_epochs,
            "sources": sorted(state.per_source),
            "dead_fraction": measured.dead_fraction,
            "cards": [to_json(card) for card in measured.cards],
        }
        # A half-written card would count as a finished layer.
        replace_file(_card_file(run, layer), json.dumps(card, indent=1) + "\n")


def _set_precision(model: LoadedModel, mixed: bool) -> None:
    model.mixed_precision = mixed
    model.lock_parameters()


def _card_file(run: _Run, layer: int) -> Path:
    return run.folder / f"layer{layer}" / CARD_FILE


def _describe(run: _Run, layer: int) -> TrainedSae:
    path = run.folder / f"layer{layer}"
    config = json.loads((path / "cfg.json").read_text(encoding="utf-8"))
    card = json.loads((path / CARD_FILE).read_text(encoding="utf-8"))
    return TrainedSae(
        id=str(path),
        path=str(path),
        layer=layer,
        hook_point=config["metadata"]["hook_name"],
        d_sae=config["d_sae"],
        tokens_seen=card["tokens_seen"],
        epochs=card["epochs"],
        sources=tuple(card["sources"]),
        dead_fraction=card["dead_fraction"],
        cards=tuple(SaeCard(**measured) for measured in card["cards"]),
    )


def _held_out_sequences(run: _Run) -> dict[str, list[list[int]]]:
    """{source: sequences that are never trained on}, read before anything long starts."""
    held_out: dict[str, list[list[int]]] = {}
    for source in run.sources:
        documents = read_documents(source.path, held_out=True)
        # Few of each document, so that a long book does not stand for the whole source.
        sequences = (
            sequence
            for document in documents
            for sequence in tokenize_document(run.model, document)[:4]
        )
        found = list(islice(sequences, HELD_OUT_SEQUENCES))
        if found:
            held_out.setdefault(source.path.name.split(".")[0], []).extend(found)
    if not held_out:
        raise SaifError(
            "The sources hold too few documents to keep one in fifty for measuring; give more text."
        )
    return held_out


def _keep_plan(run: _Run) -> None:
    """Write the plan down, or refuse a folder that holds the work of another one."""
    plan = {
        **asdict(run.plan),
        "layers": list(run.plan.layers),
        "sources": [[str(item.path), item.share] for item in run.sources],
        "model_sha256": run.model.sha256,
        "mixed_precision": run.mixed_precision,
    }
    path = run.folder / PLAN_FILE
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(name for name in plan if old.get(name) != plan[name])
        if other:
            raise SaifError(
                f"{run.folder} holds training with other settings ({', '.join(other)}); give the "
                "same ones to go on with it, or another folder."
            )
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    replace_file(path, json.dumps(plan, indent=1) + "\n")
