"""What else goes with a latent: alike directions, partners, its flow, and instructions."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import streamlit as st

from app.charts.latent import FLOW_CLICK, flow_chart
from app.dashboard.corpus.indexes import summaries_of
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.handles import engine, store
from app.dashboard.latent.evidence import (
    KnownLatent,
    default_index,
    percent,
    words_of,
)
from app.dashboard.work import VIA_LINK, Work, open_page
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted
from app.presentation.glossary import explain
from app.presentation.latents import relatives_of
from saif_core.records.as_json import from_json
from saif_core.records.corpus import LatentIndex
from saif_core.records.flow import FlowGraph
from saif_core.records.latents import Neighbour
from saif_core.records.ranking import Ranking
from saif_core.records.saes import layers_of

N_STORED = 50
KEPT_SECONDS = 60.0
_COUNTED = "latent_coactivation"


class RankedFor(NamedTuple):
    """A ranking that lists a latent; ``rank`` counts from 1."""

    rank: int
    score: float
    ranking: Ranking


def draw_relations(in_hand: Work, sae_id: str, latent: int, known: KnownLatent | None) -> None:
    """Instructions, nearest directions, partners on the corpus, and the flow through the layers."""
    left, right = st.columns(2, gap="large")
    with left:
        _draw_instructions(in_hand, sae_id, latent)
        _draw_partners(sae_id, known)
    with right:
        with st.spinner("Reading decoder directions; the first time, this takes a moment …"):
            relatives = relatives_of(engine(), sae_id, latent)
        if relatives is None:
            st.info(
                "This SAE is of no layer of the model, so its decoder directions cannot be "
                "compared with those of other layers.",
                icon=":material/info:",
            )
        else:
            _draw_nearest(sae_id, relatives.near, known)
    if relatives is not None:
        _draw_flow(sae_id, latent, relatives.flow, known)


def rankings_with(in_hand: Work, sae_id: str, latent: int) -> list[RankedFor]:
    """Finished rankings of an SAE that list a latent, the best rank first.

    They come from this browser session, and from the jobs and sessions in the store.
    """
    found = {ranking.id: ranking for ranking in _stored_rankings(id(store()), sae_id)}
    found |= {done.ranking.id: done.ranking for done in in_hand.finished}
    ranked = [
        RankedFor(rank, score.score, ranking)
        for ranking in found.values()
        if ranking.sae == sae_id
        for rank, score in enumerate(ranking.latents, start=1)
        if score.index == latent
    ]
    return sorted(ranked, key=lambda entry: entry.rank)


@st.cache_resource(max_entries=8, ttl=KEPT_SECONDS, show_spinner=False)
def _stored_rankings(_store_number: int, sae_id: str) -> list[Ranking]:
    jobs = [job for job in store().jobs.list(N_STORED) if job.kind == "rank" and job.result]
    found = []
    for job in jobs:
        # A job of another version of SAIF may have kept something else.
        with suppress(ValueError):
            found.append(from_json(Ranking, job.result or {}))
    for summary in store().sessions.list(limit=N_STORED):
        if summary.sae == sae_id:
            ranking = store().sessions.get(summary.id).ranking
            found += [ranking] if ranking else []
    return [ranking for ranking in found if ranking.sae == sae_id]


def _draw_instructions(in_hand: Work, sae_id: str, latent: int) -> None:
    st.subheader("Instructions it ranks for", anchor=False, help=explain("instructions, ranking"))
    ranked = rankings_with(in_hand, sae_id, latent)
    if not ranked:
        st.info(
            "No finished ranking of this SAE lists this latent; find latents for an instruction.",
            icon=":material/scatter_plot:",
        )
        return
    for rank, score, ranking in ranked:
        read = "the answer" if ranking.read == "response" else "the last prompt token"
        st.markdown(
            f"**{escape_markdown(ranking.instruction)}** · rank {rank} of {ranking.d_sae:,} · "
            f"score {score:z.3f} ({escape_markdown(ranking.selector.replace('_', ' '))}, read at "
            f"{read}, n = {counted(ranking.n_pairs, 'pair')})"
        )


def _draw_partners(sae_id: str, known: KnownLatent | None) -> None:
    st.subheader("Fires together with", anchor=False)
    if known is None:
        st.info(
            "Which latents fire on the same tokens is known once a corpus has been indexed.",
            icon=":material/info:",
        )
        return
    profile, index = known.profile, known.index
    if not profile.cofiring:
        st.caption(
            "No other latent fires on at least 3 of its "
            f"{counted(profile.n_fired, 'token')} in this corpus."
        )
        return
    st.caption(
        "Tokens on which both fire, the share of this latent's tokens, and the lift: how many "
        "times more often than if the two were independent."
    )
    others = summaries_of(index, [other for other, _ in profile.cofiring])
    for other, n_both in profile.cofiring:
        partner = others.get(other)
        together = f"{counted(n_both, 'token')} · {percent(n_both / profile.n_fired)}"
        if partner and partner.n_fired:
            lift = n_both * index.n_tokens / (profile.n_fired * partner.n_fired)
            together += f" · lift {lift:,.1f}"
        _draw_link(sae_id, other, f"{other} · {together}", words_of(partner))


def _draw_nearest(
    sae_id: str, near: Mapping[str, Sequence[Neighbour]], known: KnownLatent | None
) -> None:
    st.subheader(
        "Nearest decoder directions", anchor=False, help=explain("decoder directions, cosine")
    )
    st.caption("Cosine between decoder directions; 1 is the same direction.")
    for other_id, neighbours in near.items():
        place = f"layer {neighbours[0].layer}" if neighbours else "layer"
        st.markdown(f"**{place}{', this SAE' if other_id == sae_id else ''}**")
        index = _index_of(other_id, sae_id, known)
        words = summaries_of(index, [neighbour.latent for neighbour in neighbours])
        for neighbour in neighbours:
            number = neighbour.latent
            label = f"{number} ({neighbour.cosine:+z.2f})"
            _draw_link(other_id, number, label, words_of(words.get(number)))
    if len(near) == 1:
        st.caption("No SAE of another layer is offered for this model.")


def _draw_flow(sae_id: str, latent: int, graph: FlowGraph, known: KnownLatent | None) -> None:
    from saif_core.explaining.flow import CHANCE_COSINE, KEPT_COSINE

    st.subheader("Flow through the layers", anchor=False, help=explain("flow, layers"))
    layers = layers_of(engine().saes())
    if not graph.edges:
        n_layers = len({*layers.values()})
        st.info(
            f"It stands alone: among the {n_layers} layers with SAEs, no decoder direction of "
            f"the layer before or after has a cosine of {KEPT_COSINE:g} or more with it."
            if n_layers > 1
            else "Only one layer has an SAE here, so there is nothing to follow; name SAEs of "
            "other layers in SAIF_SAES.",
            icon=":material/info:",
        )
        return
    names: dict[tuple[int, int], str] = {}
    asked = layers[sae_id]
    for layer in {node.layer for node in graph.nodes}:
        latents = [node.latent for node in graph.nodes if node.layer == layer]
        other_id = engine().decoders.sae_of_layer(layer, sae_id)
        found = summaries_of(_index_of(other_id, sae_id, known), latents)
        names |= {(layer, number): words_of(row) for number, row in found.items()}
    listed = "; ".join(
        f"{edge.layer_from}/{edge.latent_from} to {edge.layer_to}/{edge.latent_to}, cosine "
        f"{edge.cosine:.2f}"
        for edge in graph.edges
    )
    event = st.altair_chart(
        flow_chart(graph, names, (asked, latent)),
        # Every latent has a chart of its own, so that no click is carried over to the next.
        key=f"latent_flow_{sae_id}_{latent}",
        on_select="rerun",
        selection_mode=FLOW_CLICK,
        alt=f"Flow graph: {listed}",
    )
    st.caption(
        f"Lines join decoder directions of neighbouring layers with a cosine of {KEPT_COSINE:g} or "
        "more (thicker = closer). kept: the direction was there in the layer before; newborn: the "
        f"best match there has {CHANCE_COSINE:g} to {KEPT_COSINE:g}; unmatched: less, or no layer "
        "before. Click a latent to open it. Alike directions need not fire together."
    )
    follow_click(event["selection"].get(FLOW_CLICK, []), sae_id, (asked, latent))
    _draw_coactivation(sae_id, latent, graph, known)


def _draw_coactivation(
    sae_id: str, latent: int, graph: FlowGraph, known: KnownLatent | None
) -> None:
    """Whether latents that the graph joins fire on the same tokens, counted when asked for."""
    layers = {node.layer for node in graph.nodes}
    indexes = {
        layer: _index_of(engine().decoders.sae_of_layer(layer, sae_id), sae_id, known)
        for layer in layers
    }
    sources = {index.source_sha256 for index in indexes.values() if index}
    if None in indexes.values() or len(sources) != 1 or not all(sources):
        st.caption("Whether they fire together can be counted once all these SAEs read one corpus.")
        return
    key = f"latent_coactivation_{sae_id}_{latent}"
    if st.button("Do they fire together?", key=key, icon=":material/join_inner:"):
        with st.spinner("Counting over the corpus …"):
            st.session_state[_COUNTED] = (sae_id, latent, _coactivations(graph, indexes))
    counted = st.session_state.get(_COUNTED)
    if counted is None or counted[:2] != (sae_id, latent):
        return
    if not counted[2]:
        st.info(
            "These indexes came without the activations of single tokens, so this cannot be "
            "counted in them: have these SAEs read a corpus here, on the Corpus page.",
            icon=":material/info:",
        )
        return
    st.dataframe(
        counted[2],
        hide_index=True,
        column_config=explained_columns(counted[2][0]),
        alt="How often joined latents fire together",
    )


def _coactivations(
    graph: FlowGraph, indexes: dict[int, LatentIndex | None]
) -> list[dict[str, Any]]:
    """A line per edge of a flow graph; none where an index holds no activations."""
    from saif_core.explaining.flow import coactivation

    fires: dict[tuple[int, int], np.ndarray] = {}
    n_tokens = 0
    for layer, index in indexes.items():
        assert index is not None
        n_tokens = index.n_tokens
        mine = [node.latent for node in graph.nodes if node.layer == layer]
        density = store().latents.density(index.id)
        for number, tokens in store().latents.firing_tokens(index.id, mine).items():
            if len(tokens) != density[number]:
                return []
            fires[layer, number] = tokens
    lines = []
    for edge in graph.edges:
        below, above = (edge.layer_from, edge.latent_from), (edge.layer_to, edge.latent_to)
        found = coactivation(fires[below], fires[above], n_tokens)
        lines.append(
            {
                "from": "/".join(map(str, below)),
                "to": "/".join(map(str, above)),
                "cosine": round(edge.cosine, 2) + 0.0,
                "tokens on which both fire": found.n_both,
                "share of the lower one's": found.b_given_a,
                "share of the upper one's": found.a_given_b,
                "lift": found.lift,
            }
        )
    return lines


def follow_click(clicked: Any, sae_id: str, asked: tuple[int, int]) -> None:
    """Open the latent whose node was clicked, unless it is the one that is shown."""
    if not clicked:
        return
    layer, latent = int(clicked[0]["layer"]), int(clicked[0]["latent"])
    if (layer, latent) != asked:
        other_id = engine().decoders.sae_of_layer(layer, sae_id)
        open_page("views/latent.py", sae=other_id, latent=str(latent))


def _index_of(other_id: str, sae_id: str, known: KnownLatent | None) -> LatentIndex | None:
    if known is not None and other_id == sae_id:
        return known.index
    return default_index(other_id)


def _draw_link(sae_id: str, latent: int, label: str, words: str) -> None:
    st.page_link(
        "views/latent.py",
        label=f"{label} {escape_markdown(words)}".strip(),
        icon=":material/near_me:",
        query_params={"sae": sae_id, "latent": str(latent), VIA_LINK: "link"},
    )
