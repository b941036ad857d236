"""``saif health``: how good an SAE is."""

from typing import TYPE_CHECKING

from app.cli.groups import Place
from app.cli.options import JsonOption
from app.cli.output import answering, table, wait_for
from app.cli.requests import Opened, opened_at
from saif_core.records.as_json import to_json

if TYPE_CHECKING:  # imports numpy
    from saif_core.records.health import DensityReport, Finding
    from saif_core.records.questions import HealthReport

COLUMNS = ("text", "ce", "fvu", "explained", "l0", "tokens", "sinks")
HEADERS = ("text", "CE recovered %", "FVU", "explained", "L0", "tokens", "sinks %")


def health(place: Place, as_json: JsonOption = False) -> None:
    """Measure an SAE on short texts in several languages, and judge it."""
    with answering(as_json) as answer, opened_at(place) as (here, sae_id):
        from app.presentation.health import verdict
        from saif_core.explaining.health import judge_health
        from saif_core.records.questions import HealthRequest

        report: HealthReport = wait_for(here.engine.submit(HealthRequest(sae_id)))
        density = _read_density(here, sae_id)
        info = next((info for info in here.engine.saes() if info.id == sae_id), None)
        counted = density.dead_fraction if density else None
        on_card = info.dead_fraction if info else None
        findings = judge_health(
            [found.card for found in report.texts], on_card if counted is None else counted
        )
        data = {
            "sae": sae_id,
            "verdict": verdict(findings),
            "findings": [to_json(finding) for finding in findings],
            "texts": [to_json(found) for found in report.texts],
            "density": to_json(density) if density else None,
        }
        answer(data, _text(report, findings, density))


def _read_density(here: Opened, sae_id: str) -> "DensityReport | None":
    from app.presentation.latents import indexes_of
    from saif_core.explaining.health import summarize_density

    index = next(iter(indexes_of(here.store, sae_id)), None)
    if index is None:
        return None
    return summarize_density(here.store.latents.density(index.id), index.n_tokens)


def _text(
    report: "HealthReport", findings: "tuple[Finding, ...]", density: "DensityReport | None"
) -> str:
    from app.presentation.health import density_sentence, figure_table, verdict

    figures = figure_table((), report.texts)
    rows = list(zip(*(figures[name] for name in COLUMNS), strict=True))
    counted = density_sentence(density) if density else "No corpus was indexed with this SAE."
    said = [verdict(findings), *(finding.sentence for finding in findings), counted]
    return "\n".join([table(HEADERS, rows), "", *said])
