"""Where a latent fires: examples of the corpus, and a text that the person types."""

import streamlit as st

from app.dashboard.handles import engine
from app.dashboard.latent.evidence import KnownLatent
from app.presentation.figures import counted, too_long
from app.presentation.latents import ExampleText
from app.presentation.token_html import TintedText, examples_html, text_html
from saif_core.records.corpus import N_KINDS
from saif_core.records.questions import LatentOnText, LatentOnTextsQuestion

_READING = "latent_own_reading"
MAX_CHARACTERS = 20_000


def draw_examples(known: KnownLatent, texts: list[ExampleText]) -> None:
    """The strongest examples, then some of each quarter of the activation range."""
    st.subheader("Where it fires", anchor=False)
    if not texts:
        st.info(
            f"It fires on none of the {known.index.n_tokens:,} tokens of this corpus, so there is "
            "no example; try texts of your own below, or index a corpus of another kind."
            if not known.profile.n_fired
            else "This index holds no contexts of its examples; index the corpus anew.",
            icon=":material/info:",
        )
        return
    st.caption(
        "Tint and underline grow with the latent activation, which hovering over a token shows; "
        "the framed token is the one of the number in front. ↵ ⇥ and · mark white space."
    )
    maximum = known.profile.maximum
    quarter = maximum / (N_KINDS - 1)
    for kind in (0, *range(N_KINDS - 1, 0, -1)):
        group = [text for text in texts if text.example.kind == kind]
        if not group:
            continue
        title = (
            f"Strongest (n = {len(group)})"
            if kind == 0
            else f"From {(kind - 1) * quarter:.3g} to {kind * quarter:.3g} (n = {len(group)}, "
            "drawn at random)"
        )
        st.markdown(f"**{title}**")
        tinted = [
            TintedText(
                tokens,
                example.activations.tolist(),
                example.position - example.start,
            )
            for example, tokens in group
        ]
        st.html(examples_html(tinted, maximum))


def draw_own_text(sae_id: str, latent: int, maximum: float | None) -> None:
    """A form for a text; its tokens are tinted by the latent's activation.

    Args:
        maximum: the latent's largest activation on the corpus; None takes the text's own.
    """
    st.subheader("Try your own text", anchor=False)
    with st.form("latent_own_form", border=False):
        text = st.text_area("Text", key="latent_own_text", persist_state="session")
        asked = st.form_submit_button("Read it", icon=":material/visibility:")
    if asked:
        if not text.strip():
            st.error("There is no text to read; type some.", icon=":material/error:")
            return
        if said := too_long("The text", text, MAX_CHARACTERS):
            st.error(said, icon=":material/error:")
            return
        with st.spinner("Reading the text; the first time, the model is loaded …"):
            answer = engine().ask(LatentOnTextsQuestion(sae_id, latent, (text,)))
        st.session_state[_READING] = (sae_id, latent, answer.texts[0])
    kept = st.session_state.get(_READING)
    if kept is None or kept[:2] != (sae_id, latent):
        return
    read: LatentOnText = kept[2]
    most, n_tokens = max(read.activations), counted(len(read.tokens), "token")
    fired = sum(activation > 0 for activation in read.activations)
    st.html(text_html(TintedText(read.tokens, read.activations), max(most, maximum or 0.0)))
    if not fired:
        st.caption(f"It fires on none of the {n_tokens}.")
        return
    st.caption(
        f"It fires on {fired:,} of {n_tokens}; the largest activation is {most:.4g}, "
        f"on token {read.activations.index(most) + 1:,}"
        + (f", {most / maximum:.0%} of the corpus's maximum." if maximum else ".")
    )
