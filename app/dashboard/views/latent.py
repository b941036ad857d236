"""Page 3: what one latent is, from a corpus, its weights, its relatives and what people say."""

from collections.abc import Sequence
from urllib.parse import urlencode, urlsplit, urlunsplit

import streamlit as st

from app.charts.latent import activation_histogram, activation_sentence, pair_chart
from app.dashboard.corpus.indexes import choose_index, indexes_of
from app.dashboard.handles import engine, store
from app.dashboard.latent.evidence import (
    KnownLatent,
    draw_chips,
    draw_histograms,
    draw_token_bars,
    title_words,
)
from app.dashboard.latent.examples import draw_examples, draw_own_text
from app.dashboard.latent.gate import draw_gate
from app.dashboard.latent.notes import draw_descriptions, draw_notes, draw_star
from app.dashboard.latent.relations import draw_relations
from app.dashboard.messages import shown
from app.dashboard.work import Work, work
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted
from app.presentation.glossary import explain
from app.presentation.latents import firing_words, newest_label, read_examples, words_of_tokens
from saif_core.errors import UnknownLatentError
from saif_core.records.corpus import LatentIndex
from saif_core.records.latents import LatentDetail, PairActivations
from saif_core.records.notes import LatentNote
from saif_core.records.questions import LatentQuestion, PairQuestion, SaeAnswer, SaeQuestion

# Address and session remember a latent under these names; the SAE is the work in hand's own.
_PARAMETER, _REMEMBERED = "latent", "latent_index"
# Drawn on every run of this page and forgotten on any other one.
_HERE = "latent_steer"
_FOLLOWED = "latent_followed_sae"
_KEPT_ACTIVATIONS = 64


def draw_page() -> None:
    """The latent that the address names, else the one looked at last, else the best ranked."""
    in_hand = work()
    if not _follow_sae(in_hand):
        st.title("Which latent?")
        st.error(
            "The address names an SAE that is not offered here; choose a latent of another.",
            icon=":material/error:",
        )
        _draw_choice(in_hand)
        return
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
    try:
        _draw_latent(in_hand, index)
    except UnknownLatentError as error:
        st.session_state.pop(_REMEMBERED, None)
        st.title("Which latent?")
        st.error(escape_markdown(f"{error} Or choose one here."), icon=":material/error:")
        _draw_choice(in_hand)
        return
    _remember(index)


def _follow_sae(in_hand: Work) -> bool:
    """Take up the SAE that a link names; False if it is not offered.

    The picker changes the work in hand, and the address only as the run ends; so on this page the
    address wins only when it is new.
    """
    asked = st.query_params.get("sae", "")
    is_new = _HERE not in st.session_state or asked != st.session_state.get(_FOLLOWED)
    if not asked or asked == in_hand.sae_id or not is_new:
        st.session_state[_FOLLOWED] = in_hand.sae_id
        return True
    if asked not in {info.id for info in engine().saes()}:
        return False
    in_hand.choose_sae(asked)
    st.session_state[_FOLLOWED] = asked
    # The sidebar, drawn before, still shows the other SAE.
    st.rerun()


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
            f"Latent of {in_hand.sae_id}",
            min_value=0,
            value=0,
            step=1,
            key="latent_number",
            help=explain("latent"),
        )
        if st.form_submit_button("Show this latent", icon=":material/search:"):
            _remember(int(number))
            st.rerun()
    st.page_link("views/latents.py", label="Find latents", icon=":material/scatter_plot:")


def _draw_latent(in_hand: Work, latent: int) -> None:
    sae_id = in_hand.sae_id
    indexes = indexes_of(sae_id)
    if indexes:
        _draw_known(in_hand, latent, indexes)
    else:
        _draw_from_weights(in_hand, latent)


def _draw_known(in_hand: Work, latent: int, indexes: Sequence[LatentIndex]) -> None:
    """The page of a latent of an indexed SAE: from the store, without the model."""
    place = st.container()
    index = choose_index(indexes)
    known = KnownLatent(in_hand.sae_id, index, store().profiles.get(index.id, latent))
    profile = known.profile
    words = words_of_tokens(
        engine().token_texts, (token for token, _ in (*profile.promoted, *profile.suppressed))
    )
    promoted = [(words[token], logit) for token, logit in profile.promoted]
    suppressed = [(words[token], logit) for token, logit in profile.suppressed]
    notes = store().notes.list(index.sae_sha256, latent)
    texts = read_examples(store(), index, profile, engine().token_texts)
    with place:
        title = title_words(
            newest_label(notes), [token for token, _ in promoted], firing_words(texts)
        )
        _draw_title(in_hand, latent, title, index.hook_point)
        st.caption(f"Read on {escape_markdown(index.name)}, {index.n_tokens:,} tokens")
    draw_chips(known)
    _draw_actions(in_hand, latent, profile.mean, index.sae_sha256, notes)
    _draw_rank(in_hand, latent)
    draw_token_bars(promoted, suppressed)
    draw_histograms(known)
    draw_examples(known, texts)
    with shown():
        draw_gate(in_hand.sae_id, latent)
    with shown():
        draw_own_text(in_hand.sae_id, latent, profile.maximum)
    with shown():
        draw_relations(in_hand, in_hand.sae_id, latent, known)
    with shown():
        _draw_pairs(in_hand, latent)
    left, right = st.columns(2, gap="large")
    with left, shown():
        draw_descriptions(
            known, texts, [token for token, _ in promoted], [token for token, _ in suppressed]
        )
    with right, shown():
        draw_notes(index.sae_sha256, latent, notes)


def _draw_from_weights(in_hand: Work, latent: int) -> None:
    """The page of a latent that no corpus was read for: its weights tell what it promotes."""
    with st.spinner("Reading the latent's weights; the first time, the model is loaded …"):
        detail: LatentDetail = engine().ask(LatentQuestion(in_hand.sae_id, latent))
        sae: SaeAnswer = engine().ask(SaeQuestion(in_hand.sae_id))
    notes = store().notes.list(sae.sha256, latent)
    title = title_words(newest_label(notes), [token for token, _ in detail.promoted])
    _draw_title(in_hand, latent, title, detail.hook_point)
    _draw_actions(in_hand, latent, 0.0, sae.sha256, notes)
    _draw_rank(in_hand, latent)
    _draw_weights(detail)
    st.info(
        "No corpus has been read through this SAE, so there are no examples: make an index with "
        f"saif index FILE --sae {escape_markdown(in_hand.sae_id)}.",
        icon=":material/library_books:",
    )
    with shown():
        draw_gate(in_hand.sae_id, latent)
    with shown():
        draw_own_text(in_hand.sae_id, latent, None)
    with shown():
        draw_relations(in_hand, in_hand.sae_id, latent, None)
    with shown():
        _draw_pairs(in_hand, latent)
    with shown():
        draw_notes(sae.sha256, latent, notes)


def _draw_title(in_hand: Work, latent: int, title: str, hook_point: str) -> None:
    st.title(f"What is latent {latent}?", help=explain("latent"))
    st.subheader(title, anchor=False)
    st.caption(f"{escape_markdown(in_hand.sae_id)} · {escape_markdown(hook_point)}")


def _draw_actions(
    in_hand: Work, latent: int, corpus_mean: float, sae_sha256: str, notes: list[LatentNote]
) -> None:
    """What can be done with it.

    Args:
        corpus_mean: of its activation where it fires; 0 where no corpus says.
    """
    score = in_hand.latent_score(latent)
    mean = score.mean if score and score.mean > 0 else corpus_mean
    coefficient = mean if mean > 0 else 1.0
    ranked = [each.index for each in in_hand.ranking.latents] if in_hand.ranking else []
    at = ranked.index(latent) if latent in ranked else None
    with st.container(horizontal=True, vertical_alignment="center"):
        if latent in in_hand.basket:
            st.button(
                "Remove from basket",
                key="latent_remove",
                icon=":material/remove_shopping_cart:",
                on_click=in_hand.remove_latent,
                args=(latent,),
            )
        else:
            st.button(
                "Add to basket",
                key="latent_add",
                icon=":material/add_shopping_cart:",
                on_click=in_hand.add_latent,
                args=(latent, coefficient),
            )
        if st.button(
            "Steer with this one",
            key=_HERE,
            icon=":material/compare:",
            type="primary",
            help="Replaces the basket by this latent.",
        ):
            in_hand.clear()
            in_hand.add_latent(latent, coefficient)
            st.switch_page("views/compare.py")
        draw_star(sae_sha256, latent, notes)
        if at is not None:
            _draw_step("Previous by score", "latent_previous", "chevron_left", ranked, at - 1)
            _draw_step("Next by score", "latent_next", "chevron_right", ranked, at + 1)
        with st.popover("Copy link", icon=":material/link:"):
            st.code(_link(in_hand.sae_id, latent), language=None, wrap_lines=True)
        st.page_link("views/latents.py", label="All latents", icon=":material/scatter_plot:")
    if mean <= 0:
        st.caption(
            "No ranking in hand and no corpus says how strongly this latent fires, so its "
            "coefficient starts at 1; it can be changed on the Compare page."
        )


def _link(sae_id: str, latent: int) -> str:
    parts = urlsplit(st.context.url or "")
    query = urlencode({"sae": sae_id, _PARAMETER: str(latent)})
    return urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))


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


def _draw_rank(in_hand: Work, latent: int) -> None:
    """What the ranking in hand says of it."""
    ranking, score = in_hand.ranking, in_hand.latent_score(latent)
    if ranking is None:
        return
    if score is None:
        st.markdown(f"not among the {len(ranking.latents):,} best of the ranking in hand")
        return
    facts = [
        f"rank {ranking.latents.index(score) + 1} of {ranking.d_sae:,} for "
        f"{escape_markdown(ranking.instruction)}",
        f"score {score.score:z.3f} ({escape_markdown(ranking.selector)})",
        f"fires at {score.rate_positive:.0%} of the positions with the instruction, "
        f"{score.rate_negative:.0%} without",
        f"mean {score.mean:.3g} ± {score.std:.2g} where it fires "
        f"(n = {counted(ranking.n_pairs, 'pair')})",
    ]
    st.markdown(" · ".join(facts))


def _draw_weights(detail: LatentDetail) -> None:
    st.caption(f"Decoder norm {detail.decoder_norm:.3g} · encoder bias {detail.encoder_bias:+.3g}")
    draw_token_bars(detail.promoted, detail.suppressed)


def _draw_pairs(in_hand: Work, latent: int) -> None:
    st.subheader(
        "On the pairs of the ranking in hand", anchor=False, help=explain("prompt pairs, ranking")
    )
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
    activations = _pair_activations(in_hand, latent)
    if activations is None:
        return
    sentence = activation_sentence(activations)
    st.markdown(sentence)
    if request.read == "response":
        st.caption(
            "A pair's value is the mean over the first "
            f"{counted(request.response_tokens, 'token')} of the model's own answer."
        )
    left, right = st.columns(2)
    left.altair_chart(pair_chart(activations, request.pairs), key="latent_pairs", alt=sentence)
    right.altair_chart(
        activation_histogram(activations), key="latent_histogram", alt=f"Histogram: {sentence}"
    )


def _pair_activations(in_hand: Work, latent: int) -> PairActivations | None:
    """Read when the person asks, and kept; None until then."""
    assert in_hand.ranking_request is not None
    kept: dict[tuple[str, int], PairActivations]
    kept = st.session_state.setdefault("latent_pair_activations", {})
    # Every ranking has an id of its own, so what is kept can never belong to another request.
    key = (in_hand.ranking.id if in_hand.ranking else "", latent)
    if key not in kept:
        if not st.button(
            f"Read it on {counted(len(in_hand.ranking_request.pairs), 'pair')}",
            key="latent_pairs_ask",
            icon=":material/visibility:",
        ):
            return None
        with st.spinner("Reading its activation on every pair …"):
            kept[key] = engine().ask(PairQuestion(in_hand.ranking_request, latent))
        while len(kept) > _KEPT_ACTIVATIONS:
            del kept[next(iter(kept))]
        # The button has done its work.
        st.rerun()
    return kept[key]


draw_page()
