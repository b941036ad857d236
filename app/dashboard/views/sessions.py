"""Page 5: saved sessions: find, open, rename, copy, delete, share, export and import them."""

import hashlib
from collections.abc import Sequence

import streamlit as st

from app.dashboard.compare.open_session import OPENED, open_in_compare
from app.dashboard.fields.upload_bounds import MOST_UPLOAD_MB
from app.dashboard.handles import store
from app.dashboard.messages import shown
from app.presentation.escaping import escape_markdown
from app.presentation.figures import too_long
from app.presentation.session_files import (
    MAX_BYTES,
    export_filename,
    export_session,
    import_session,
)
from app.presentation.sessions import session_table, share_link
from saif_core.records.sessions import SessionSummary, SteeringSession

_SELECTED, _DELETED = "sessions_selected", "sessions_deleted"
MAX_NAME = 120


def draw_page() -> None:
    """Search and table, then what can be done with the chosen session."""
    head = st.container(horizontal=True, vertical_alignment="center")
    head.title("What did we find?", width="stretch")
    with head:
        _draw_import()
    _draw_undo()
    search = st.text_input(
        "Search names, instructions and notes",
        key="sessions_search",
        icon=":material/search:",
        placeholder="part of a name",
    )
    summaries = store().sessions.list(search=(search or "").strip())
    if not summaries:
        _draw_empty(bool(search))
        return
    chosen = _draw_table(summaries)
    if chosen is None:
        st.caption("Choose a row to open, rename, copy, share, export or delete the session.")
        return
    with shown():
        _draw_session(store().sessions.get(chosen))


def _draw_empty(searched: bool) -> None:
    if searched:
        st.info(
            "No session matches; search for less, or clear the search.", icon=":material/search:"
        )
        return
    st.info(
        "No session is saved yet: generate texts on the Compare page and save them, or import a "
        "session file.",
        icon=":material/folder_open:",
    )
    st.page_link("views/compare.py", label="Compare texts", icon=":material/compare:")


def _draw_table(summaries: Sequence[SessionSummary]) -> str | None:
    """Draw the table; the id of the chosen session, kept while the list around it changes."""
    ids = [summary.id for summary in summaries]
    selected = st.session_state.get(_SELECTED)
    at = ids.index(selected) if selected in ids else None
    # A selection is a row number: a list in another order needs a table of its own.
    version = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:12]
    column = st.column_config
    event = st.dataframe(
        session_table(summaries),
        key=f"sessions_table_{version}",
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        selection_default={"selection": {"rows": [] if at is None else [at]}},
        column_config={
            "prompts": column.NumberColumn("prompts", format="%d"),
            "saved": column.DatetimeColumn("saved", format="YYYY-MM-DD HH:mm"),
            "shared": column.CheckboxColumn("shared"),
        },
        alt="Saved sessions",
    )
    rows = event["selection"]["rows"]
    chosen = ids[rows[0]] if rows and rows[0] < len(ids) else None
    st.session_state[_SELECTED] = chosen
    return chosen


def _draw_session(session: SteeringSession) -> None:
    st.subheader(escape_markdown(session.name), anchor=False)
    if session.notes:
        st.text(session.notes)
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Open", key="sessions_open", type="primary", icon=":material/open_in_new:"):
            open_in_compare(session)
        _draw_rename(session)
        st.button(
            "Duplicate",
            key="sessions_duplicate",
            icon=":material/content_copy:",
            on_click=_duplicate,
            args=(session.id,),
        )
        _draw_export(session)
        st.button(
            "Delete",
            key="sessions_delete",
            icon=":material/delete:",
            on_click=_delete,
            args=(session.id, session.name),
        )
    _draw_share(session)


def _draw_export(session: SteeringSession) -> None:
    with shown():
        st.download_button(
            "Export",
            export_session(session, store().tensors),
            export_filename(session),
            "application/json",
            key="sessions_export",
            icon=":material/download:",
            on_click="ignore",
        )


def _draw_rename(session: SteeringSession) -> None:
    with (
        st.popover("Rename", icon=":material/edit:", key="sessions_rename"),
        st.form(f"sessions_rename_{session.id}", border=False),
    ):
        name = st.text_input("Name", session.name, key=f"sessions_name_{session.id}")
        if st.form_submit_button("Rename", icon=":material/check:"):
            cleaned = " ".join((name or "").split())
            if not cleaned:
                st.error("A session needs a name; write one.", icon=":material/error:")
                return
            if said := too_long("The name", cleaned, MAX_NAME):
                st.error(said, icon=":material/error:")
                return
            store().sessions.rename(session.id, cleaned)
            st.rerun()


def _draw_share(session: SteeringSession) -> None:
    key = f"sessions_share_{session.id}"
    # The store decides whether a link exists; another tab may have changed it.
    st.session_state[key] = session.share_id is not None
    st.toggle(
        "Share link: whoever has it can read this session",
        key=key,
        on_change=_set_sharing,
        args=(session.id, key),
    )
    if session.share_id is not None:
        st.code(share_link(st.context.url or "", session.share_id), language=None, wrap_lines=True)


def _set_sharing(session_id: str, key: str) -> None:
    with shown():
        if st.session_state[key]:
            store().sessions.share(session_id)
        else:
            store().sessions.unshare(session_id)


def _duplicate(session_id: str) -> None:
    with shown():
        st.session_state[_SELECTED] = store().sessions.duplicate(session_id).id


def _delete(session_id: str, name: str) -> None:
    with shown():
        store().sessions.delete(session_id)
        st.session_state[_DELETED] = (session_id, name)
        opened: SteeringSession | None = st.session_state.get(OPENED)
        if opened is not None and opened.id == session_id:
            st.session_state[OPENED] = None


def _restore(session_id: str) -> None:
    with shown():
        store().sessions.restore(session_id)
        st.session_state[_SELECTED] = session_id
    st.session_state[_DELETED] = None


def _draw_undo() -> None:
    deleted: tuple[str, str] | None = st.session_state.get(_DELETED)
    if deleted is None:
        return
    session_id, name = deleted
    with st.container(horizontal=True, vertical_alignment="center"):
        st.info(f"“{escape_markdown(name)}” was deleted.", icon=":material/delete:")
        st.button(
            "Undo",
            key="sessions_undo",
            icon=":material/undo:",
            on_click=_restore,
            args=(session_id,),
        )


def _draw_import() -> None:
    with (
        st.popover("Import", icon=":material/upload:", key="sessions_import"),
        st.form("sessions_import_form", border=False, clear_on_submit=True),
    ):
        upload = st.file_uploader(
            "A session file that SAIF exported",
            type=["json"],
            key="sessions_upload",
            max_upload_size=min(MAX_BYTES // 2**20, MOST_UPLOAD_MB),
        )
        if st.form_submit_button("Import", icon=":material/upload:", type="primary"):
            if upload is None:
                st.error("Choose a file first.", icon=":material/error:")
                return
            with shown():
                session = import_session(
                    upload.getvalue(), filename=upload.name, tensors=store().tensors
                )
                saved = store().sessions.save(session)
                st.session_state[_SELECTED] = saved.id
                st.success(f"Imported “{escape_markdown(saved.name)}”.", icon=":material/check:")


draw_page()
