"""The Vector page as plain values: explained norm by number of atoms, tables, and the warning."""

import altair as alt

from saif_core.records.vectors import VectorReport


def explained_chart(report: VectorReport, k: int) -> alt.LayerChart:
    """Share of the squared norm that 1, 2, … atoms explain, with a rule at ``k``."""
    rows = [
        {"atoms": n, "explained": share, "latent": atom.index}
        for n, (share, atom) in enumerate(
            zip(report.pursuit.explained, report.pursuit.atoms, strict=True), start=1
        )
    ]
    x = alt.X("atoms:Q", title="number of atoms", axis=alt.Axis(tickMinStep=1, format="d"))
    curve = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_line(point=True)
        .encode(
            x=x,
            y=alt.Y(
                "explained:Q",
                title="share of the squared norm",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%"),
            ),
            tooltip=[
                alt.Tooltip("atoms:Q"),
                alt.Tooltip("explained:Q", format=".1%"),
                alt.Tooltip("latent:Q", title="latent added", format="d"),
            ],
        )
    )
    cut = (
        alt.Chart(alt.InlineData(values=[{"atoms": k}]))
        .mark_rule(strokeDash=[4, 4], color="#888888")
        .encode(x=x)
    )
    return alt.LayerChart(layer=[curve, cut]).properties(height=260)
