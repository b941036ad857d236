"""What was measured of an SAE, as tables and words."""

from collections.abc import Sequence
from typing import Any

from app.presentation.figures import counted
from saif_core.explaining.health import DENSE
from saif_core.records.health import DensityReport, Finding, TextMeasurement
from saif_core.records.saes import SaeCard

DEAD, SILENT, SELDOM, OFTEN = "dead", "never fires here", "fires", "dense"
CARD, HERE = "its card", "here"


def density_sentence(report: DensityReport) -> str:
    """How many latents are dead and how many dense, with n.

    On few tokens, latents that are merely rare do not fire: nobody is called dead there.
    """
    if report.dead_fraction is None:
        dead = f"{report.n_dead:,} never {'fires' if report.n_dead == 1 else 'fire'} here"
    else:
        dead = f"{report.n_dead:,} {'is' if report.n_dead == 1 else 'are'} dead"
    dense = "is dense: it fires" if report.n_dense == 1 else "are dense: they fire"
    return (
        f"Of {counted(report.d_sae, 'latent')}, {dead} ({report.n_dead / report.d_sae:.1%}) and "
        f"{report.n_dense:,} {dense} on more than {DENSE:.0%} of tokens "
        f"(n = {counted(report.n_tokens, 'token')})."
    )


def figure_table(
    cards: Sequence[SaeCard], measured: Sequence[TextMeasurement]
) -> dict[str, list[Any]]:
    """One row per text and place of measurement; a card and what is measured here stand together.

    The share of sinks is None where a card does not tell it.
    """
    rows: list[tuple[SaeCard, str, float | None]] = [(card, CARD, None) for card in cards]
    rows += [(found.card, HERE, 100 * found.sink_share) for found in measured]
    order = list(dict.fromkeys(card.text for card, _, _ in rows))
    rows.sort(key=lambda row: order.index(row[0].text))
    return {
        "text": [card.text for card, _, _ in rows],
        "measured": [where for _, where, _ in rows],
        "ce": [100 * card.ce_recovered for card, _, _ in rows],
        "fvu": [card.fvu for card, _, _ in rows],
        "explained": [card.explained_variance for card, _, _ in rows],
        "l0": [card.l0 for card, _, _ in rows],
        "tokens": [card.n_tokens for card, _, _ in rows],
        "sinks": [sinks for _, _, sinks in rows],
    }


def verdict(findings: Sequence[Finding]) -> str:
    """The findings in one sentence."""
    n_failed = sum(finding.passed is False for finding in findings)
    n_unknown = sum(finding.passed is None for finding in findings)
    if n_failed:
        return f"Use with care: {n_failed} of {len(findings)} measures are not good."
    if n_unknown == len(findings):
        return "Nothing is known of its quality yet."
    if n_unknown:
        return f"Good as far as known: {n_unknown} of {len(findings)} measures are missing."
    return f"Good by all {len(findings)} measures."
