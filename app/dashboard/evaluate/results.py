"""A finished evaluation on a page: sentence, curves, tables, and the texts behind a figure."""

import html
from collections.abc import Sequence
from typing import Any

import altair as alt
import streamlit as st

from app.charts.evaluation import (
    CELL_CLICK,
    Measure,
    accuracy_chart,
    chart_words,
    disorder_chart,
    heat_groups,
    heat_map,
    measures,
    pareto_chart,
    pareto_front,
    perplexity_chart,
)
from app.dashboard.compare.open_session import INCOMING
from app.dashboard.compare.steering_form import steering_form
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.handles import engine, store
from app.dashboard.messages import shown
from app.dashboard.scrolling import scroll_to, want_in_view
from app.dashboard.work import open_page, work
from app.presentation.escaping import escape_markdown
from app.presentation.evaluation import (
    basket_of,
    best_table,
    cell_arm,
    cell_table,
    content_sentence,
    content_words,
    describe_setting,
    primary_measure,
    table_parameters,
    unqualified_sentence,
)
from app.presentation.evaluation_files import (
    evaluation_csv,
    evaluation_json,
    evaluation_sentence,
    evaluation_stem,
    texts_csv,
)
from app.presentation.evaluation_page import evaluation_html
from app.presentation.glossary import explain
from app.presentation.text_diff import plain_html
from saif_core.inputs.shipped import shipped_instructions
from saif_core.records.evaluation import (
    WORST_DISORDER,
    Evaluation,
    EvaluationRequest,
    EvaluationText,
)
from saif_core.records.steering import Arm

TEXTS = "evaluation_texts"
TEXTS_PER_PAGE = 10
MAX_TEXTS = 100
# Headings of what a chart counts.
_MEASURES: dict[Measure, str] = {
    "useful": "Useful texts",
    "strict": "Texts that follow the instruction, strict",
    "loose": "Texts that follow the instruction, loose",
}
_GRADE_ICONS = {"strict": "check_circle", "loose": "check", "none": "cancel", None: "help"}
_OUTCOMES = {
    "success": "follows",
    "retained": "readable, does not follow",
    "disorder": "broken text",
}


def draw_evaluation(evaluation: Evaluation) -> None:
    """Draw the whole result."""
    request = evaluation.request
    st.subheader(escape_markdown(evaluation_sentence(evaluation)), anchor=False)
    told = content_sentence(evaluation)
    st.markdown(escape_markdown(told), help=explain(told))
    n = len(request.test_contents)
    st.caption(
        escape_markdown(
            f"{request.instruction.name} · {evaluation.model} · {', '.join(request.sae_ids)} · "
            f"{len(evaluation.cells):,} cells of {n:,} test contents · "
            f"{request.sampling.max_new_tokens} tokens at most · {evaluation.seconds:,.0f} s"
        )
    )
    _draw_downloads(evaluation)
    _draw_best(evaluation)
    _draw_curves(evaluation)
    left, right = st.columns(2, gap="large")
    with left:
        _draw_pareto(evaluation)
    with right:
        _draw_heat_map(evaluation)
    _draw_table(evaluation)
    with st.container(key=TEXTS):
        _draw_texts(evaluation)
    scroll_to(TEXTS)


def _draw_downloads(evaluation: Evaluation) -> None:
    stem = evaluation_stem(evaluation)
    with st.container(horizontal=True):
        st.download_button(
            "CSV",
            evaluation_csv(evaluation),
            f"{stem}.csv",
            "text/csv",
            key="evaluation_csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "Texts (CSV)",
            lambda: texts_csv(evaluation, _texts(evaluation)),
            f"{stem}-texts.csv",
            "text/csv",
            key="evaluation_texts_csv",
            icon=":material/download:",
            on_click="ignore",
        )
        st.download_button(
            "JSON",
            lambda: evaluation_json(evaluation, _texts(evaluation)),
            f"{stem}.json",
            "application/json",
            key="evaluation_json",
            icon=":material/download:",
            on_click="ignore",
        )
        # Made only when asked for, as it reads the texts of every best setting.
        st.download_button(
            "HTML",
            lambda: _html(evaluation),
            f"{stem}.html",
            "text/html",
            key="evaluation_html",
            icon=":material/download:",
            on_click="ignore",
        )


def _texts(evaluation: Evaluation) -> dict[int, list[EvaluationText]]:
    """The texts of every cell."""
    kept, cells = store().evaluations, range(len(evaluation.cells))
    return {cell: kept.texts(evaluation.id, cell) for cell in cells}


def _html(evaluation: Evaluation) -> bytes:
    texts = {
        best.cell: store().evaluations.texts(evaluation.id, best.cell) for best in evaluation.best
    }
    return evaluation_html(evaluation, texts)


def _draw_best(evaluation: Evaluation) -> None:
    st.markdown("**Best setting of each arm**", help=explain("setting, arm"))
    if not evaluation.best:
        st.info(
            "No arm has settings to choose from; measure one that steers.", icon=":material/info:"
        )
        return
    n, table = len(evaluation.request.test_contents), best_table(evaluation)
    st.dataframe(
        table,
        key=f"evaluation_best_{evaluation.id}",
        hide_index=True,
        column_config=explained_columns(table, _columns(evaluation)),
        placeholder="–",
        alt="Best setting of each arm, with its figures on the reporting half",
    )
    st.caption(
        f"Chosen on one half of the test contents ({(n + 1) // 2}); all figures are those of the "
        f"other half ({n // 2}). Intervals are Wilson's at 95%; p is McNemar's exact paired test "
        f"of {_tested(evaluation)}, two-sided."
    )
    if unqualified := unqualified_sentence(evaluation):
        st.caption(f":material/warning: {escape_markdown(unqualified)}")
    numbers = {best.arm: best.cell for best in evaluation.best}
    if evaluation.best_sae_arm in numbers:
        best = numbers[evaluation.best_sae_arm]
        _draw_use(evaluation, best, "Use the best setting on Compare", "best")


def _draw_curves(evaluation: Evaluation) -> None:
    main, offered = primary_measure(evaluation), measures(evaluation)
    measure: Measure = (
        st.segmented_control(
            "Texts that count",
            offered,
            default=main,
            required=True,
            # One field each for evaluations with other choices, so that none keeps what it lacks.
            key="evaluation_measure" if main == "useful" else "evaluation_measure_before",
            persist_state="session",
            help=explain(", ".join(offered)),
        )
        or main
    )
    st.markdown(f"**{_MEASURES[measure]}**", help=explain(measure))
    _draw_chart(
        evaluation,
        accuracy_chart(evaluation, measure),
        f"accuracy_{measure}",
        alt=f"{_MEASURES[measure]}, by setting: {chart_words(evaluation, 'value', measure)}",
    )
    st.caption("Bars are 95% intervals; points stand slightly apart. Click one to read its texts.")
    st.markdown("**Broken text**", help=explain("disorder"))
    _draw_chart(
        evaluation,
        disorder_chart(evaluation),
        "disorder",
        alt=f"Share of broken texts by setting: {chart_words(evaluation, 'disorder')}",
    )
    st.caption(
        f"The dotted line is the most disorder that a best setting may have: {WORST_DISORDER:.0%}."
    )
    st.markdown(
        "**Median perplexity under the unsteered model**", help=explain("perplexity, unsteered")
    )
    _draw_chart(
        evaluation,
        perplexity_chart(evaluation),
        "perplexity",
        alt=f"Median perplexity by setting: {chart_words(evaluation, 'perplexity')}",
    )


def _draw_pareto(evaluation: Evaluation) -> None:
    main = primary_measure(evaluation)
    st.markdown(f"**{main.capitalize()} against broken text**", help=explain(f"{main}, disorder"))
    front = ", ".join(
        describe_setting(evaluation.request, evaluation.cells[number].setting)
        for number in pareto_front(evaluation.cells)
    )
    _draw_chart(
        evaluation,
        pareto_chart(evaluation),
        "pareto",
        alt=f"{main.capitalize()} against disorder; on the front: {front or 'nothing'}",
    )
    st.caption(
        f"Ringed and joined: the front, where no other steered setting has more {main} texts with "
        "as little disorder."
    )


def _draw_heat_map(evaluation: Evaluation) -> None:
    st.markdown("**Parameters and strength**", help=explain("strength"))
    groups = heat_groups(evaluation)
    if not groups:
        st.caption("Measure several values of a parameter to see them against strength here.")
        return
    main = primary_measure(evaluation)
    name = st.selectbox(
        f"{main.capitalize()} texts of",
        list(groups),
        key=f"evaluation_heat_choice_{evaluation.id}",
        help=explain(main),
    )
    group = groups[name]
    cells = [evaluation.cells[number] for number in group.cells]
    words = "; ".join(
        f"{describe_setting(evaluation.request, cell.setting)}: {cell.rates.primary:.0%}"
        for cell in cells
    )
    _draw_chart(
        evaluation,
        heat_map(evaluation, group),
        f"heat_{group.parameter}_{group.cells[0]}",
        alt=f"{main.capitalize()} texts by {group.parameter.replace('_', ' ')} and strength: "
        f"{words}",
    )


def _draw_chart(evaluation: Evaluation, chart: alt.LayerChart, name: str, *, alt: str) -> None:
    """Draw a chart whose points are cells; a click on one chooses it."""
    key = f"evaluation_chart_{name}_{evaluation.id}"
    event: Any = st.altair_chart(
        chart, key=key, on_select="rerun", selection_mode=CELL_CLICK, alt=alt
    )
    clicked = event["selection"].get(CELL_CLICK, [])
    _choose(evaluation, key, clicked[0].get("cell") if clicked else None)


def _draw_table(evaluation: Evaluation) -> None:
    st.markdown("**All cells**", help=explain("cells"))
    key, table = f"evaluation_cells_{evaluation.id}", cell_table(evaluation)
    event: Any = st.dataframe(
        table,
        key=key,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        column_config=explained_columns(
            table, {**_columns(evaluation), **_parameter_columns(evaluation, table)}
        ),
        placeholder="–",
        alt="Figures of every cell on all test contents",
    )
    n = len(evaluation.request.test_contents)
    st.caption(f"On all {n:,} test contents. Choose a row to read its texts.")
    rows = event["selection"]["rows"]
    _choose(evaluation, key, rows[0] if rows else None)


def _choose(evaluation: Evaluation, key: str, cell: Any) -> None:
    """Take a cell that was clicked since the last run as the one whose texts are shown."""
    seen = st.session_state.setdefault("evaluation_clicks", {})
    if seen.get(key) == cell:
        return
    seen[key] = cell
    if isinstance(cell, int | float) and 0 <= cell < len(evaluation.cells):
        st.session_state[_cell_key(evaluation)] = int(cell)
        # They may stand far below what was clicked.
        want_in_view(TEXTS)


def _cell_key(evaluation: Evaluation) -> str:
    return f"evaluation_cell_{evaluation.id}"


def _draw_texts(evaluation: Evaluation) -> None:
    st.subheader("The texts of a cell", anchor=False, help=explain("cell"))
    key, request = _cell_key(evaluation), evaluation.request
    # First the best of what steers by latents, as that is what the sentence speaks of.
    best = {one.arm: one.cell for one in evaluation.best}
    st.session_state.setdefault(key, best.get(evaluation.best_sae_arm, 0))
    number = st.selectbox(
        "Cell",
        range(len(evaluation.cells)),
        format_func=lambda at: describe_setting(request, evaluation.cells[at].setting),
        key=key,
        help=explain("cell, setting"),
    )
    _draw_use(evaluation, number, "Use this on Compare", "cell")
    texts: Sequence[EvaluationText] = ()
    with shown():
        texts = store().evaluations.texts(evaluation.id, number)[:MAX_TEXTS]
    if not texts:
        st.info("No texts are kept of this cell; measure again.", icon=":material/info:")
        return
    # Another cell needs a pager of its own: a page beyond the last one would be an error.
    n_pages = -(-len(texts) // TEXTS_PER_PAGE)
    page = 1
    if n_pages > 1:
        page = st.pagination(
            n_pages, max_visible_pages=5, key=f"evaluation_page_{evaluation.id}_{number}"
        )
    start = (page - 1) * TEXTS_PER_PAGE
    of = f"{len(texts)} texts" if len(texts) < MAX_TEXTS else f"the first {MAX_TEXTS} texts"
    st.caption(f"Texts {start + 1} to {min(start + TEXTS_PER_PAGE, len(texts))} of {of}")
    for text in texts[start : start + TEXTS_PER_PAGE]:
        _draw_text(text)


def _draw_text(text: EvaluationText) -> None:
    with st.container(border=True):
        st.html(f'<div style="opacity:0.75">{html.escape(text.content)}</div>')
        st.html(plain_html(text.text or "(no text: the model ended at once)"))
        natural = (
            "no perplexity: empty text"
            if text.perplexity is None
            else f"perplexity {text.perplexity:,.3g} under the unsteered model"
        )
        st.markdown(
            f":material/{_GRADE_ICONS[text.grade]}: **{text.grade or 'could not judge'}**: "
            f"{escape_markdown(text.reason)}"
        )
        st.caption(f"{_OUTCOMES[text.outcome]} · {content_words(text)} · {natural}")


def _draw_use(evaluation: Evaluation, number: int, label: str, key: str) -> None:
    """Draw the button that has Compare steer as a cell did; or why there is none."""
    if evaluation.cells[number].setting.strength is None:
        return
    arm = cell_arm(evaluation, number)
    offered = {info.id for info in engine().saes()}
    missing = next(
        (edit.sae_id for edit in arm.edits if edit.latents and edit.sae_id not in offered)
        if arm
        else iter(()),
        "",
    )
    if arm is None or missing:
        reason = (
            f"the SAE {missing} is not offered here"
            if missing
            else "what it steered with was not kept"
        )
        st.caption(escape_markdown(f"Compare cannot steer like this cell: {reason}."))
        return
    if st.button(label, key=f"evaluation_use_{key}", icon=":material/compare:"):
        _use(evaluation.request, arm)
        open_page("views/compare.py")


def _use(request: EvaluationRequest, arm: Arm) -> None:
    """Have Compare steer as an arm did: with its latents in the basket, or with itself beside it.

    The basket holds latents of one SAE, which are added; all else is an arm of its own.
    """
    in_hand, latents, form = work(), basket_of(arm), steering_form()
    before = form.settings()
    form.steer_like(request)
    if latents:
        in_hand.choose_sae(arm.edits[0].sae_id)
        in_hand.clear(before)
        for latent in latents:
            in_hand.add_latent(latent.index, latent.coefficient)
        in_hand.strength = arm.strength
    else:
        st.session_state.setdefault(INCOMING, []).append(arm)
    instruction = request.instruction
    if shipped_instructions().get(instruction.name) != instruction:
        in_hand.uploaded[instruction.name] = instruction
    in_hand.instruction = instruction.name


def _parameter_columns(evaluation: Evaluation, table: dict[str, list[Any]]) -> dict[str, Any]:
    """How the columns of the parameters are shown."""
    return {
        column: st.column_config.NumberColumn(name.replace("_", " "), format="plain")
        if any(isinstance(value, int | float) for value in table[column])
        else st.column_config.TextColumn(name.replace("_", " "))
        for column, name in table_parameters(evaluation).items()
    }


def _share(label: str, about: str) -> Any:
    return st.column_config.NumberColumn(label, format="%.0f%%", help=about)


def _interval(of: str) -> Any:
    return st.column_config.TextColumn("95% interval", help=f"Wilson's, of {of}.")


def _tested(evaluation: Evaluation) -> str:
    """What the p-values of an evaluation are of."""
    return "useful texts" if primary_measure(evaluation) == "useful" else "strict grades"


def _columns(evaluation: Evaluation) -> dict[str, Any]:
    """How the columns of the figures are shown."""
    return {
        **_COLUMNS,
        **{
            f"p_{arm}": st.column_config.NumberColumn(
                f"p, {arm}",
                format="%.3g",
                help=f"McNemar's exact paired test of {_tested(evaluation)} against {other}, "
                "two-sided.",
            )
            for arm, other in _COMPARED.items()
        },
    }


_COMPARED = {
    "unsteered": "unsteered",
    "random": "the matched random control",
    "prompted": "prompted",
}
_COLUMNS: Any = {
    "setting": st.column_config.TextColumn("setting"),
    "arm": st.column_config.TextColumn("arm"),
    "layer": st.column_config.TextColumn("layer", help="It is steered after this one."),
    "strength": st.column_config.NumberColumn("strength", format="plain"),
    "n": st.column_config.NumberColumn("n", format="%d", help="Texts that could be judged"),
    "useful": _share("useful", "The share of the texts that could be judged."),
    "useful_ci": _interval("useful"),
    "strict": _share("strict", "The share of the texts that could be judged."),
    "strict_ci": _interval("strict"),
    "loose": _share("loose", "The share of the texts that could be judged."),
    "loose_ci": _interval("loose"),
    "disorder": _share("disorder", "The share of all texts."),
    "disorder_ci": _interval("disorder"),
    "perplexity": st.column_config.NumberColumn(
        "perplexity", format="%.1f", help="The median, under the unsteered model."
    ),
    "distinct_2": st.column_config.NumberColumn(
        "distinct-2", format="%.2f", help="The mean over the texts."
    ),
    "unjudged": st.column_config.NumberColumn(
        "not judged", format="%d", help="Texts that could not be judged"
    ),
    "resid_share": _share("size", "Norm of what is added over that of the residual stream"),
}
