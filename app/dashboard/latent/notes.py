"""What methods and people say of a latent: descriptions, labels, notes and stars."""

from functools import partial

import streamlit as st

from app.dashboard.handles import engine, store
from app.dashboard.jobs.job_progress import draw_progress, submit_once
from app.dashboard.latent.evidence import KnownLatent
from app.dashboard.messages import shown
from app.presentation.escaping import escape_markdown
from app.presentation.figures import counted, moment_words
from app.presentation.latents import ExampleText, evidence_of, other_latents
from app.settings import load_settings
from saif_core.records.descriptions import Evidence
from saif_core.records.latents import TokenChange
from saif_core.records.notes import LatentDescription, LatentNote, NoteKind
from saif_core.records.questions import DescribeRequest, TokenChangeQuestion
from saif_core.records.ranking import ChosenLatent

_CHANGE = "latent_token_change"
_CLEAR_FORM = "latent_note_clear"


def draw_descriptions(
    known: KnownLatent,
    texts: list[ExampleText],
    promoted: list[str],
    suppressed: list[str],
) -> None:
    """Evidence, what more can be asked for, and every stored description with its scores."""
    from saif_core.explaining.descriptions import evidence_description

    st.subheader("Descriptions", anchor=False)
    evidence = evidence_of(promoted, suppressed, texts, _kept_change(known))
    in_words = evidence_description(evidence)
    if in_words:
        st.markdown(escape_markdown(in_words))
        st.caption("Evidence alone: no language model wrote this line.")
    _draw_token_change(known)
    _draw_describing(known, evidence)
    for description in store().notes.descriptions(known.index.sae_sha256, known.latent):
        _draw_description(description)


def _kept_change(known: KnownLatent) -> TokenChange | None:
    kept = st.session_state.get(_CHANGE)
    return kept[1] if kept and kept[0] == (known.index.id, known.latent) else None


def _draw_token_change(known: KnownLatent) -> None:
    value = known.profile.quantiles[-1]
    contexts = [example.context for example in known.profile.examples if example.kind == 0]
    if not contexts:
        return
    if st.button(
        "Measure which tokens it makes likelier",
        key="latent_token_change_ask",
        icon=":material/science:",
        help=f"Sets it to {value:.3g}, its 99% quantile, on every token of "
        f"{counted(len(contexts), 'context')} and reads the logits: what the blocks above make of "
        "it, which its decoder direction does not say.",
    ):
        _measure_change(known, contexts, value)
        # The evidence above this button takes the measurement in.
        st.rerun()
    change = _kept_change(known)
    if change is None:
        return
    for name, tokens in (("likelier", change.promoted), ("less likely", change.suppressed)):
        listed = ", ".join(f"{token.strip()} {logit:+z.2f}" for token, logit in tokens)
        st.markdown(f"{name}: {escape_markdown(listed)}")
    st.caption(
        f"Mean change of the logit at activation {value:.3g}, over "
        f"{counted(change.n_tokens, 'token')} of {counted(len(contexts), 'context')}."
    )


def _measure_change(known: KnownLatent, contexts: list[int], value: float) -> None:
    read = store().profiles.contexts(known.index.id, contexts)
    sequences = tuple(tuple(token_ids.tolist()) for token_ids in read.values())
    question = TokenChangeQuestion(known.sae_id, known.latent, value, sequences)
    with st.spinner("Measuring; the first time, the model is loaded …"):
        change = engine().ask(question)
    st.session_state[_CHANGE] = ((known.index.id, known.latent), change)


def _draw_describing(known: KnownLatent, evidence: Evidence) -> None:
    settings = load_settings()
    if not settings.llm_url:
        st.caption(
            "A language model can write a description: set SAIF_LLM_URL and SAIF_LLM_MODEL to an "
            "OpenAI-compatible endpoint, and restart."
        )
        return
    job = engine().newest("describe", partial(_describes, known))
    if job is not None and not job.finished():
        draw_progress(job, "latent_describe", stops="It stops when the endpoint has answered.")
        return
    if st.button(
        f"Describe with {escape_markdown(settings.llm_model)}",
        key="latent_describe",
        icon=":material/edit_note:",
        help="Sends tokens and examples of this latent to the endpoint, then tests the "
        "description: on sentences that it writes, and on texts steered with the latent.",
    ):
        with shown():
            _start(known, evidence)
            st.rerun()
    if job is not None and job.error is not None:
        st.error(escape_markdown(job.record.error), icon=":material/error:")


def _describes(known: KnownLatent, request: DescribeRequest) -> bool:
    of = request.sae_sha256, request.chosen.index
    return of == (known.index.sae_sha256, known.latent)


def _start(known: KnownLatent, evidence: Evidence) -> None:
    from saif_core.models.language_endpoint import LanguageEndpoint

    settings = load_settings()
    # An engine whose endpoint cannot be used has none, and could not say why.
    LanguageEndpoint(settings.llm_url, settings.llm_model, settings.llm_key)
    request = DescribeRequest(
        known.sae_id,
        known.index.sae_sha256,
        ChosenLatent(known.latent, known.profile.maximum or 1.0),
        evidence,
        other_latents(store(), known.index, known.latent),
    )
    submit_once(request, partial(_describes, known))


def _draw_description(description: LatentDescription) -> None:
    st.markdown(f"**{escape_markdown(description.text)}**")
    facts = [escape_markdown(description.method)]
    if description.model:
        facts.append(escape_markdown(description.model))
    facts.append(escape_markdown(moment_words(description.created_at)))
    if description.input_score is not None:
        facts.append(
            f"input score {description.input_score:.2f} (AUC over sentences; chance is 0.5)"
        )
    if description.output_score is not None:
        facts.append(
            f"output score {description.output_score:.2f} (share of judged trials; chance is 0.33)"
        )
    st.caption(" · ".join(facts))
    if description.prompt:
        with st.expander("What the model was told, and the evidence", icon=":material/notes:"):
            st.text(description.prompt)
            st.json(description.evidence, expanded=1)


def draw_notes(sae_sha256: str, latent: int, notes: list[LatentNote]) -> None:
    """Labels and notes with author and time, and a form for another."""
    st.subheader("Labels and notes", anchor=False)
    if st.session_state.pop(_CLEAR_FORM, False):
        st.session_state["latent_note_text"] = ""
    with st.form("latent_note_form", border=False):
        kinds: list[NoteKind] = ["label", "note"]
        kind = st.radio("Add a", kinds, key="latent_note_kind", horizontal=True)
        text = st.text_area("Text", key="latent_note_text", height=68)
        st.text_input("Your name", key="latent_note_author", persist_state="session", width=240)
        added = st.form_submit_button("Save", icon=":material/check:")
    author = _author()
    if added:
        with shown():
            store().notes.add(sae_sha256, latent, kind or "note", text, author)
            st.session_state[_CLEAR_FORM] = True
            st.rerun()
    said = [note for note in notes if note.kind != "star"]
    if not said:
        st.caption("Nobody has labelled this latent or written a note yet.")
    for note in said:
        _draw_note(note, author)


def draw_star(sae_sha256: str, latent: int, notes: list[LatentNote]) -> None:
    """Star a latent under the name that the notes are signed with, or take the star back."""
    author = _author()
    stars = [note for note in notes if note.kind == "star"]
    mine = any(star.author == author for star in stars)
    st.button(
        f"{'Starred' if mine else 'Star'}{f' · {len(stars):,}' if stars else ''}",
        key="latent_star",
        icon=":material/star:",
        help="Takes your star back." if mine else "The list of latents can show starred ones only.",
        on_click=_star,
        args=(sae_sha256, latent),
    )


def _star(sae_sha256: str, latent: int) -> None:
    with shown():
        store().notes.add(sae_sha256, latent, "star", author=_author())


def _author() -> str:
    return str(st.session_state.get("latent_note_author") or "").strip()


def _draw_note(note: LatentNote, author: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        with st.container():
            if note.kind == "label":
                st.markdown(f"**{escape_markdown(note.text)}**")
            else:
                st.text(note.text)
            by = escape_markdown(note.author or "anonymous")
            source = f" · from {escape_markdown(note.source)}" if note.source else ""
            st.caption(
                f"{note.kind} · {by}{source} · {escape_markdown(moment_words(note.created_at))}"
            )
        if note.author == author and not note.source:
            st.button(
                "Remove",
                key=f"latent_note_remove_{note.id}",
                icon=":material/delete:",
                type="tertiary",
                on_click=_remove,
                args=(note.id,),
            )


def _remove(note_id: str) -> None:
    with shown():
        store().notes.remove(note_id)
