"""Page 1: which instruction, in which prompts; starts the search for its latents."""

import streamlit as st

from app.dashboard.handles import engine
from app.dashboard.instructions.pair_form import PairChoice, draw_pair_choice
from app.dashboard.instructions.ranking_form import RankingChoice, draw_ranking_choice
from app.dashboard.instructions.typed import choose_instruction
from app.dashboard.jobs.job_panel import draw_ranking_job, ranking_is_running
from app.dashboard.messages import shown
from app.dashboard.work import open_page, work, write_url
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted
from app.presentation.prompt_html import added_tokens, prompt_html
from app.presentation.ranking import compute_words, verdict
from saif_core.errors import SaifError
from saif_core.records.prompts import PromptPair, PromptView
from saif_core.records.questions import EstimateQuestion, LoadRequest, PromptQuestion
from saif_core.records.ranking import RankingRequest, WorkEstimate

POLL_SECONDS = 1.0


def draw_page() -> None:
    """Head with the button and what came of it, then the form beside what the model sees."""
    head = st.container(horizontal=True, vertical_alignment="center")
    with head:
        st.title("Which instruction?", width="stretch")
    outcome = st.container()
    left, right = st.columns([3, 2], gap="large")
    pairs: PairChoice | None = None
    scoring: RankingChoice | None = None
    with left:
        pairs = draw_pair_choice()
        st.subheader("How latents are scored", anchor=False)
        with shown():
            scoring = draw_ranking_choice()
    request = scoring.request(pairs) if pairs is not None and scoring is not None else None
    with outcome, shown():
        draw_ranking_job()
        _draw_found(request)
    with head:
        _draw_start(pairs, request)
    with outcome:
        estimate_slot = st.container()
    with right, shown():
        ready = _model_is_ready()
        if pairs is None:
            st.caption("The prompts appear here once there are pairs.")
        elif ready:
            _draw_pairs(pairs.pairs, chat=scoring.chat if scoring else True)
            # While a ranking runs, an estimate would wait for its turn between two batches.
            if request is not None and not ranking_is_running():
                with estimate_slot:
                    _draw_estimate(request)


def _draw_start(pairs: PairChoice | None, request: RankingRequest | None) -> None:
    running = ranking_is_running()
    missing = None if request is not None else "Choose, type or upload pairs first."
    start = st.button(
        "Find latents",
        key="find_latents",
        # The next step of a finished ranking is to look at it.
        type="secondary" if _is_found(request) else "primary",
        icon=":material/search:",
        disabled=request is None or running or not work().sae_id,
        help="A ranking is running; stop it first." if running else missing,
    )
    if start and request is not None:
        if pairs is not None and pairs.record is not None:
            choose_instruction(pairs.record)
        work().attach(engine().submit(request).id)
        # Now, not as the run ends: a page that is loaded anew in between must find its job.
        write_url()
        st.rerun()


def _is_found(request: RankingRequest | None) -> bool:
    return work().ranking is not None and request in (None, work().ranking_request)


def _draw_found(request: RankingRequest | None) -> None:
    ranking = work().ranking
    if ranking is None:
        return
    st.info(escape_markdown(verdict(ranking)), icon=":material/scatter_plot:")
    if st.button(
        "Go to the latents",
        key="go_latents",
        type="primary" if _is_found(request) else "secondary",
        icon=":material/scatter_plot:",
    ):
        open_page("views/latents.py")


def _draw_estimate(request: RankingRequest) -> None:
    with shown():
        estimate: WorkEstimate = engine().ask(EstimateQuestion(request))
        n_pairs = counted(estimate.n_pairs, "pair")
        if estimate.cached:
            st.caption(f"{n_pairs} · already computed")
            return
        st.caption(f"{n_pairs} · {compute_words(estimate)}")


def _model_is_ready() -> bool:
    """Whether prompts can be shown at once; if not, says so and has the model loaded."""
    status = engine().status()
    if status.model_loaded:
        return True
    load = engine().newest("load")
    if load is not None and load.finished() and load.error is not None:
        st.caption("The model could not be loaded, so its prompts cannot be shown.")
        if st.button("Try again", key="load_again", icon=":material/refresh:"):
            engine().submit(LoadRequest(work().sae_id))
            st.rerun()
        raise SaifError(load.record.error)
    if work().sae_id and (load is None or load.finished()):
        engine().submit(LoadRequest(work().sae_id))
    st.fragment(_wait_for_model, run_every=POLL_SECONDS)()
    return False


def _wait_for_model() -> None:
    with shown():
        load = engine().newest("load")
        if engine().status().model_loaded or (load is not None and load.finished()):
            st.rerun()
        st.caption("Loading the model; its view of the prompts appears here.")


def _draw_pairs(pairs: tuple[PromptPair, ...], *, chat: bool) -> None:
    st.subheader("As the model sees it", anchor=False)
    number = 1
    if len(pairs) > 1:
        # The number of pairs is in the key: a page beyond the last one would be an error.
        number = st.pagination(len(pairs), max_visible_pages=5, key=f"pair_{len(pairs)}")
    pair = pairs[number - 1]
    positive = _view(pair.positive, engine().model_id, chat)
    negative = _view(pair.negative, engine().model_id, chat)
    st.caption(f"Pair {number:,} of {len(pairs):,}")
    st.markdown(f"**With** the instruction · {counted(len(positive.tokens), 'token')}")
    st.html(prompt_html(positive, added_tokens(positive, negative)))
    st.markdown(f"**Without** · {counted(len(negative.tokens), 'token')}")
    st.html(prompt_html(negative))
    st.caption("· is a space, ↵ a line break; framed tokens are special, underlined ones added.")


@st.cache_data(max_entries=512, scope="session", show_spinner=False)
def _view(text: str, model_id: str, chat: bool) -> PromptView:  # noqa: ARG001
    view: PromptView = engine().ask(PromptQuestion(text, chat=chat))
    return view


draw_page()
