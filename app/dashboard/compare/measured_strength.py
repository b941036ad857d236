"""Which strengths an evaluation found safe and best: painted on the dial, in words, as a button."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import altair as alt
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.dashboard.compare.steering_form import SteeringForm, dial_range
from app.dashboard.fields.schedule_fields import Schedule
from app.dashboard.handles import engine, store
from app.dashboard.work import Work
from app.presentation.evaluation import ARM_COLOURS
from saif_core.records.evaluation import WORST_DISORDER, Cell, Evaluation
from saif_core.records.saes import layers_of

# Older evaluations than these are not looked through.
_NEWEST = 10
# So that a strength stands below its place on the dial, in pixels.
DIAL_PADDING = {"left": 6, "right": 6, "top": 0, "bottom": 0}


@dataclass(frozen=True)
class MeasuredStrength:
    """The best strength of one number of latents.

    Attributes:
        k: latents that were steered with.
        strength: best on one half of the contents; None if disorder was too common at the least.
        n, strict, disorder: at this strength on the other half.
        safe_from, safe_up_to: the least strength measured, and the strongest up to which at most
            ``WORST_DISORDER`` of all texts fell into disorder.
    """

    k: int
    strength: float | None = None
    n: int = 0
    strict: float = 0.0
    disorder: float = 0.0
    safe_from: float = 0.0
    safe_up_to: float = 0.0


def best_strength(cells: Iterable[Cell], *, layer: int, n_latents: int) -> MeasuredStrength | None:
    """What the cells say of steering with latents of one layer; None if they do not.

    Args:
        n_latents: of the numbers of latents measured, the nearest to this is taken.
    """
    ours = [
        cell
        for cell in cells
        if cell.setting.arm == "saif"
        and cell.setting.layers == (layer,)
        and cell.setting.k
        and cell.setting.strength
    ]
    if not ours:
        return None
    settings = {(cell.setting.k or 0, cell.setting.beta or 0.0) for cell in ours}
    k, beta = min(settings, key=lambda one: (abs(one[0] - n_latents), one))
    curve = sorted(
        (c for c in ours if (c.setting.k, c.setting.beta or 0.0) == (k, beta)), key=_strength
    )
    safe = _safe(curve)
    if not safe:
        return MeasuredStrength(k)
    best = max(safe, key=lambda cell: cell.choosing.strict)
    rates = best.reporting
    return MeasuredStrength(
        k,
        _strength(best),
        rates.n,
        rates.strict,
        rates.disorder,
        _strength(safe[0]),
        _strength(safe[-1]),
    )


def measured_sentence(measured: MeasuredStrength) -> str:
    """The band in words, with n."""
    of = f"the best {measured.k} latents" if measured.k > 1 else "the best latent"
    if measured.strength is None:
        return (
            f"Measured with {of}: at every strength more than {WORST_DISORDER:.0%} of the texts "
            "fell into disorder."
        )
    return (
        f"Measured with {of}, n = {measured.n}: strict {measured.strict:.0%} at "
        f"{measured.strength:g}, {measured.disorder:.0%} disorder; at most {WORST_DISORDER:.0%} "
        f"disorder up to {measured.safe_up_to:g} (the band)."
    )


def band_chart(measured: MeasuredStrength, least: float, most: float) -> alt.LayerChart:
    """The safe strengths as a band, the best one as a mark, for below a dial of this range."""
    assert measured.strength is not None
    row = {"from": measured.safe_from, "to": measured.safe_up_to, "best": measured.strength}
    base = alt.Chart(alt.InlineData(values=[row])).encode(
        tooltip=[
            alt.Tooltip("from:Q", title="safe from"),
            alt.Tooltip("to:Q", title="safe up to"),
            alt.Tooltip("best:Q", title="best"),
        ]
    )
    scale, colour = alt.Scale(domain=[least, most], nice=False), ARM_COLOURS["saif"]
    band = base.mark_bar(height=6, color=colour, opacity=0.5, cornerRadius=3, clip=True).encode(
        x=alt.X("from:Q", scale=scale, axis=None), x2="to:Q"
    )
    best = base.mark_tick(height=14, thickness=3, color=colour, clip=True).encode(
        x=alt.X("best:Q", scale=scale, axis=None)
    )
    return alt.LayerChart(layer=[band, best]).properties(height=14, padding=DIAL_PADDING)


def draw_measured(work: Work, form: SteeringForm, dial: DeltaGenerator) -> None:
    """Draw what was measured for the instruction in hand, or where to measure it.

    Args:
        dial: the place below the dial, where the band goes.
    """
    measured = _find(work, form)
    if measured is not None and measured.strength is not None:
        dial.altair_chart(
            band_chart(measured, *dial_range(work)),
            key="compare_band",
            alt=f"Safe strengths: {measured.safe_from:g} to {measured.safe_up_to:g}",
        )
    with st.container(horizontal=True, vertical_alignment="center", key="compare_measured"):
        if measured is None:
            st.caption("This strength is not measured yet.", width="content")
        else:
            st.caption(measured_sentence(measured), width="content")
            if measured.strength is not None:
                st.button(
                    f"Use {measured.strength:g}",
                    key="compare_use_measured",
                    icon=":material/tune:",
                    disabled=measured.strength == work.strength,
                    on_click=setattr,
                    args=(work, "strength", measured.strength),
                )
        label = "Measure it" if measured is None else "The whole curve"
        st.page_link("views/evaluate.py", label=label, icon=":material/query_stats:")


def _strength(cell: Cell) -> float:
    return cell.setting.strength or 0.0


def _safe(curve: Sequence[Cell]) -> list[Cell]:
    """The cells below the first strength at which too many texts fall into disorder."""
    too_strong = (at for at, cell in enumerate(curve) if cell.rates.disorder > WORST_DISORDER)
    return list(curve[: next(too_strong, len(curve))])


def _find(work: Work, form: SteeringForm) -> MeasuredStrength | None:
    """From the newest evaluation that steered as the page does."""
    layer = layers_of(engine().saes()).get(work.sae_id)
    if layer is None or form.method != "addition":
        return None
    for summary in store().evaluations.list(instruction=work.instruction, limit=_NEWEST):
        evaluation = _evaluation(summary.id)
        request = evaluation.request
        if (
            work.sae_id in request.sae_ids
            and evaluation.model == engine().model_id
            and (Schedule.of(request), request.chat) == (form.schedule, form.chat)
        ):
            measured = best_strength(evaluation.cells, layer=layer, n_latents=len(work.basket))
            if measured is not None:
                return measured
    return None


@st.cache_data(max_entries=50, show_spinner=False)
def _evaluation(evaluation_id: str) -> Evaluation:
    return store().evaluations.get(evaluation_id)
