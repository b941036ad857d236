"""The SAEs that are measured: the one in hand, as the sidebar has it, and those of other layers."""

from collections.abc import Mapping

import streamlit as st

from app.dashboard.frame import describe_sae
from app.dashboard.work import work
from app.presentation.glossary import explain
from saif_core.records.saes import SaeInfo

_KEY, _SEEN = "evaluation_saes", "evaluation_sae_seen"


def draw_saes(offered: Mapping[str, SaeInfo]) -> list[str]:
    """Draw the choice, which follows the SAE in hand, as that follows the choice."""
    in_hand, seen = work().sae_id, st.session_state.get(_SEEN, "")
    if _KEY not in st.session_state:
        st.session_state[_KEY] = [in_hand] if in_hand in offered else []
    elif seen and seen != in_hand and in_hand in offered:
        st.session_state[_KEY] = follow(st.session_state[_KEY], seen, in_hand, offered)
    st.session_state[_SEEN] = in_hand
    chosen = st.multiselect(
        "SAEs, one for each layer",
        list(offered),
        format_func=lambda sae_id: describe_sae(offered[sae_id]),
        key=_KEY,
        persist_state="session",
        on_change=_follow_choice,
        help=explain(
            "SAEs, one for each layer",
            "The one in the sidebar is always among them, unless none is measured.",
        ),
    )
    if not chosen:
        st.caption(":material/info: No SAE is measured, so that of the sidebar is not either.")
    return chosen


def follow(chosen: list[str], before: str, now: str, offered: Mapping[str, SaeInfo]) -> list[str]:
    """A choice once another SAE is in hand, which takes the place of what it cannot stand beside.

    Args:
        before: the SAE that was in hand.
    """
    if not chosen:
        return []
    layer = offered[now].layer
    others = [one for one in chosen if one not in (before, now) and offered[one].layer != layer]
    return [now, *others]


def _follow_choice() -> None:
    """Take an SAE that is measured in hand, if the one in hand is not measured any more."""
    chosen: list[str] = st.session_state[_KEY]
    if chosen and work().sae_id not in chosen:
        work().choose_sae(chosen[0])
        st.session_state[_SEEN] = chosen[0]
