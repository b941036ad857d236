"""``saif health`` and ``saif decompose``: how good an SAE is, and what a vector is made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import (
    ChatOption,
    ContentsOption,
    InstructionOption,
    JsonOption,
    LayerOption,
    ModelOption,
    NContentsOption,
    PairsOption,
    PositionOption,
    ReadOption,
    ResponseTokensOption,
    SaeOption,
    WordingsOption,
)
from app.cli.output import answering, shown_tokens, table, wait_for
from app.cli.requests import opened_engine, read_pairs, settings_for
from app.installation import opened_store
from saif_core.errors import SteeringError
from saif_core.records.as_json import to_json
from saif_core.records.ranking import RankingRequest

if TYPE_CHECKING:  # these import torch
    from saif_core.explaining.health import DensityReport, TextMeasurement
    from saif_core.explaining.vectors import VectorReport
    from saif_core.models.loaded_model import LoadedModel
    from saif_core.records.jobs import Step
    from saif_core.saes.loaded_sae import LoadedSae


def health(
    layer: LayerOption = None,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Measure an SAE on short texts in several languages, and judge it."""
    with answering(as_json) as answer, opened_engine(model, sae, layer) as (engine, sae_id):
        from app.presentation.health import density_sentence, figure_table, verdict
        from saif_core.explaining.health import judge_health, measure_health

        measured: tuple[TextMeasurement, ...] = wait_for(
            engine.work(
                "health",
                f"Measure {sae_id}",
                (sae_id,),
                lambda loaded, saes, step: measure_health(loaded, saes[0], step=step),
            )
        )
        density = _read_density(model, sae, sae_id)
        info = next((info for info in engine.saes() if info.id == sae_id), None)
        counted = density.dead_fraction if density else None
        on_card = info.dead_fraction if info else None
        findings = judge_health(
            [found.card for found in measured], on_card if counted is None else counted
        )
        figures = figure_table((), measured)
        columns = ("text", "ce", "fvu", "explained", "l0", "tokens", "sinks")
        headers = ("text", "CE recovered %", "FVU", "explained", "L0", "tokens", "sinks %")
        lines = [
            table(headers, list(zip(*(figures[name] for name in columns), strict=True))),
            "",
            verdict(findings),
            *(finding.sentence for finding in findings),
            density_sentence(density) if density else "No corpus was indexed with this SAE.",
        ]
        data = {
            "sae": sae_id,
            "verdict": verdict(findings),
            "findings": [to_json(finding) for finding in findings],
            "texts": [to_json(found) for found in measured],
            "density": to_json(density) if density else None,
        }
        answer(data, "\n".join(lines))


def _read_density(model: str, sae: str, sae_id: str) -> "DensityReport | None":
    from saif_core.explaining.health import summarize_density
    from saif_core.inputs.shipped import shipped_index

    with opened_store(settings_for(model, sae)) as store:
        shipped = shipped_index(sae_id)
        if shipped is not None:
            store.profiles.import_index(shipped.read_bytes())
        for index in store.latents.indexes():
            if index.sae_id == sae_id and index.finished:
                return summarize_density(store.latents.density(index.id), index.n_tokens)
    return None


def decompose(
    vector: Annotated[
        Path | None,
        typer.Option(
            "--vector",
            exists=True,
            dir_okay=False,
            show_default=False,
            help="A .npy or .safetensors file with one vector of the residual stream.",
        ),
    ] = None,
    instruction: InstructionOption = "",
    pairs: PairsOption = None,
    contents: ContentsOption = None,
    n_contents: NContentsOption = None,
    wordings: WordingsOption = "all",
    position: PositionOption = "after",
    read: ReadOption = "response",
    response_tokens: ResponseTokensOption = 24,
    chat: ChatOption = True,
    atoms: Annotated[
        int, typer.Option("--atoms", min=1, max=64, help="Latents in the sum, at most.")
    ] = 15,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            dir_okay=False,
            show_default=False,
            help="Write the vector to this .safetensors file.",
        ),
    ] = None,
    layer: LayerOption = None,
    model: ModelOption = "",
    sae: SaeOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take a vector apart into latents.

    The vector is in a file, or it is the mean difference of the residual stream with and without
    an instruction.
    """
    if (vector is not None) == bool(instruction or pairs):
        raise SteeringError("Give either --vector, or --instruction or --pairs to make one.")
    file = (vector.name, vector.read_bytes()) if vector is not None else ("", b"")
    ranked = None
    if vector is None:
        ranked = read_pairs(
            instruction,
            pairs,
            contents,
            n_contents=n_contents,
            wordings=wordings,
            position=position,
        )
    with answering(as_json) as answer, opened_engine(model, sae, layer) as (engine, sae_id):
        from saif_core.explaining.vectors import (
            comparison_prompts,
            explain_vector,
            mean_difference,
            read_prompt_ends,
        )
        from saif_core.finding.vector_files import read_vector, vector_file

        request = None
        if ranked is not None:
            request = RankingRequest(
                sae_id,
                *ranked,
                chat=chat,
                read=read,
                response_tokens=response_tokens,
            )
        prompts = comparison_prompts(request)

        def work(
            loaded: "LoadedModel", saes: "Sequence[LoadedSae]", step: "Step"
        ) -> "VectorReport":
            (loaded_sae,) = saes
            if request is not None:
                given = mean_difference(loaded, loaded_sae.layer, request, step=step)
            else:
                given = read_vector(*file, loaded.d_model)
            resid = read_prompt_ends(loaded, loaded_sae.layer, prompts, chat=chat)
            return explain_vector(loaded, loaded_sae, given, resid, n_atoms=atoms)

        report: VectorReport = wait_for(
            engine.work("vector", "Take a vector apart", (sae_id,), work)
        )
        if out is not None:
            out.write_bytes(vector_file(report.vector))
        answer({"sae": sae_id, **to_json(report)}, _vector_text(report))


def _vector_text(report: "VectorReport") -> str:
    from app.presentation.texts import size_sentence
    from app.presentation.vector import explained_sentence, naive_sentence

    atoms = [
        (atom.index, atom.coefficient, share, shown_tokens(report.promoted[atom.index]))
        for atom, share in zip(report.pursuit.atoms, report.pursuit.explained, strict=True)
    ]
    changes = [
        (change.index, change.change, shown_tokens(report.promoted[change.index]))
        for change in report.changes
    ]
    n = report.n_prompts
    return "\n".join(
        [
            f"{size_sentence(report.norm, report.naive.norm_share)} (n = {n} prompts)",
            explained_sentence(report, len(atoms)),
            "",
            table(("latent", "coefficient", "explained", "promotes"), atoms),
            "",
            f"What adding it changes, mean over the last token of n = {n} prompts:",
            table(("latent", "change", "promotes"), changes),
            "",
            naive_sentence(report.naive),
        ]
    )
