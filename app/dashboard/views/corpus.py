"""Corpus: what was read through which SAE, and reading more of it."""

import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import streamlit as st

from app.dashboard.corpus.indexes import take_in_shipped
from app.dashboard.corpus.uploads import (
    KINDS,
    MAX_UPLOAD_MB,
    forget_uploads,
    save_uploads,
    uploads_of,
)
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.fields.upload_bounds import BOUNDS, check_files
from app.dashboard.frame import describe_sae
from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_failure, draw_progress, page_progress, submit_once
from app.dashboard.messages import shown
from app.dashboard.work import open_page, work
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted, left_out_words, too_long
from app.presentation.glossary import explain
from app.settings import load_settings
from app.store_tasks import MAX_LABEL, LabelsReport, LabelsRequest, NewLabel, vectors_file
from saif_core.engine.job import Job
from saif_core.errors import CorpusError
from saif_core.records.corpus import IndexRequest, LatentIndex
from saif_core.records.questions import IndexReport, SaeAnswer, SaeQuestion

MAX_NAME = 120
MAX_ODD_SHOWN = 5
_SEEN = "corpus_tokens_seen"


class _Seen(NamedTuple):
    """Tokens of each index when a job was first looked at, for its speed."""

    job_id: str
    at: float
    n_tokens: dict[str, int]


def draw_page() -> None:
    """Jobs, the list with what can be done with an index, then how to get another."""
    st.title("What was read?")
    take_in_shipped(work().sae_id)
    with shown():
        _draw_jobs()
    indexes = store().latents.indexes()
    if indexes:
        chosen = _draw_list(indexes)
        if chosen is None:
            st.caption("Choose a row to search, export, resume or delete the index.")
        else:
            with shown():
                _draw_index(chosen, indexes)
    else:
        st.info(
            "No corpus was read yet, so nothing is known of what latents fire on. Read files of "
            "your own, or import an index that was exported elsewhere.",
            icon=":material/library_books:",
        )
    st.subheader("Read another corpus", anchor=False, help=explain("corpus"))
    with shown():
        _draw_start()
    left, right = st.columns(2, gap="large")
    with left, shown():
        _draw_import()
    with right, shown():
        _draw_labels()


def _draw_jobs() -> None:
    jobs = [job for job in engine().jobs() if job.kind == "index"]
    running = [job for job in jobs if not job.finished()]
    for job in reversed(running):
        draw_progress(job, f"index_{job.id}", partial(_speed, job))
    if not running and jobs:
        newest = jobs[0]
        draw_failure(newest)
        if newest.error is None:
            _draw_done(newest)
        elif newest.record.state == "cancelled":
            st.caption("What was read is kept: choose the unfinished index and resume it.")


def _draw_done(job: Job) -> None:
    report: IndexReport = job.result()
    # An index may have been deleted since.
    if {index.id for index in report.indexes} & {index.id for index in store().latents.indexes()}:
        left_out = f" {left_out_words(report.n_left_out)}" if report.n_left_out else ""
        st.success(f"{escape_markdown(job.title)}: done.{left_out}", icon=":material/check:")


def _speed(job: Job) -> str:
    """Tokens per second since this browser session first saw the job."""
    if job.record.state != "running":
        return ""
    n_tokens = {index.id: index.n_tokens for index in store().latents.indexes()}
    seen: _Seen | None = st.session_state.get(_SEEN)
    if seen is None or seen.job_id != job.id:
        seen = st.session_state[_SEEN] = _Seen(job.id, time.monotonic(), n_tokens)
    # All SAEs of a job read the same tokens.
    n_read = max((n - seen.n_tokens.get(name, 0) for name, n in n_tokens.items()), default=0)
    seconds = time.monotonic() - seen.at
    if n_read <= 0 or seconds <= 0:
        return ""
    read = f"{counted(n_read, 'token')} read in {seconds:,.0f} s"
    return f"{read}: {n_read / seconds:,.0f} tokens/s so far"


def _draw_list(indexes: Sequence[LatentIndex]) -> LatentIndex | None:
    column = st.column_config
    # A selection is a row number: another list needs a table of its own.
    version = hash(tuple(index.id for index in indexes))
    table = {
        "name": [index.name for index in indexes],
        "SAE": [_sae_name(index.sae_id) for index in indexes],
        "tokens": [index.n_tokens for index in indexes],
        "contexts": [index.n_contexts for index in indexes],
        "L0": [index.n_nonzero / max(index.n_tokens, 1) for index in indexes],
        "state": ["finished" if index.finished else "unfinished" for index in indexes],
        "begun": [_moment(index.created_at) for index in indexes],
    }
    event: Any = st.dataframe(
        table,
        key=f"corpus_table_{version}",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        column_config=explained_columns(
            table,
            {
                "tokens": column.NumberColumn("tokens", format="localized"),
                "contexts": column.NumberColumn("contexts", format="localized"),
                "L0": column.NumberColumn("L0", format="%.1f"),
                "begun": column.DatetimeColumn("begun", format="YYYY-MM-DD HH:mm"),
            },
        ),
        alt="Corpus indexes",
    )
    rows = event.selection.rows
    return indexes[rows[0]] if rows and rows[0] < len(indexes) else None


def _draw_index(index: LatentIndex, indexes: Sequence[LatentIndex]) -> None:
    n_l0 = index.n_nonzero / max(index.n_tokens, 1)
    st.markdown(
        f"**{escape_markdown(index.name)}** · {escape_markdown(index.sae_id)} · "
        f"{counted(index.n_tokens, 'token')} in {counted(index.n_contexts, 'context')} · "
        f"L0 {n_l0:.1f}"
    )
    reading = any(job.kind == "index" and not job.finished() for job in engine().jobs())
    offered = {info.id for info in engine().saes()}
    with st.container(horizontal=True, vertical_alignment="center"):
        if index.finished:
            _draw_finished(index, index.sae_id in offered)
        else:
            _draw_resume(index, reading, index.sae_id in offered)
        with st.popover("Delete", key="corpus_delete", icon=":material/delete:"):
            st.markdown(
                "The index goes with its contexts, its profiles and the files that were uploaded "
                "for it. Labels, notes and stars stay."
            )
            st.button(
                "Delete it for good",
                key="corpus_delete_sure",
                type="primary",
                on_click=_delete,
                args=(index, [other for other in indexes if other.id != index.id]),
                disabled=not index.finished and reading,
                help="Stop the reading first." if not index.finished and reading else None,
            )


def _draw_finished(index: LatentIndex, offered: bool) -> None:
    if offered and st.button(
        "Search it", key="corpus_search", icon=":material/travel_explore:", type="primary"
    ):
        work().choose_sae(index.sae_id)
        open_page("views/search.py", index=index.id)
    opened = store()
    st.download_button(
        "Export",
        # Packed only when somebody asks for it, as it takes seconds.
        lambda: opened.profiles.export(index.id),
        file_name=f"{_file_stem(index.name)}.index",
        mime="application/octet-stream",
        key="corpus_export",
        icon=":material/download:",
        on_click="ignore",
    )


def _draw_resume(index: LatentIndex, reading: bool, offered: bool) -> None:
    folder = uploads_of(index)
    if folder is None or not offered:
        st.caption(
            "Unfinished. It goes on where it was when the same files are read again, in the same "
            "order and through the same SAE."
        )
    elif st.button(
        "Resume", key="corpus_resume", icon=":material/resume:", type="primary", disabled=reading
    ):
        _begin(index.name, str(folder), (index.sae_id,))


def _delete(index: LatentIndex, others: Sequence[LatentIndex]) -> None:
    with shown():
        store().latents.delete_index(index.id)
        forget_uploads(index, others)
        vectors_file(load_settings().home, index.id).unlink(missing_ok=True)


def _draw_start() -> None:
    offered = {info.id: info for info in engine().saes()}
    if not offered:
        st.info(
            "No SAE is offered to read a corpus through; name one in SAIF_SAES and restart.",
            icon=":material/info:",
        )
        return
    with st.form("corpus_start"):
        files = st.file_uploader(
            "Text files",
            KINDS,
            accept_multiple_files=True,
            key="corpus_files",
            max_upload_size=MAX_UPLOAD_MB,
            help=f"{BOUNDS} TXT and MD: a document per paragraph. JSONL: one a line, with "
            "'text' or 'messages'. Parquet: a column of either name.",
        )
        name = st.text_input("Name", key="corpus_name", placeholder="the files")
        chosen = st.multiselect(
            "Read through",
            list(offered),
            default=[work().sae_id],
            format_func=lambda sae_id: describe_sae(offered[sae_id]),
            key="corpus_saes",
            help=explain("SAE", "The text runs through the model once for all of them."),
        )
        submitted = st.form_submit_button("Read it", type="primary", icon=":material/menu_book:")
    st.caption(
        "Reading runs in the background and lets questions go first. Files are known by their "
        "contents: if the reading stops, upload the same files in the same order, or resume it "
        "above, and it goes on where it was."
    )
    if submitted:
        if not files or not chosen:
            raise CorpusError(
                "A corpus was to be read, but no file or no SAE was chosen; choose at least one "
                "of each."
            )
        if said := too_long("The name", (name or "").strip(), MAX_NAME):
            raise CorpusError(said)
        check_files(files)
        title = (name or "").strip() or ", ".join(file.name for file in files)
        _begin(title[:MAX_NAME], str(save_uploads(files)), tuple(chosen))


def _begin(name: str, path: str, sae_ids: tuple[str, ...]) -> None:
    engine().submit(IndexRequest(name, (path,), sae_ids))
    st.rerun()


def _draw_import() -> None:
    with st.form("corpus_import_form", clear_on_submit=True):
        file = st.file_uploader(
            "Import an index that SAIF exported",
            ["index"],
            key="corpus_import",
            max_upload_size=MAX_UPLOAD_MB,
            help=explain("index", f"At most {MAX_UPLOAD_MB} MB."),
        )
        if not st.form_submit_button("Import", icon=":material/upload:"):
            return
    if file is None:
        st.error("Choose a file first.", icon=":material/error:")
        return
    known = {index.id for index in store().latents.indexes()}
    with page_progress(f"Import {file.name}") as step:
        imported = store().profiles.import_index(file.getvalue(), step=step)
    if imported in known:
        st.info("That index is here already.", icon=":material/info:")
        return
    # The list, drawn before, does not have it yet.
    st.rerun()


def _draw_labels() -> None:
    with st.form("corpus_labels_form", clear_on_submit=True):
        file = st.file_uploader(
            f"Published labels for {escape_markdown(_sae_name(work().sae_id))}",
            ["json", "jsonl", "gz"],
            key="corpus_labels",
            max_upload_size=MAX_UPLOAD_MB,
            help="An explanation export of Neuronpedia. The SAE has to name its Neuronpedia id in "
            "its metadata.",
        )
        submitted = st.form_submit_button("Take the labels in", icon=":material/label:")
    if submitted:
        if file is None:
            st.error("Choose a file first.", icon=":material/error:")
        else:
            _take_labels_in(work().sae_id, file.getvalue(), file.name)
    job = engine().newest("labels", partial(_labels_for, work().sae_id))
    if job is None:
        st.caption(
            "They are found by a search for their words, and their source is shown with them."
        )
    elif not job.finished():
        draw_progress(job, "labels")
    elif job.error is not None:
        draw_failure(job)
    else:
        done: LabelsReport = job.result()
        st.success(
            f"Labels: {done.n_added:,} added, {done.n_known:,} here already, {done.n_cut:,} cut to "
            f"{MAX_LABEL} characters.",
            icon=":material/check:",
        )


def _labels_for(sae_id: str, request: LabelsRequest) -> bool:
    return request.sae_id == sae_id


def _take_labels_in(sae_id: str, data: bytes, filename: str) -> None:
    from saif_core.explaining.published_labels import read_published_labels

    with st.spinner("Reading the SAE's metadata and the labels …"):
        sae: SaeAnswer = engine().ask(SaeQuestion(sae_id))
        read = read_published_labels(
            data, filename, neuronpedia_id=sae.neuronpedia_id, d_sae=sae.d_sae
        )
    if read.odd:
        listed = "; ".join(f"{entry.number}: {entry.problem}" for entry in read.odd[:MAX_ODD_SHOWN])
        st.warning(
            f"Entries left out: {len(read.odd):,} ({escape_markdown(listed)}).",
            icon=":material/rule:",
        )
    labels = tuple(NewLabel(one.latent_index, one.text, one.source) for one in read.labels)
    submit_once(LabelsRequest(sae.sha256, labels, sae_id), partial(_labels_for, sae_id))


def _sae_name(sae_id: str) -> str:
    return sae_id.rstrip("/").rsplit("/", 1)[-1]


def _file_stem(name: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:60] or "corpus"


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


draw_page()
