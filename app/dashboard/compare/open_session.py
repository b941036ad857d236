"""Take up a saved session, or arms that another page sends, as the work in hand."""

import streamlit as st

from app.dashboard.compare.compare_arms import main_arm
from app.dashboard.compare.steering_form import SteeringForm, steering_form
from app.dashboard.work import Work, work
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import Arm, GenerationRequest

# Where Compare finds the session that was opened, the job whose texts it shows, and arms that
# other pages send.
OPENED, RUN, INCOMING = "compare_opened", "compare_run", "compare_incoming"


def open_in_compare(session: SteeringSession) -> None:
    """Go to the Compare page with the session as the work in hand."""
    hold(session)
    st.switch_page("views/compare.py", query_params={"open": session.id})


def hold(session: SteeringSession) -> None:
    """Make the session the work in hand of this browser session."""
    take_up(session, work(), steering_form())
    st.session_state[OPENED] = session
    st.session_state[RUN] = ""


def take_incoming(form: SteeringForm) -> None:
    """Add the arms that another page sent, once."""
    arms: list[Arm] = st.session_state.pop(INCOMING, None) or []
    form.add([arm for arm in arms if arm.kind != "unsteered"])


def take_up(session: SteeringSession, in_hand: Work, form: SteeringForm) -> None:
    """Set the work in hand and the form as the session has them.

    Its ranking comes without pairs, which sessions do not keep.
    """
    request, ranking = session.request, session.ranking
    main = main_arm(request.arms) if request else None
    sae_id = main.edits[0].sae_id if main else ranking.sae if ranking else ""
    if sae_id:
        in_hand.choose_sae(sae_id)
    if session.instruction is not None:
        in_hand.instruction = session.instruction.name
        if in_hand.instruction_record() != session.instruction:
            in_hand.uploaded[session.instruction.name] = session.instruction
    elif request and request.instruction:
        in_hand.instruction = request.instruction
    if ranking is not None:
        in_hand.job_id = ""
        in_hand.ranking, in_hand.ranking_request = ranking, None
    if request is not None:
        _take_request(request, main, in_hand, form)


def _take_request(
    request: GenerationRequest, main: Arm | None, in_hand: Work, form: SteeringForm
) -> None:
    in_hand.clear(form.settings())
    if main is not None:
        for latent in main.edits[0].latents:
            in_hand.add_latent(latent.index, latent.coefficient)
        in_hand.strength = main.strength
    form.take(request)
