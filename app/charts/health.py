"""The SAE health page as plain values: the density histogram, the table of figures, the verdict."""

import altair as alt

from app.presentation.health import DEAD, OFTEN, SELDOM, SILENT
from saif_core.explaining.health import DENSE
from saif_core.records.health import DensityReport


def density_chart(report: DensityReport) -> alt.Chart:
    """Latents by log10 of their density; at the left, a bar of those that never fire."""
    rows = [
        {"from": low, "to": high, "n": n, "zero": 0, "kind": OFTEN if 10**low >= DENSE else SELDOM}
        for low, high, n in report.bins
        if n
    ]
    # Few tokens cannot tell a dead latent from a rare one.
    never = SILENT if report.dead_fraction is None else DEAD
    if report.n_dead:
        lowest = report.bins[0][0]
        place = {"from": lowest - 0.5, "to": lowest - 0.25}
        rows.insert(0, {**place, "n": report.n_dead, "zero": 0, "kind": never})
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("from:Q", title="log10 of the share of tokens; those that never fire apart"),
            x2="to:Q",
            y=alt.Y("n:Q", title="latents", stack=None),
            y2="zero:Q",
            color=alt.Color(
                "kind:N",
                scale=alt.Scale(domain=[SELDOM, OFTEN, never]),
                legend=alt.Legend(orient="top", title=None),
            ),
            tooltip=[
                alt.Tooltip("kind:N"),
                alt.Tooltip("n:Q", title="latents"),
                alt.Tooltip("from:Q", format=".2f"),
                alt.Tooltip("to:Q", format=".2f"),
            ],
        )
        .properties(height=260)
    )
    return chart
