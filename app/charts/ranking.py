"""Charts of a ranking: records in, Altair charts out; no ``st.*``, so plainly testable."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import altair as alt

from app.presentation.escaping import promotes
from saif_core.records.ranking import LatentScore, Ranking

BRUSH = "rates"
_CHOSEN, _OTHER = "in the top k", "below the cut"
# No colours are named: the theme's first and second are blue and orange, fit for light and dark.
_BY_CUT = alt.Scale(domain=[_CHOSEN, _OTHER])
# The curve shows what is near the cut; the long tail of scores near 0 says nothing more.
_MIN_SHOWN, _SHOWN_PER_CUT = 100, 4


def score_curve(ranking: Ranking, top: int) -> alt.LayerChart:
    """Scores from best to worst, with a rule between the ``top`` best and the others.

    Args:
        top: how many latents are taken, at least 1.
    """
    shown = ranking.latents[: max(_MIN_SHOWN, _SHOWN_PER_CUT * top)]
    rows = [
        {
            "rank": rank,
            "score": latent.score,
            "latent": latent.index,
            "cut": _CHOSEN if rank <= top else _OTHER,
        }
        for rank, latent in enumerate(shown, start=1)
    ]
    label = ranking.selector.replace("_", " ")
    points = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_circle(size=28, opacity=0.9)
        .encode(
            x=alt.X("rank:Q", title="rank", scale=alt.Scale(nice=False)),
            y=alt.Y("score:Q", title=f"score ({label})"),
            color=alt.Color("cut:N", scale=_BY_CUT, legend=None),
            tooltip=[
                alt.Tooltip("latent:Q", format="d"),
                alt.Tooltip("rank:Q", format="d"),
                alt.Tooltip("score:Q", format=".3f"),
            ],
        )
    )
    rule = (
        alt.Chart(alt.InlineData(values=[{"cut_at": top + 0.5, "label": f"top {top}"}]))
        .mark_rule(strokeDash=[4, 3], color="#888888")
        .encode(x="cut_at:Q", tooltip=alt.Tooltip("label:N", title="cut"))
    )
    return alt.LayerChart(layer=[points, rule]).properties(height=220)


def rate_scatter(ranking: Ranking, top: int) -> alt.Chart:
    """Firing rate without against with the instruction, one dot per listed latent.

    Its interval selection is called ``BRUSH``; ``latents_in`` reads what it returns.
    """
    rows = [
        {
            "latent": latent.index,
            "without": latent.rate_negative,
            "with": latent.rate_positive,
            "score": latent.score,
            "promotes": promotes(latent.top_tokens),
            "cut": _CHOSEN if rank <= top else _OTHER,
        }
        for rank, latent in enumerate(ranking.latents, start=1)
    ]
    brush = alt.selection_interval(name=BRUSH, encodings=["x", "y"])
    rate = alt.Scale(domain=[0, 1])
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=rows))
        .mark_point(filled=True, size=36)
        .encode(
            x=alt.X("without:Q", title="fires without", scale=rate, axis=alt.Axis(format="%")),
            y=alt.Y(
                "with:Q", title="fires with the instruction", scale=rate, axis=alt.Axis(format="%")
            ),
            color=alt.Color("cut:N", scale=_BY_CUT, legend=alt.Legend(orient="top", title=None)),
            shape=alt.Shape("cut:N", scale=_BY_CUT, legend=None),
            opacity=alt.condition(brush, alt.value(0.85), alt.value(0.2)),
            tooltip=[
                alt.Tooltip("latent:Q", format="d"),
                alt.Tooltip("promotes:N"),
                alt.Tooltip("with:Q", format=".0%"),
                alt.Tooltip("without:Q", format=".0%"),
                alt.Tooltip("score:Q", format=".3f"),
            ],
        )
        .add_params(brush)
        .properties(height=340)
    )
    return chart


def latents_in(
    latents: Sequence[LatentScore], selection: Mapping[str, Any]
) -> tuple[LatentScore, ...]:
    """The latents inside the brush of ``rate_scatter``; all of them when nothing is brushed.

    Args:
        selection: the brush as Streamlit returns it, a (low, high) for "without" and "with".
    """
    kept = tuple(latents)
    for name, attribute in (("without", "rate_negative"), ("with", "rate_positive")):
        bounds = selection.get(name)
        if isinstance(bounds, list | tuple) and len(bounds) == 2:
            low, high = sorted(bounds)
            kept = tuple(one for one in kept if low <= getattr(one, attribute) <= high)
    return kept


def overlap_rows(
    tops: Mapping[str, Collection[int]],
) -> list[dict[str, str | int]]:
    """How many latents every two lists share, as the rows of a square table.

    Args:
        tops: latent indices by the list's name.
    """
    return [
        {"ranking": name, **{other: len(set(own) & set(theirs)) for other, theirs in tops.items()}}
        for name, own in tops.items()
    ]
