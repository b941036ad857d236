"""What survives a reload: parts of a person's work, kept in the store under an id in the address.

A part is JSON-ready data under a name of its own. Whoever has something to keep says so on every
run with ``keep`` and takes it up with ``kept`` as a browser session begins; ``save_kept`` writes
what has changed. The id is made when there is something to keep first, and cannot be guessed.
"""

import json
import re
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from app.dashboard.handles import store
from saif_core.errors import StorageError

PARAMETER = "work"
_KEY = "kept_work"
_ID = re.compile(r"[A-Za-z0-9_-]{22}")
# Which browser session holds which work: two that are open at once must not write over each other.
_HOLDERS: dict[str, str] = {}
_LOCK = threading.Lock()
MOST_HOLDERS = 10_000


@dataclass
class Kept:
    """The kept work of this browser session.

    Attributes:
        id: "" as long as nothing is kept.
        parts: by name.
        written: what the store has of it, as text.
        left_out: names of parts that are too large to be kept.
    """

    id: str = ""
    parts: dict[str, Any] = field(default_factory=dict)
    written: str = "{}"
    left_out: tuple[str, ...] = ()


def kept(name: str) -> Any:
    """A part as it was kept; None for none."""
    return _state().parts.get(name)


def keep(name: str, value: Any) -> None:
    """Have a part kept when the run ends; None or what is empty takes it away.

    Args:
        value: JSON-ready.
    """
    parts = _state().parts
    if value:
        parts[name] = value
    else:
        parts.pop(name, None)


def kept_id() -> str:
    """The id that the address names; "" as long as nothing is kept."""
    return _state().id


def save_kept() -> None:
    """Write what has changed since it was last written; what cannot be written is told once."""
    state = _state()
    try:
        text = json.dumps(state.parts, allow_nan=False, sort_keys=True)
    except ValueError:
        return
    if text == state.written:
        return
    state.id = state.id or _take(secrets.token_urlsafe(16))
    state.written = text
    try:
        _put(state)
    except StorageError as error:
        _tell(f"What is set here may not survive a reload. {error}")


def _put(state: Kept) -> None:
    """Write the parts, if need be without the largest ones, which are then told."""
    from storage.work_store import MOST_BYTES

    parts, left_out = dict(state.parts), []
    while parts and _size(parts) > MOST_BYTES:
        largest = max(parts, key=lambda name: _size(parts[name]))
        parts.pop(largest)
        left_out.append(largest)
    if left_out and tuple(left_out) != state.left_out:
        _tell(f"Too large to survive a reload: {', '.join(left_out).replace('_', ' ')}.")
    state.left_out = tuple(left_out)
    store().work.put(state.id, parts)


def _size(value: Any) -> int:
    return len(json.dumps(value))


def _tell(sentence: str) -> None:
    from app.presentation.escaping import escape_markdown

    st.toast(escape_markdown(sentence), icon=":material/warning:")


def _state() -> Kept:
    if _KEY not in st.session_state:
        st.session_state[_KEY] = _load(st.query_params.get(PARAMETER, ""))
    state: Kept = st.session_state[_KEY]
    return state


def _load(work_id: str) -> Kept:
    """What the address names; under an id of its own where another open page works on it."""
    if not _ID.fullmatch(work_id):
        return Kept()
    try:
        parts = store().work.get(work_id)
    except StorageError:
        parts = None
    if parts is None:
        _tell("The work that this address names is not kept any more; begin anew.")
        return Kept()
    if _is_open_elsewhere(work_id):
        return Kept(parts=parts)
    return Kept(_take(work_id), parts, json.dumps(parts, sort_keys=True))


def _session_id() -> str:
    context = get_script_run_ctx()
    return context.session_id if context else ""


def _is_open_elsewhere(work_id: str) -> bool:
    with _LOCK:
        holder = _HOLDERS.get(work_id, "")
    if not holder or holder == _session_id() or not runtime.exists():
        return False
    return runtime.get_instance().is_active_session(holder)


def _take(work_id: str) -> str:
    with _LOCK:
        while len(_HOLDERS) >= MOST_HOLDERS:
            _HOLDERS.pop(next(iter(_HOLDERS)))
        _HOLDERS[work_id] = _session_id()
    return work_id


def read_part(name: str, read: Callable[[Any], Any], default: Any) -> Any:
    """A part as its reader has it; the default where there is none, or none that can be read."""
    part = kept(name)
    if part is None:
        return default
    try:
        return read(part)
    except (ValueError, TypeError, KeyError, AttributeError):
        return default
