"""The form that says how latents are scored: where activations are read, and by which selector."""

from dataclasses import dataclass
from typing import Any, get_args

import streamlit as st

from app.dashboard.fields.parameter_fields import draw_parameters
from app.dashboard.fields.url_fields import publish, seed_choice, seed_flag, seed_number
from app.dashboard.frame import sae_picker
from app.dashboard.instructions.pair_form import PairChoice
from app.dashboard.work import work
from app.presentation.arms import READ_WORDS
from app.presentation.escaping import escape_markdown
from app.presentation.glossary import explain, meaning
from saif_core.records.ranking import RankingRequest, ReadPosition
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
    left, right = st.columns(2)
    with left:
        sae_picker("page_sae")
        read, response_tokens = _draw_read()
    with right:
        selector, parameters = _draw_selector()
        seed_number("top", DEFAULT_TOP, 1, MAX_TOP)
        top = st.number_input(
            "Latents to steer with (top k)",
            1,
            MAX_TOP,
            step=1,
            key="top",
            persist_state="session",
            help=explain(
                "latents, ranking",
                "The best so many are taken, which can still be changed once latents are ranked.",
            ),
        )
        publish("top", DEFAULT_TOP)
    seed_flag("chat", True)
    chat = st.toggle(
        "Chat template",
        key="chat",
        persist_state="session",
        help=explain("Chat template", "Off: the model reads the prompt as raw text."),
    )
    publish("chat", True)
    return RankingChoice(chat, read, response_tokens, selector, parameters, int(top))


def _draw_read() -> tuple[ReadPosition, int]:
    seed_choice("read", "response", get_args(ReadPosition))
    read = st.segmented_control(
        "Read activations at",
        get_args(ReadPosition)[::-1],
        required=True,
        format_func=lambda option: READ_WORDS[option],
        key="read",
        persist_state="session",
        help=f"{meaning('reading position')} The answer: the first tokens that the model itself "
        "writes, with and without the instruction.",
    )
    publish("read", "response")
    if read == "last-token":
        return "last-token", DEFAULT_RESPONSE_TOKENS
    seed_number("response_tokens", DEFAULT_RESPONSE_TOKENS, 1, MAX_RESPONSE_TOKENS)
    n_tokens = st.number_input(
        "Answer tokens to read",
        1,
        MAX_RESPONSE_TOKENS,
        step=1,
        key="response_tokens",
        persist_state="session",
        help=explain("tokens"),
    )
    publish("response_tokens", DEFAULT_RESPONSE_TOKENS)
    return "response", int(n_tokens)


def _draw_selector() -> tuple[str, dict[str, Any]]:
    names = SELECTORS.names()
    default = DEFAULT_SELECTOR if DEFAULT_SELECTOR in names else names[0]
    seed_choice("selector", default, names)
    name = st.selectbox(
        "Score latents by",
        names,
        format_func=lambda name: name.replace("_", " "),
        key="selector",
        help=explain(
            "selector, score, latents",
            "  \n".join(
                f"{one.name.replace('_', ' ')}: {escape_markdown(one.help)}" for one in SELECTORS
            ),
        ),
        persist_state="session",
    )
    publish("selector", default)
    selector = SELECTORS.get(name)
    values = draw_parameters(selector.parameters, key=f"selector_{name}")
    return name, SELECTORS.check(name, values)
