"""The form that says how latents are scored: where activations are read, and by which selector."""

from dataclasses import dataclass
from typing import Any, get_args

import streamlit as st

from app.frame import sae_picker
from app.pair_form import PairChoice
from app.parameter_fields import draw_parameters
from app.session_view import escape_markdown
from app.state import work
from saif_core.records import RankingRequest, ReadPosition
from saif_core.registry import SELECTORS

DEFAULT_SELECTOR = "sensitivity"
DEFAULT_RESPONSE_TOKENS, MAX_RESPONSE_TOKENS = 24, 256
DEFAULT_TOP, MAX_TOP = 15, 1000


@dataclass(frozen=True)
class RankingChoice:
    """How pairs are read and latents scored."""

    chat: bool
    read: ReadPosition
    response_tokens: int
    selector: str
    selector_parameters: dict[str, Any]
    top: int

    def request(self, choice: PairChoice) -> RankingRequest:
        """The ranking of these pairs with the SAE in hand."""
        return RankingRequest(
            sae_id=work().sae_id,
            instruction=choice.instruction,
            pairs=choice.pairs,
            chat=self.chat,
            read=self.read,
            response_tokens=self.response_tokens,
            selector=self.selector,
            selector_parameters=self.selector_parameters,
            top=self.top,
        )


def draw_ranking_choice() -> RankingChoice:
    """Draw the form.

    Raises:
        SteeringError: a selector's parameter does not fit.
    """
    sae_picker("page_sae")
    left, right = st.columns(2)
    with left:
        read, response_tokens = _draw_read()
    with right:
        selector, parameters = _draw_selector()
    left, right = st.columns(2, vertical_alignment="bottom")
    top = left.number_input(
        "Latents to steer with (top k)",
        1,
        MAX_TOP,
        DEFAULT_TOP,
        key="top",
        bind="query-params",
        persist_state="session",
        help="Can still be changed once the latents are ranked.",
    )
    chat = right.toggle(
        "Chat template",
        True,
        key="chat",
        bind="query-params",
        persist_state="session",
        help="Off: the model reads the prompt as raw text.",
    )
    return RankingChoice(chat, read, response_tokens, selector, parameters, int(top))


def _draw_read() -> tuple[ReadPosition, int]:
    read = st.segmented_control(
        "Read activations at",
        get_args(ReadPosition)[::-1],
        default="response",
        required=True,
        key="read",
        bind="query-params",
        persist_state="session",
        help="response: the first tokens of the answer that the model itself writes, with and "
        "without the instruction; last-token: the last token of the prompt.",
    )
    if read == "last-token":
        return "last-token", DEFAULT_RESPONSE_TOKENS
    n_tokens = st.number_input(
        "Answer tokens to read",
        1,
        MAX_RESPONSE_TOKENS,
        DEFAULT_RESPONSE_TOKENS,
        key="response_tokens",
        bind="query-params",
        persist_state="session",
    )
    return "response", int(n_tokens)


def _draw_selector() -> tuple[str, dict[str, Any]]:
    names = SELECTORS.names()
    name = st.selectbox(
        "Score latents by",
        names,
        index=names.index(DEFAULT_SELECTOR) if DEFAULT_SELECTOR in names else 0,
        key="selector",
        bind="query-params",
        persist_state="session",
    )
    selector = SELECTORS.get(name)
    st.caption(escape_markdown(selector.help))
    values = draw_parameters(selector.parameters, key=f"selector_{name}")
    return name, SELECTORS.check(name, values)
