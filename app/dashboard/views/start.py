"""Page 0: what SAIF is, a box to begin with, and a finished example."""

import streamlit as st

from app.dashboard.compare.open_session import OPENED, RUN, open_in_compare, take_up
from app.dashboard.compare.recipes import draw_recipe, recipe_for
from app.dashboard.compare.steering_form import steering_form
from app.dashboard.frame import check_sae
from app.dashboard.handles import engine, store
from app.dashboard.instructions.ranking_form import DEFAULT_SELECTOR
from app.dashboard.instructions.typed import (
    choose_instruction,
    draw_box,
    draw_judge,
    keep_typed,
    typed,
    typed_of,
)
from app.dashboard.messages import shown
from app.dashboard.scrolling import want_in_view
from app.dashboard.work import open_page, work
from app.installation import take_in_recipe
from app.presentation.arms import describe_arm
from app.presentation.escaping import escape_markdown
from app.presentation.text_diff import plain_html
from app.presentation.texts import judgement_line
from saif_core.errors import SaeMismatchError, UnknownNameError
from saif_core.inputs.prompt_pairs import make_pairs
from saif_core.inputs.shipped import shipped_contents, shipped_example, shipped_instructions
from saif_core.judging.judgements import judge_generations
from saif_core.records.prompts import Instruction
from saif_core.records.ranking import RankingRequest
from saif_core.records.saes import layers_of
from saif_core.records.sessions import SteeringSession
from saif_core.records.steering import Arm
from saif_core.records.texts import Generation, Judgement
from saif_core.registry import SELECTORS

SENTENCE = (
    "SAIF finds what switches on inside a language model when it is given an instruction, and "
    "turns it up and down while the model answers."
)
N_CONTENTS, MAX_PROMPT = 8, 2000
FLOW = (
    ("views/instructions.py", "find", ":material/edit_note:"),
    ("views/latents.py", "understand", ":material/scatter_plot:"),
    ("views/compare.py", "steer", ":material/compare:"),
    ("views/evaluate.py", "measure", ":material/monitoring:"),
    ("views/sessions.py", "share", ":material/folder_open:"),
)
# What each arm is, for somebody who meets it for the first time.
_ARMS = {
    "unsteered": "the model as it is",
    "steered": "the instruction's latents turned up",
    "prompted": "told the instruction in words",
    "random": "as much in a random direction",
}
_ICONS = {"strict": "check_circle", "loose": "check", "none": "cancel", None: "help"}


def draw_page() -> None:
    """The sentence, the box, the example and the way through the pages."""
    st.title("What should the model do?")
    st.markdown(SENTENCE)
    _draw_begin()
    with shown():
        example = shipped_example()
        if example is not None:
            _draw_example(example)
    with st.container(horizontal=True, vertical_alignment="center", key="start_flow"):
        for page, word, icon in FLOW:
            st.page_link(page, label=word, icon=icon)


def _draw_begin() -> None:
    box, judge = st.columns([3, 2])
    with box:
        draw_box("start", label="Say it in words, one wording a line", height=92)
    instruction = _shipped()
    recipe = recipe_for(instruction)
    with judge:
        draw_judge("start")
        clicked = st.button(
            "Find what carries it",
            key="start_find",
            # One next step stands out: what is measured already needs no search.
            type="secondary" if recipe else "primary",
            icon=":material/search:",
            width="stretch",
        )
    _draw_shipped()
    if recipe is not None and instruction is not None:
        with shown():
            draw_recipe(recipe, instruction, "start")
    if clicked:
        with shown():
            _find()
    if work().job_id:
        st.page_link(
            "views/instructions.py",
            label=f"Go on with {escape_markdown(work().instruction)}",
            icon=":material/history:",
        )


def _shipped() -> Instruction | None:
    """The shipped instruction that is typed or chosen; None for one of a person's own."""
    return next((one for one in shipped_instructions().values() if typed() == typed_of(one)), None)


def _draw_shipped() -> None:
    def take() -> None:
        chosen = shipped_instructions().get(st.session_state["start_shipped"] or "")
        if chosen is not None:
            keep_typed(typed_of(chosen), "start")

    st.pills(
        "Or one of these",
        list(shipped_instructions()),
        format_func=lambda name: name.replace("-", " "),
        key="start_shipped",
        on_change=take,
        label_visibility="collapsed",
    )


def _find() -> None:
    """Rank the latents of what is typed, and go to the page that shows it.

    Raises:
        SaifError: it makes no instruction, or there is no SAE to rank with.
    """
    instruction = typed().instruction()
    check_sae()
    if not work().sae_id:
        raise SaeMismatchError(
            f"No SAE is offered for {engine().model_id}, and latents are those of an SAE; name one "
            "in SAIF_SAES and restart."
        )
    contents = shipped_contents()
    pairs = make_pairs(
        instruction,
        contents,
        n_contents=min(N_CONTENTS, len(contents)),
        # Whatever language they are in; of a shipped instruction these are the English ones.
        wordings=typed().wordings,
    )
    choose_instruction(instruction)
    is_shipped = instruction.name in shipped_instructions()
    # The next page shows what is being ranked, whatever was chosen on it before.
    st.session_state["source"] = "instruction" if is_shipped else "typed"
    # Written out, so that the next page knows its own settings again.
    values = SELECTORS.check(DEFAULT_SELECTOR, {})
    request = RankingRequest(
        work().sae_id,
        instruction.name,
        pairs,
        selector=DEFAULT_SELECTOR,
        selector_parameters=values,
    )
    work().attach(engine().submit(request).id)
    open_page("views/instructions.py")


def _draw_example(example: SteeringSession) -> None:
    request, result = example.request, example.result
    if request is None or result is None:
        return
    texts = [text for text in result.generations if text.prompt_index == 0]
    with st.container(border=True, key="start_example"):
        wording = example.instruction.wordings[0].text if example.instruction else ""
        st.markdown(
            f"**A finished example**: what “{escape_markdown(wording)}” switches on, turned up on "
            f"the bare prompt “{escape_markdown(texts[0].prompt)}”"
        )
        judged = _judged(example)
        arms = {arm.name: arm for arm in request.arms}
        for column, text in zip(st.columns(len(texts)), texts, strict=True):
            with column:
                _draw_text(text, arms[text.arm], judged[text])
        _draw_actions(example)


def _draw_text(text: Generation, arm: Arm, judgement: Judgement) -> None:
    st.markdown(
        f"**{escape_markdown(arm.name)}**  \n:small[{_ARMS.get(arm.kind, '')}]",
        help=escape_markdown(describe_arm(arm)),
    )
    st.html(plain_html(text.text))
    st.caption(f":material/{_ICONS[judgement.grade]}: {judgement_line(judgement)}")


def _draw_actions(example: SteeringSession) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        prompt = st.text_input(
            "Another prompt",
            key="start_prompt",
            max_chars=MAX_PROMPT,
            placeholder="My sister swims four kilometres every Tuesday.",
            label_visibility="collapsed",
            persist_state="session",
        )
        tried = st.button(
            "Try it on my prompt",
            key="start_try",
            icon=":material/play_arrow:",
            help="Answers it with the same latents and the same arms, on the Compare page.",
        )
        opened = st.button(
            "Open it",
            key="start_open",
            icon=":material/open_in_new:",
            help="Shows all its texts with everything that they were made with; the model is not "
            "needed for that.",
        )
    st.caption(_made_with(example))
    if opened:
        _keep(example)
        want_in_view("compare_results")
        open_in_compare(example)
    if tried:
        with shown():
            _try(example, " ".join((prompt or "").split()))


def _made_with(example: SteeringSession) -> str:
    """What the example was made with, as escaped Markdown."""
    request = example.request
    steered = request.steered[0] if request else None
    if request is None or steered is None or example.recipe is None:
        return ""
    model = escape_markdown(example.recipe.model)
    return (
        f"{len(steered.edits[0].latents)} latents of layer {steered.edits[0].layer} at strength "
        f"{steered.strength:g} · {model} · one of {len(request.prompts)} prompts, chosen as they "
        "read well: how often it works is what Evaluate measures"
    )


def _try(example: SteeringSession, prompt: str) -> None:
    """Go to Compare with the example's latents, and have a prompt answered there.

    Raises:
        SaeMismatchError: the SAE of the example is not offered here.
    """
    offered = layers_of(engine().saes())
    request = example.request
    sae_id = request.steered[0].edits[0].sae_id if request else ""
    if sae_id not in offered:
        raise SaeMismatchError(
            f"The example steers with latents of {sae_id}, which is not offered for "
            f"{engine().model_id}; find what carries your own instruction instead."
        )
    form = steering_form()
    _take_in(example)
    take_up(example, work(), form)
    form.set_prompts((prompt or "My sister swims four kilometres every Tuesday.",))
    st.session_state[OPENED] = None
    job = engine().submit(form.request(work(), offered[sae_id]))
    st.session_state[RUN] = job.id
    want_in_view("compare_results")
    open_page("views/compare.py", run=job.id)


def _take_in(example: SteeringSession) -> None:
    """Have what the example steers with at hand."""
    recipe = recipe_for(example.instruction)
    if recipe is not None:
        take_in_recipe(store(), recipe)


def _keep(example: SteeringSession) -> None:
    """Have the example among the sessions, so that its address can be opened again."""
    _take_in(example)
    try:
        store().sessions.get(example.id)
    except UnknownNameError:
        store().sessions.save(example)


@st.cache_data(show_spinner=False)
def _grades(name: str) -> list[Judgement]:  # noqa: ARG001
    example = shipped_example()
    if example is None or example.result is None or example.instruction is None:
        return []
    arms = example.result.request.arms
    return judge_generations(example.instruction, arms, example.result.generations)


def _judged(example: SteeringSession) -> dict[Generation, Judgement]:
    generations = example.result.generations if example.result else ()
    return dict(zip(generations, _grades(example.updated_at), strict=True))


draw_page()
