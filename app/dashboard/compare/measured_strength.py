"""Which strengths an evaluation found safe and best: painted on the dial, in words, as a button."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import altair as alt
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from app.dashboard.compare.steering_form import SteeringForm, dial_range
from app.dashboard.evaluate.candidate_fields import measure_basket
from app.dashboard.handles import engine, store
from app.dashboard.work import Work, open_page
from app.presentation.arms import arm_words
from app.presentation.escaping import escape_markdown
from app.presentation.evaluation import CANDIDATE_COLOURS
from app.presentation.evaluation_files import share_words
from app.presentation.figures import counted, number_words
from saif_core.records.evaluation import WORST_DISORDER, Cell, Evaluation, MadeEdits, Rates
from saif_core.records.ranking import ChosenLatent
from saif_core.records.saes import layers_of
from saif_core.records.steering import Edit

# Older evaluations than these are not looked through.
_NEWEST = 10
# So that a strength stands below its place on the dial, in pixels.
DIAL_PADDING = {"left": 6, "right": 6, "top": 0, "bottom": 0}


@dataclass(frozen=True)
class MeasuredStrength:
    """What was measured of steering at several strengths.

    Attributes:
        arm: what was steered with, and with how many latents.
        strength: with the most useful texts on one half of the contents, of those within the
            limit; where none is, the one with the least disorder.
        qualifies: whether at most ``WORST_DISORDER`` of all texts fell into disorder at it.
        rates: at this strength; on the other half if it was chosen, else on all.
        content_checked: whether it was measured what the texts are about.
        band: the strengths within the limit, as runs of neighbouring ones: first and last.
        from_least: whether the band is one run that begins at the least strength measured.
    """

    arm: str
    n_latents: int
    strength: float
    qualifies: bool
    rates: Rates
    content_checked: bool
    band: tuple[tuple[float, float], ...] = ()
    from_least: bool = False


def best_strength(evaluation: Evaluation, edit: Edit) -> MeasuredStrength | None:
    """What an evaluation says of steering as an edit does; None if it does not.

    Args:
        edit: of what was measured, the latents that are most like those of it are taken.
    """
    alike = [made for made in evaluation.made if _is_alike(made, edit)]
    if not alike:
        return None
    made = min(alike, key=lambda one: _distance(one.edits[0].latents, edit.latents))
    curve = _curve(evaluation.cells, made)
    if not curve:
        return None
    safe = [cell for cell in curve if _is_safe(cell)]
    n_latents = len(made.edits[0].latents)
    checked = bool(evaluation.content_measure)
    if not safe:
        nearest = min(curve, key=lambda cell: cell.rates.disorder)
        at = _strength(nearest)
        return MeasuredStrength(made.arm, n_latents, at, False, nearest.rates, checked)
    best = max(safe, key=lambda cell: (cell.choosing.primary, cell.choosing.strict))
    band = _band(curve)
    return MeasuredStrength(
        made.arm,
        n_latents,
        _strength(best),
        True,
        best.reporting,
        checked,
        band,
        from_least=len(band) == 1 and band[0][0] == _strength(curve[0]),
    )


def measured_sentence(measured: MeasuredStrength) -> str:
    """The band in words, with n."""
    of = f"{counted(measured.n_latents, 'latent')} of {arm_words(measured.arm)}"
    limit, at = f"{WORST_DISORDER:.0%}", number_words(measured.strength)
    rates = measured.rates
    if not measured.qualifies:
        return (
            f"Measured with {of}, n = {rates.n}: at every strength more than {limit} of the "
            f"texts fell into disorder, so none qualifies; the nearest is {at} with "
            f"{rates.disorder:.0%}."
        )
    return (
        f"Measured with {of}, n = {rates.n}: {_rates_words(measured)} at {at}; at most {limit} "
        f"disorder {_band_words(measured)} (the band)."
    )


def _rates_words(measured: MeasuredStrength) -> str:
    """The main figure with its interval, and the others beside it."""
    rates = measured.rates
    main = share_words(rates.primary, rates.primary_ci)
    main += "" if measured.content_checked else " (content was not checked)"
    if rates.useful is None:
        return f"strict {main}, disorder {rates.disorder:.0%}"
    return f"useful {main}, strict {rates.strict:.0%}, disorder {rates.disorder:.0%}"


def _band_words(measured: MeasuredStrength) -> str:
    if measured.from_least:
        return f"up to {number_words(measured.band[0][1])}"
    runs = [
        number_words(first) if first == last else f"{number_words(first)} to {number_words(last)}"
        for first, last in measured.band
    ]
    return f"at {' and '.join(filter(None, [', '.join(runs[:-1]), runs[-1]]))}"


def band_chart(measured: MeasuredStrength, least: float, most: float) -> alt.LayerChart:
    """The safe strengths as bands, the best one as a mark, for below a dial of this range."""
    rows = [{"from": first, "to": last, "best": measured.strength} for first, last in measured.band]
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        tooltip=[
            alt.Tooltip("from:Q", title="safe from", format="~g"),
            alt.Tooltip("to:Q", title="safe up to", format="~g"),
            alt.Tooltip("best:Q", title="best", format="~g"),
        ]
    )
    scale, colour = alt.Scale(domain=[least, most], nice=False), CANDIDATE_COLOURS[0]
    # With a stroke, so that a single strength is seen too.
    band = base.mark_bar(
        height=6, color=colour, stroke=colour, strokeWidth=2, opacity=0.5, cornerRadius=3, clip=True
    ).encode(x=alt.X("from:Q", scale=scale, axis=None), x2="to:Q")
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
    if measured is not None and measured.qualifies:
        dial.altair_chart(
            band_chart(measured, *dial_range(work)),
            key="compare_band",
            alt=f"Safe strengths: {_band_words(measured)}",
        )
    with st.container(horizontal=True, vertical_alignment="center", key="compare_measured"):
        if measured is None:
            st.caption("This strength is not measured yet.", width="content")
        else:
            st.caption(escape_markdown(measured_sentence(measured)), width="content")
            if measured.qualifies:
                st.button(
                    f"Use {number_words(measured.strength)}",
                    key="compare_use_measured",
                    icon=":material/tune:",
                    disabled=measured.strength == work.strength,
                    on_click=setattr,
                    args=(work, "strength", measured.strength),
                )
        if st.button(
            "Measure it" if measured is None else "The whole curve",
            key="compare_measure",
            icon=":material/query_stats:",
            type="tertiary",
        ):
            if is_edited(work):
                measure_basket()
            open_page("views/evaluate.py")


def is_edited(work: Work) -> bool:
    """Whether the basket is another one than the ranking in hand would fill."""
    if work.ranking is None or not work.basket:
        return bool(work.basket)
    best = {one.index: one.mean for one in work.ranking.latents if one.mean > 0}
    chosen = dict(list(best.items())[: len(work.basket)])
    # An address holds fewer digits.
    return chosen.keys() != work.basket.keys() or any(
        not math.isclose(chosen[index], value, rel_tol=1e-4) for index, value in work.basket.items()
    )


def _is_alike(made: MadeEdits, edit: Edit) -> bool:
    """Whether it differs from the edit in its latents alone; both have some."""
    if len(made.edits) != 1 or not made.edits[0].latents or not edit.latents:
        return False
    # The norm is kept or not by the whole evaluation.
    ours = replace(edit, latents=(), keep_norm=False)
    return ours == replace(made.edits[0], latents=(), keep_norm=False)


def _distance(
    latents: Sequence[ChosenLatent], others: Sequence[ChosenLatent]
) -> tuple[float, int, float]:
    """How unlike latents are: in which they are, in how many they are, in their coefficients."""
    ours, theirs = ({one.index: one.coefficient for one in some} for some in (latents, others))
    shared = ours.keys() & theirs.keys()
    unlike = 1 - len(shared) / len(ours.keys() | theirs.keys())
    apart = sum(abs(ours[index] - theirs[index]) for index in shared)
    return unlike, abs(len(ours) - len(theirs)), apart


def _curve(cells: Sequence[Cell], made: MadeEdits) -> list[Cell]:
    """The cells that were steered with it, the least strength first."""
    wanted = made.arm, made.layers, made.parameters
    ours = [
        cell
        for cell in cells
        if not cell.setting.of
        and cell.setting.strength
        and (cell.setting.arm, cell.setting.layers, cell.setting.parameters) == wanted
    ]
    return sorted(ours, key=_strength)


def _strength(cell: Cell) -> float:
    return cell.setting.strength or 0.0


def _is_safe(cell: Cell) -> bool:
    return cell.rates.disorder <= WORST_DISORDER


def _band(curve: Sequence[Cell]) -> tuple[tuple[float, float], ...]:
    """Runs of neighbouring strengths within the limit."""
    runs = [list(run) for safe, run in groupby(curve, _is_safe) if safe]
    return tuple((_strength(run[0]), _strength(run[-1])) for run in runs)


def _find(work: Work, form: SteeringForm) -> MeasuredStrength | None:
    """From the newest evaluation that steered as the page does."""
    layer = layers_of(engine().saes()).get(work.sae_id)
    if layer is None:
        return None
    steered = form.steered(work, layer)
    if not steered.edits:
        return None
    (edit,) = steered.edits
    asked = steered.schedule, edit.keep_norm, form.sampling.chat, form.sampling.system
    for summary in store().evaluations.list(instruction=work.instruction, limit=_NEWEST):
        evaluation = _evaluation(summary.id)
        request = evaluation.request
        sampling = request.sampling
        measured = request.schedule, request.keep_norm, sampling.chat, sampling.system
        if evaluation.model == engine().model_id and measured == asked:
            found = best_strength(evaluation, edit)
            if found is not None:
                return found
    return None


@st.cache_data(max_entries=50, show_spinner=False)
def _evaluation(evaluation_id: str) -> Evaluation:
    return store().evaluations.get(evaluation_id)
