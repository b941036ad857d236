"""How good the SAE in hand is: its card, measured again here, and how often its latents fire."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st

from app.dashboard.corpus.indexes import choose_index, indexes_of
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_failure, draw_progress, submit_once
from app.dashboard.sae_fit import misfit
from app.dashboard.work import work
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted
from app.presentation.glossary import explain
from app.presentation.latents import corpus_words
from saif_core.records.corpus import LatentIndex
from saif_core.records.health import DensityReport, TextMeasurement
from saif_core.records.questions import HealthReport, HealthRequest
from saif_core.records.saes import SaeInfo

if TYPE_CHECKING:
    from saif_core.engine.job import Job

_ICONS = {
    True: ":material/check_circle:",
    False: ":material/cancel:",
    None: ":material/help:",
}


def draw_page() -> None:
    """Verdict, figures and densities of the SAE in hand."""
    st.title("Is this SAE any good?")
    sae_id = work().sae_id
    info = next((info for info in engine().saes() if info.id == sae_id), None)
    if info is None:
        st.info(
            "No SAE is offered for this model: name one in SAIF_SAES and restart.",
            icon=":material/info:",
        )
        return
    st.caption(f"{escape_markdown(info.id)} · {escape_markdown(info.hook_point)}")
    reason = misfit(sae_id)
    job = engine().newest("health", partial(_measures, sae_id))
    measured = _measured(job)
    indexes = indexes_of(sae_id)
    index = choose_index(indexes) if indexes else None
    density = _density(index) if index else None
    if reason:
        st.error(escape_markdown(reason), icon=":material/block:")
    else:
        if reason is None:
            st.caption("Whether it fits the model is checked once the model is loaded.")
        _draw_verdict(info, measured, density, index)
    _draw_figures(info, job, measured, reason)
    _draw_density(density, index)
    _draw_training(info)


def _draw_verdict(
    info: SaeInfo,
    measured: Sequence[TextMeasurement],
    density: DensityReport | None,
    index: LatentIndex | None,
) -> None:
    from app.presentation.health import verdict
    from saif_core.explaining.health import judge_health

    # What was measured here counts more than what a file says of itself.
    cards = [found.card for found in measured] or info.cards
    counted = density.dead_fraction if density else None
    findings = judge_health(cards, info.dead_fraction if counted is None else counted)
    st.subheader(verdict(findings), anchor=False)
    where = "measured here" if measured else "its card" if cards else ""
    st.markdown(
        "\n".join(
            f"- {_ICONS[finding.passed]} {escape_markdown(finding.sentence)}"
            for finding in findings
        )
    )
    facts = [f"CE recovered and FVU: {where}."] if where else []
    if counted is not None and index is not None:
        facts.append(f"Dead latents: counted on {escape_markdown(corpus_words(index))}.")
    elif info.dead_fraction is not None:
        facts.append("Dead latents: its card.")
    if facts:
        st.caption(" ".join(facts))


def _draw_figures(
    info: SaeInfo,
    job: "Job | None",
    measured: Sequence[TextMeasurement],
    reason: str | None,
) -> None:
    from app.presentation.health import figure_table

    st.subheader(
        "How much of the residual stream it keeps", anchor=False, help=explain("residual stream")
    )
    running = job if job is not None and not job.finished() else None
    if st.button(
        "Measure here",
        key="health_measure",
        type="primary",
        icon=":material/straighten:",
        disabled=running is not None or bool(reason),
        help=escape_markdown(reason or "")
        or "Reads short texts in several languages, and chats whose answers the model writes.",
    ):
        submit_once(HealthRequest(info.id), partial(_measures, info.id))
        st.rerun()
    if running is not None:
        draw_progress(running, "health")
    elif job is not None and not reason:
        draw_failure(job)
    if not info.cards and not measured:
        st.info(
            "This SAE comes without a card, and it was not measured here yet: measure it.",
            icon=":material/straighten:",
        )
        return
    number = st.column_config.NumberColumn
    table = figure_table(info.cards, measured)
    st.dataframe(
        table,
        key="health_figures",
        hide_index=True,
        column_config=explained_columns(
            table,
            {
                "measured": st.column_config.TextColumn(
                    "measured", help="Its card, or here and now"
                ),
                "ce": number("CE recovered", format="%.1f%%"),
                "fvu": number("FVU", format="%.3f"),
                "explained": number("explained variance", format="%.3f"),
                "l0": number("L0", format="%.1f"),
                "tokens": number("tokens", format="%d", help="As many count for the figures."),
                "sinks": number(
                    "sinks left out",
                    format="%.1f%%",
                    help="Share of tokens after the first that are attention sinks; a card does "
                    "not tell it",
                ),
            },
        ),
        alt="Measured quality per kind of text",
    )
    st.caption(
        "The first token of a text and attention sinks (a residual norm of more than 5 times the "
        "median) keep their own residual stream and are left out."
    )


def _measures(sae_id: str, request: HealthRequest) -> bool:
    return request.sae_id == sae_id


def _measured(job: "Job | None") -> Sequence[TextMeasurement]:
    if job is None or job.record.state != "done":
        return ()
    report: HealthReport = job.result()
    return report.texts


def _density(index: LatentIndex) -> DensityReport:
    from saif_core.explaining.health import summarize_density

    return summarize_density(store().latents.density(index.id), index.n_tokens)


def _draw_density(density: DensityReport | None, index: LatentIndex | None) -> None:
    from app.charts.health import density_chart
    from app.presentation.health import density_sentence

    st.subheader("How often its latents fire", anchor=False, help=explain("latents, density"))
    if density is None or index is None:
        st.info(
            "No corpus was indexed with this SAE, so its densities are not known: run saif index "
            "on some text.",
            icon=":material/bar_chart:",
        )
        return
    sentence = density_sentence(density)
    st.markdown(sentence)
    st.caption(f"Read on {escape_markdown(corpus_words(index))}.")
    if density.dead_fraction is None:
        st.caption(
            "The corpus is too small to tell dead latents from rare ones, so this share is not "
            "part of the verdict."
        )
    st.altair_chart(density_chart(density), key="health_density", alt=sentence)


def _draw_training(info: SaeInfo) -> None:
    facts = []
    if info.tokens_seen is not None:
        facts.append(f"trained on {counted(info.tokens_seen, 'token')}")
    if info.dead_fraction is not None:
        facts.append(f"its card counts {info.dead_fraction:.1%} dead latents")
    if info.sources:
        facts.append("sources: " + ", ".join(info.sources))
    if facts:
        st.caption(escape_markdown(" · ".join(facts)))


draw_page()
