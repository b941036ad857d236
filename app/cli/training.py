"""``saif train-sae``: SAEs trained on a model's residual stream, measured on held-out text."""

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli.options import JsonOption
from app.cli.output import ProgressLine, answering, table
from app.cli.requests import absolute_folder, settings_for
from app.cli.training_inputs import (
    TrainingOptions,
    check_sources,
    parse_layers,
    parse_source,
    shape_like,
)
from app.installation import installed_catalog, quiet_libraries
from saif_core.errors import SaifError

if TYPE_CHECKING:  # these import torch
    from saif_core.catalog import Catalog
    from saif_core.saes.training import TrainingPlan
    from saif_core.saes.training_run import TrainedSae


def train_sae(asked: TrainingOptions, as_json: JsonOption = False) -> None:
    """Train and measure an SAE per layer.

    Started again with the same options, it goes on where it stopped.
    """
    started = time.perf_counter()
    settings = settings_for(asked.model, asked.sae, asked.device)
    with answering(as_json) as answer:
        from saif_core.saes.training_run import run_training

        quiet_libraries()
        sources = [parse_source(text) for text in asked.source]
        check_sources(sources)
        catalog = installed_catalog(settings)
        progress = ProgressLine()
        try:
            trained = run_training(
                catalog,
                settings.model,
                sources,
                _plan(asked, catalog, settings.model),
                asked.out or settings.home / "saes" / Path(settings.model).name,
                device=settings.device,
                dtype=settings.dtype,
                mixed_precision=asked.mixed_precision,
                progress=progress,
            )
        finally:
            progress.close()
        data = {
            "model": settings.model,
            "saes": [asdict(one) for one in trained],
            "seconds": time.perf_counter() - started,
        }
        answer(data, _trained_text(trained))


def _plan(asked: TrainingOptions, catalog: "Catalog", model_id: str) -> "TrainingPlan":
    """What to train.

    Raises:
        SaifError: shape and layers are not known, or do not fit each other.
    """
    from saif_core.saes.training import TrainingPlan

    d_sae = asked.d_sae
    layers: tuple[int, ...] = ()
    if asked.sae:
        d_sae, layers = shape_like(catalog, model_id, absolute_folder(asked.sae), asked.layers)
    if asked.k > d_sae:
        raise SaifError(f"--k {asked.k} is more than the {d_sae} latents; choose a smaller one.")
    return TrainingPlan(
        layers=layers or parse_layers(asked.layers, model_id),
        n_tokens=asked.tokens,
        d_sae=d_sae,
        k=asked.k,
        n_epochs=asked.epochs,
        batch_tokens=asked.batch_tokens,
        seed=asked.seed,
    )


def _trained_text(trained: "Sequence[TrainedSae]") -> str:
    rows = [
        (sae.path, card.text, card.fvu, card.ce_recovered, card.l0, float(sae.dead_fraction))
        for sae in trained
        for card in sae.cards
    ]
    return table(("SAE", "held-out text", "FVU", "CE recovered", "L0", "dead"), rows)
