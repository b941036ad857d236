"""Search by a text: which latents fire on it, token by token and as a whole."""

from html import escape
from typing import Any

import streamlit as st

from app.dashboard.fields.url_fields import publish, seed_flag
from app.dashboard.handles import engine
from app.dashboard.search.table import draw_latents, meaning_columns
from app.dashboard.work import publish_parameter, work
from app.presentation.escaping import escape_markdown, visible
from app.presentation.figures import counted, too_long
from app.presentation.glossary import explain
from saif_core.characters import token_with
from saif_core.records.corpus import LatentIndex
from saif_core.records.latents import TextReading
from saif_core.records.questions import TextQuestion

# Up to this many tokens, each is a button; more are chosen with a slider.
MOST_PILLS = 60
N_WHOLE = 50
# Of the latents on a token, a reading keeps so many.
N_KEPT = 20
MAX_CHARACTERS = 20_000
# A longer text does not belong into an address.
MAX_SHARED = 500
_TEXT, _CHAT, _TOKEN, _READ = "fires_on", "fires_on_chat", "fires_on_token", "search_reading"


def draw_text(index: LatentIndex | None) -> None:
    """Form, the text token by token, and tables of its latents."""
    state = st.session_state
    state.setdefault(_TEXT, st.query_params.get(_TEXT, "")[:MAX_CHARACTERS])
    seed_flag(_CHAT, False)
    with st.form("search_text_form"):
        st.text_area(
            "Text",
            key=_TEXT,
            persist_state="session",
            height=120,
            help=f"At most 2,048 tokens, and {MAX_CHARACTERS:,} characters.",
        )
        st.toggle(
            "As a chat message",
            key=_CHAT,
            persist_state="session",
            help=explain("chat template", "The text is put through that of the model."),
        )
        submitted = st.form_submit_button(
            "Read it", type="primary", icon=":material/travel_explore:"
        )
    publish(_CHAT, False)
    publish_parameter(_TEXT, state[_TEXT] if len(state[_TEXT]) <= MAX_SHARED else "")
    asked = TextQuestion(work().sae_id, state[_TEXT], state[_CHAT])
    if submitted and (said := too_long("The text", state[_TEXT], MAX_CHARACTERS)):
        st.error(said, icon=":material/error:")
        return
    if submitted:
        state.pop(_READ, None)
        state[_READ] = (asked, _read(asked))
        state[_TOKEN] = None
    known = state.get(_READ)
    if known is None:
        st.caption("Nothing was read yet: type a text and press Read it.")
        return
    if known[0] != asked:
        st.caption(
            "Text, chat or SAE have changed since the reading below was made; press Read it."
        )
    if known[0].sae_id == work().sae_id:
        _draw_reading(index, known[1])


def _read(asked: TextQuestion) -> TextReading:
    with st.spinner("Reading the text; the first time, the model is loaded …"):
        reading: TextReading = engine().ask(asked)
    return reading


def _draw_reading(index: LatentIndex | None, reading: TextReading) -> None:
    n_tokens = counted(len(reading.tokens), "token")
    st.subheader("Token by token", anchor=False, help=explain("token"))
    st.caption(f"{n_tokens}; under each is the index of the latent that fires most.")
    st.html(ribbon(reading))
    token = _draw_token_choice(reading)
    if token is not None:
        _draw_token(index, reading, token)
    _draw_whole(index, reading)


def _draw_token(index: LatentIndex | None, reading: TextReading, token: int) -> None:
    found = reading.latents[token]
    name = escape_markdown(visible(token_with(reading.tokens, token)))
    if not found:
        st.markdown(f"On token {token}, “{name}”, no latent fires.")
        return
    st.markdown(
        f"On token {token}, “{name}”: **{counted(len(found), 'latent')}**, the strongest first; at "
        f"most {N_KEPT} are kept."
    )
    latents = [latent for latent, _ in found]
    columns: dict[str, list[Any]] = {
        "latent": latents,
        "activation": [value for _, value in found],
    }
    columns |= meaning_columns(index, latents)
    draw_latents("token", index, columns, alt="Latents that fire on the chosen token")


def _draw_whole(index: LatentIndex | None, reading: TextReading) -> None:
    st.subheader("On the whole text", anchor=False)
    best = reading.maxima[:N_WHOLE]
    if not best:
        st.info(
            "No latent fires after the first token; give a longer text.",
            icon=":material/search_off:",
        )
        return
    n_firing = len(reading.maxima)
    listed = f", of which these {len(best)} fire most" if n_firing > len(best) else ""
    fire = "latent fires" if n_firing == 1 else "latents fire"
    st.markdown(f"**{n_firing:,}** {fire} on any token but the first{listed}.")
    latents = [latent for latent, _, _ in best]
    columns: dict[str, list[Any]] = {
        "latent": latents,
        "largest activation": [value for _, value, _ in best],
        "on token": [f"{at} {visible(token_with(reading.tokens, at))}" for _, _, at in best],
    }
    columns |= meaning_columns(index, latents)
    draw_latents("whole", index, columns, alt="Latents that fire most on the text")


def _draw_token_choice(reading: TextReading) -> int | None:
    n_tokens = len(reading.tokens)
    if n_tokens <= MOST_PILLS:
        return st.pills(
            "Token",
            range(n_tokens),
            format_func=lambda at: f"{at} {escape_markdown(visible(reading.tokens[at]))}",
            key=_TOKEN,
            persist_state="session",
            help=explain("token"),
        )
    # Whatever was chosen of another text may lie beyond this one.
    st.session_state[_TOKEN] = min(st.session_state.get(_TOKEN) or 0, n_tokens - 1)
    return st.slider(
        f"Token (of {n_tokens:,})",
        0,
        n_tokens - 1,
        key=_TOKEN,
        persist_state="session",
        help=explain("token"),
    )


def ribbon(reading: TextReading) -> str:
    """HTML of the tokens, each over the number of the latent that fires most on it."""
    cells = []
    for token, special, latents in zip(
        reading.tokens, reading.special, reading.latents, strict=True
    ):
        hover = ", ".join(f"{latent}: {value:.3g}" for latent, value in latents[:3])
        best = str(latents[0][0]) if latents else "–"
        faint = "opacity:.85;" if special else ""
        cells.append(
            f'<span title="{escape(hover or "no latent fires")}" style="display:inline-block;'
            f"vertical-align:top;text-align:center;margin:0 1px 6px;padding:0 2px;{faint}"
            'border-bottom:1px solid color-mix(in srgb, currentColor 35%, transparent)">'
            f'<span style="font-family:monospace;white-space:pre">{escape(visible(token))}</span>'
            f'<br><span style="font-size:.7rem;opacity:.9">{best}</span></span>'
        )
    return f'<div style="max-height:22rem;overflow-y:auto;line-height:1.2">{"".join(cells)}</div>'
