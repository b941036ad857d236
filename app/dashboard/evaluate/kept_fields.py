"""The fields of the Evaluate form that survive a reload."""

import re
from typing import Any

import streamlit as st

from app.dashboard.handles import engine
from app.dashboard.kept_work import keep, kept
from saif_core.parameters import record_parameters
from saif_core.records.steering import Sampling, Schedule
from saif_core.registry import SOURCES

_PART, _PREFIX = "evaluate", "evaluation_"
_NAMES = {
    "sources",
    "strengths",
    "saes",
    "sae_seen",
    "baselines",
    "controls",
    "controls_of",
    "layers",
    "together",
    "read",
    "response_tokens",
    "position",
    "selector",
    "keep_norm",
    "stop_before",
    "measured",
    *(one.name for record in (Schedule, Sampling) for one in record_parameters(record)),
}
_GROUPS = re.compile(
    r"(n_test_|n_rank_|rank_wordings_|test_wordings_|selector_|own_|methods?/|source/)"
)
# A button's state cannot be set.
_BUTTON = "/in_hand"
_TAKEN = "evaluation_fields_taken"
_MOST_FIELDS = 500


def take_fields() -> None:
    """Put the kept values under the keys of their fields, once in a browser session."""
    if st.session_state.get(_TAKEN):
        return
    st.session_state[_TAKEN] = True
    values = kept(_PART)
    for key, value in values.items() if isinstance(values, dict) else ():
        if _is_field(key) and _is_plain(value) and key not in st.session_state:
            st.session_state[key] = _offered(key, value)


def keep_fields() -> None:
    """Have the values of the fields survive a reload; call it once they are drawn."""
    state: dict[str, Any] = {str(key): value for key, value in st.session_state.items()}
    fields = {key: value for key, value in state.items() if _is_field(key) and _is_plain(value)}
    # What has been changed is changed for good; the defaults of all others may change.
    defaults: dict[str, Any] = st.session_state.setdefault("evaluation_defaults", {})
    earlier = kept(_PART) or {}
    for key, value in fields.items():
        defaults.setdefault(key, None if key in earlier else value)
    changed = {key: value for key, value in fields.items() if value != defaults[key]}
    keep(_PART, dict(list(changed.items())[:_MOST_FIELDS]))


def _is_field(key: str) -> bool:
    if not key.startswith(_PREFIX) or key.endswith(_BUTTON):
        return False
    name = key.removeprefix(_PREFIX)
    return name in _NAMES or _GROUPS.match(name) is not None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(isinstance(one, str | int | float | bool | None) for one in value)
    return isinstance(value, str | int | float | bool)


def _offered(key: str, value: Any) -> Any:
    """A choice without what is not offered here any more."""
    known = {
        "evaluation_saes": {info.id for info in engine().saes()},
        "evaluation_sources": set(SOURCES.names()),
    }.get(key)
    return value if known is None else [one for one in value if one in known]
