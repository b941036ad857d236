"""Page 3: what one latent is, from its weights and from the pairs of the ranking in hand."""

import streamlit as st

from app.charts_latent import (
    activation_histogram,
    activation_sentence,
    pair_chart,
    token_bars,
)
from app.messages import shown
from app.session_view import escape_markdown, promotes
from app.state import Work, engine, work
from saif_core.records import LatentDetail, LatentScore, PairActivations

# Address and session remember a latent under these names; the SAE is the work in hand's own.
_PARAMETER, _REMEMBERED = "latent", "latent_index"
_KEPT_ACTIVATIONS = 64


def draw_page() -> None:
    """The latent that the address names, else the one looked at last, else the best ranked."""
    in_hand = work()
    asked = st.query_params.get(_PARAMETER, "")
    if asked and not (asked.isascii() and asked.isdigit() and len(asked) <= 9):
        st.title("Which latent?")
        st.error("The address names no latent number; choose one here.", icon=":material/error:")
        _draw_choice(in_hand)
        return
    index = int(asked) if asked else _default_index(in_hand)
    if index is None:
        st.title("Which latent?")
        st.info(
            "No latent is chosen yet: find latents for an instruction, or give a number.",
            icon=":material/search_insights:",
        )
        _draw_choice(in_hand)
        return
    _remember(index)
    _draw_latent(in_hand, index)


def _default_index(in_hand: Work) -> int | None:
    # A remembered number means nothing for another SAE.
    remembered = st.session_state.get(_REMEMBERED)
    if remembered and remembered[0] == in_hand.sae_id:
        return int(remembered[1])
    if in_hand.ranking and in_hand.ranking.latents:
        return in_hand.ranking.latents[0].index
    return next(iter(in_hand.basket), None)


def _remember(index: int) -> None:
    st.session_state[_REMEMBERED] = (work().sae_id, index)
    if st.query_params.get(_PARAMETER) != str(index):
        st.query_params[_PARAMETER] = str(index)


def _draw_choice(in_hand: Work) -> None:
    with st.form("latent_choice", width="content"):
        number = st.number_input(
            f"Latent of {in_hand.sae_id}", min_value=0, value=0, step=1, key="latent_number"
        )
        if st.form_submit_button("Show this latent", icon=":material/search:"):
            _remember(int(number))
            st.rerun()
    st.page_link("views/latents.py", label="Find latents", icon=":material/scatter_plot:")


def _draw_latent(in_hand: Work, index: int) -> None:
    with st.spinner("Reading the latent's weights; the first time, the model is loaded …"):
        detail = engine().latent_detail(in_hand.sae_id, index)
    score = in_hand.latent_score(index)
    st.title(f"What is latent {index}?")
    promoted = escape_markdown(promotes([token for token, _ in detail.promoted]))
    st.subheader(f"promotes {promoted}", anchor=False)
    st.caption(f"{escape_markdown(detail.sae)} · {escape_markdown(detail.hook_point)}")
    _draw_actions(in_hand, index, score)
    _draw_facts(in_hand, detail, score)
    _draw_tokens(detail)
    st.subheader("When does it fire?", anchor=False)
    with shown():
        _draw_pairs(in_hand, index)
    _draw_neighbours(detail)


def _draw_actions(in_hand: Work, index: int, score: LatentScore | None) -> None:
    coefficient = score.mean if score and score.mean > 0 else 1.0
    ranked = [latent.index for latent in in_hand.ranking.latents] if in_hand.ranking else []
    at = ranked.index(index) if index in ranked else None
    with st.container(horizontal=True, vertical_alignment="center"):
        if index in in_hand.basket:
            st.button(
                "Remove from basket",
                key="latent_remove",
                icon=":material/remove_shopping_cart:",
                on_click=in_hand.remove_latent,
                args=(index,),
            )
        else:
            st.button(
                "Add to basket",
                key="latent_add",
                icon=":material/add_shopping_cart:",
                on_click=in_hand.add_latent,
                args=(index, coefficient),
            )
        if st.button(
            "Steer with this one",
            key="latent_steer",
            icon=":material/compare:",
            type="primary",
            help="Replaces the basket by this latent.",
        ):
            in_hand.clear()
            in_hand.add_latent(index, coefficient)
            st.switch_page("views/compare.py")
        if at is not None:
            _draw_step("Previous by score", "latent_previous", "chevron_left", ranked, at - 1)
            _draw_step("Next by score", "latent_next", "chevron_right", ranked, at + 1)
        st.page_link("views/latents.py", label="All latents", icon=":material/scatter_plot:")
    if score is None or score.mean <= 0:
        st.caption(
            "No ranking in hand says how strongly this latent fires, so its coefficient starts at "
            "1; it can be changed on the Compare page."
        )


def _draw_step(label: str, key: str, icon: str, ranked: list[int], to: int) -> None:
    exists = 0 <= to < len(ranked)
    st.button(
        label,
        key=key,
        icon=f":material/{icon}:",
        disabled=not exists,
        on_click=_remember,
        args=(ranked[to] if exists else -1,),
    )


def _draw_facts(in_hand: Work, detail: LatentDetail, score: LatentScore | None) -> None:
    facts = [f"decoder norm {detail.decoder_norm:.3g}", f"encoder bias {detail.encoder_bias:+.3g}"]
    ranking = in_hand.ranking
    if score is not None and ranking is not None:
        rank = ranking.latents.index(score) + 1
        facts = [
            f"rank {rank} of {ranking.d_sae:,} for {escape_markdown(ranking.instruction)}",
            f"score {score.score:.3f} ({escape_markdown(ranking.selector)})",
            f"fires at {score.rate_positive:.0%} of the positions with the instruction, "
            f"{score.rate_negative:.0%} without",
            f"mean {score.mean:.3g} ± {score.std:.2g} where it fires (n = {ranking.n_pairs} pairs)",
            *facts,
        ]
    elif ranking is not None:
        facts.append(f"not among the {len(ranking.latents):,} best of the ranking in hand")
    st.markdown(" · ".join(facts))


def _draw_tokens(detail: LatentDetail) -> None:
    left, right = st.columns(2)
    for column, title, tokens, promoted in (
        (left, "Tokens it promotes", detail.promoted, True),
        (right, "Tokens it suppresses", detail.suppressed, False),
    ):
        with column:
            st.subheader(title, anchor=False)
            listed = ", ".join(f"{token.strip()} {logit:+.2f}" for token, logit in tokens[:5])
            st.altair_chart(
                token_bars(tokens, promoted=promoted),
                key=f"latent_tokens_{promoted}",
                alt=f"{title}, with logits: {listed}",
            )


def _draw_pairs(in_hand: Work, index: int) -> None:
    request = in_hand.ranking_request
    if request is None:
        st.info(
            "No ranking is in hand, so there are no pairs to look at: find latents for an "
            "instruction to see when this one fires.",
            icon=":material/scatter_plot:",
        )
        st.page_link(
            "views/instructions.py", label="Choose an instruction", icon=":material/edit_note:"
        )
        return
    activations = _pair_activations(in_hand, index)
    sentence = activation_sentence(activations)
    st.markdown(sentence)
    if request.read == "response":
        st.caption(
            f"A pair's value is the mean over the first {request.response_tokens} tokens of the "
            "model's own answer."
        )
    left, right = st.columns(2)
    left.altair_chart(pair_chart(activations, request.pairs), key="latent_pairs", alt=sentence)
    right.altair_chart(
        activation_histogram(activations), key="latent_histogram", alt=f"Histogram: {sentence}"
    )


def _pair_activations(in_hand: Work, index: int) -> PairActivations:
    assert in_hand.ranking_request is not None
    kept: dict[tuple[str, int], PairActivations]
    kept = st.session_state.setdefault("latent_pair_activations", {})
    # Every ranking has an id of its own, so what is kept can never belong to another request.
    key = (in_hand.ranking.id if in_hand.ranking else "", index)
    if key not in kept:
        with st.spinner("Reading its activation on every pair …"):
            kept[key] = engine().pair_activations(in_hand.ranking_request, index)
        while len(kept) > _KEPT_ACTIVATIONS:
            del kept[next(iter(kept))]
    return kept[key]


def _draw_neighbours(detail: LatentDetail) -> None:
    st.subheader("Nearest decoder directions", anchor=False)
    st.caption("Cosine between decoder directions; 1 is the same direction.")
    with st.container(horizontal=True):
        for neighbour, cosine in detail.neighbours:
            st.page_link(
                "views/latent.py",
                label=f"{neighbour} ({cosine:+.2f})",
                icon=":material/near_me:",
                query_params={"sae": detail.sae, _PARAMETER: str(neighbour)},
            )


draw_page()
