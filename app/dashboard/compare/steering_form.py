"""The controls of the Compare page: prompts, chosen latents, strength, method and sampling."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import streamlit as st

from app.dashboard.compare.compare_arms import (
    MAX_ARMS,
    OWN_NAMES,
    CompareArm,
    further_arms,
    main_arm,
    take_arm,
)
from app.dashboard.compare.method_fields import draw_method
from app.dashboard.fields.explained_columns import explained_columns
from app.dashboard.fields.record_fields import write_lines
from app.dashboard.fields.schedule_fields import draw_keep_norm, draw_sampling, draw_schedule
from app.dashboard.handles import engine
from app.dashboard.kept_work import keep, read_part
from app.dashboard.work import Work
from app.presentation.escaping import escape_markdown, promotes
from app.presentation.figures import counted
from app.presentation.glossary import explain
from app.presentation.sessions import MAX_PROMPTS, split_prompts
from app.presentation.token_change_html import MAX_TEXTS_WITH_CHANGES
from saif_core.errors import SaifError
from saif_core.inputs.shipped import shipped_contents
from saif_core.records.as_json import from_json, to_json
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.questions import LatentQuestion
from saif_core.records.ranking import MAX_COEFFICIENT
from saif_core.records.steering import (
    UNSTEERED,
    Arm,
    Edit,
    GenerationRequest,
    Sampling,
    Schedule,
)

PromptSource = Literal["one", "lines", "shipped"]
_SOURCES: dict[PromptSource, str] = {
    "one": "One prompt",
    "lines": "Several, one per line",
    "shipped": "Shipped contents",
}
MAX_DIAL, DIAL_STEP = 3.0, 0.05
MAX_PROMPT, MAX_LINES = 8000, 64_000
# Of so many latents is asked what they promote, if no ranking says so.
_MOST_ASKED = 50
# Streamlit forgets widgets of a page that is left; the form outlives them under this key.
_KEY = "compare_form"


@dataclass
class SteeringForm:
    """What is set on the Compare page, kept while other pages are visited.

    Attributes:
        first_shipped: number of the first shipped content, counted from 1.
        method, method_parameters, keep_norm, schedule: of the steered arm.
        arms: arms beside unsteered and steered.
    """

    source: PromptSource = "one"
    prompt: str = ""
    lines: str = ""
    first_shipped: int = 1
    n_shipped: int = 4
    method: str = "addition"
    method_parameters: dict[str, Any] = field(default_factory=dict)
    keep_norm: bool = False
    schedule: Schedule = field(default_factory=Schedule)
    # Greedy texts of a small model loop, steered or not; what is measured is sampled like this.
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.5))
    arms: list[CompareArm] = field(default_factory=list)

    def prompts(self) -> tuple[str, ...]:
        """The prompts to answer, at most ``MAX_PROMPTS``."""
        if self.source == "one":
            return (self.prompt.strip(),) if self.prompt.strip() else ()
        if self.source == "lines":
            return split_prompts(self.lines)[:MAX_PROMPTS]
        start = self.first_shipped - 1
        return tuple(shipped_contents()[start : start + self.n_shipped])

    def set_prompts(self, prompts: tuple[str, ...]) -> None:
        """Show these prompts in the form."""
        # A prompt of several lines cannot stand in a list of one prompt per line.
        if len(prompts) == 1:
            self.source, self.prompt = "one", prompts[0]
        elif prompts:
            self.source = "lines"
            self.lines = "\n".join(" ".join(prompt.split()) for prompt in prompts)

    def length_problem(self) -> str:
        """Why the prompts are too long to be taken, as a sentence; "" if they are not.

        The fields take any length: one that stops a longer text would swallow it without a word.
        """
        longest = max(map(len, self.prompts()), default=0)
        if self.source == "lines" and len(self.lines) > MAX_LINES:
            return _too_long("The list of prompts", len(self.lines), MAX_LINES)
        if longest > MAX_PROMPT:
            return _too_long("A prompt", longest, MAX_PROMPT)
        return ""

    def arm_names(self) -> list[str]:
        """Names of all arms."""
        return [*OWN_NAMES, *(one.arm.name for one in self.arms)]

    def steered(self, work: Work, layer: int) -> Arm:
        """The arm of the basket and the dial; without edits while the basket is empty.

        Args:
            layer: block of the SAE in hand.
        """
        edit = Edit(
            layer,
            self.method,
            dict(self.method_parameters),
            work.sae_id,
            work.basket_latents(),
            keep_norm=self.keep_norm,
        )
        edits = (edit,) if edit.latents else ()
        return Arm("steered", edits=edits, strength=work.strength, schedule=self.schedule)

    def request(self, work: Work, layer: int) -> GenerationRequest:
        """The request that the form and the work in hand describe.

        Args:
            layer: block of the SAE in hand.
        """
        steered = self.steered(work, layer)
        own = (UNSTEERED, steered) if steered.edits else (UNSTEERED,)
        greedy = self.sampling.temperature == 0
        request = GenerationRequest(
            prompts=self.prompts(),
            arms=(*own, *(one.now(work, steered) for one in self.arms)),
            # Samples that nothing is drawn for would all be one text.
            sampling=replace(self.sampling, samples=1) if greedy else self.sampling,
            instruction=work.instruction,
        )
        return replace(request, divergence=request.n_texts <= MAX_TEXTS_WITH_CHANGES)

    def take(self, request: GenerationRequest) -> None:
        """Set the form as a request says; latents and strength belong to the work in hand."""
        self.set_prompts(request.prompts)
        if request.histories and request.histories[0]:
            # A chat is begun again with the message that began it.
            self.set_prompts((request.histories[0][0].text,))
        self.sampling = request.sampling
        main = main_arm(request.arms)
        if main is not None:
            (edit,) = main.edits
            self.method, self.method_parameters = edit.method, dict(edit.method_parameters)
            self.keep_norm, self.schedule = edit.keep_norm, main.schedule
        self.arms = further_arms(request.arms, main)

    def add(self, arms: Sequence[Arm]) -> None:
        """Add arms in place of those of their names; the oldest go where there is no room."""
        for arm in arms:
            self.arms = [one for one in self.arms if one.arm.name != arm.name]
            self.arms.append(take_arm(arm, self.arm_names()))
        self.arms = self.arms[-(MAX_ARMS - len(OWN_NAMES)) :]

    def settings(self) -> "SteeringForm":
        """How the form steers and samples, without prompts and arms."""
        return replace(self, prompt="", lines="", source="one", arms=[])

    def take_settings(self, other: "SteeringForm") -> None:
        """Steer and sample as another form does."""
        self.method, self.method_parameters = other.method, dict(other.method_parameters)
        self.keep_norm, self.schedule, self.sampling = (
            other.keep_norm,
            other.schedule,
            other.sampling,
        )

    def steer_like(self, request: EvaluationRequest) -> None:
        """Steer and sample as an evaluation did; the prompts, the seed and other arms stay."""
        self.schedule, self.keep_norm = request.schedule, request.keep_norm
        self.sampling = replace(request.sampling, seed=self.sampling.seed)
        self.method, self.method_parameters = "addition", {}


def _too_long(what: str, length: int, most: int) -> str:
    return (
        f"{what} has {length:,} characters, but at most {most:,} are taken; shorten it by "
        f"{length - most:,}."
    )


def steering_form() -> SteeringForm:
    """The form of this browser session, as it was kept; its first prompt is a shipped content."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = read_part(
            "compare", lambda part: from_json(SteeringForm, part), _first_form()
        )
    form: SteeringForm = st.session_state[_KEY]
    return form


def draw_undo(work: Work, form: SteeringForm) -> None:
    """Draw the button that brings back the basket that was emptied or replaced last."""
    earlier = work.earlier
    if earlier is None or (earlier.sae_id == work.sae_id and earlier.latents == work.basket):
        return
    st.button(
        f"Undo: the earlier basket ({counted(len(earlier.latents), 'latent')})",
        key="compare_undo",
        icon=":material/undo:",
        type="tertiary",
        on_click=_undo,
        args=(work, form),
        help="Brings back its latents, its strength, and how they were written.",
    )


def _undo(work: Work, form: SteeringForm) -> None:
    before: SteeringForm | None = work.earlier.settings if work.earlier else None
    work.undo()
    if before is None:
        return
    form.take_settings(before)
    # The fields are drawn already, and show what is put under their keys.
    shown: dict[str, Any] = {"method": form.method, "keep_norm": form.keep_norm}
    for record in (form.schedule, form.sampling):
        shown |= {one.name: getattr(record, one.name) for one in fields(record)}
    shown["stop"] = write_lines(form.sampling.stop)
    for name, value in shown.items():
        st.session_state[f"compare_{name}"] = value


def keep_form(form: SteeringForm) -> None:
    """Have the form survive a reload."""
    changed = form != _first_form()
    with contextlib.suppress(ValueError):  # a number that no JSON has is refused elsewhere
        keep("compare", to_json(form) if changed else None)


def _first_form() -> SteeringForm:
    return SteeringForm(prompt=shipped_contents()[0])


def draw_prompts(form: SteeringForm) -> None:
    """Draw the prompt box, the list of prompts or the choice of shipped contents."""
    source = st.segmented_control(
        "Prompts",
        get_args(PromptSource),
        default=form.source,
        required=True,
        format_func=lambda option: _SOURCES[option],
        key="compare_source",
    )
    form.source = source or "one"
    if form.source == "one":
        form.prompt = (
            st.text_area(
                "Prompt, without the instruction",
                form.prompt,
                height=68,
                key="compare_prompt",
                help=explain("instruction", "Steering is to do what it would have done."),
            )
            or ""
        )
    elif form.source == "lines":
        form.lines = (
            st.text_area(
                f"Prompts, one per line (at most {MAX_PROMPTS})",
                form.lines,
                height=160,
                key="compare_lines",
            )
            or ""
        )
        n_lines = len(split_prompts(form.lines))
        if n_lines > MAX_PROMPTS:
            st.caption(f"{n_lines} prompts given; the first {MAX_PROMPTS} are used.")
    else:
        _draw_shipped(form)
    if problem := form.length_problem():
        st.error(escape_markdown(problem), icon=":material/error:")


def _draw_shipped(form: SteeringForm) -> None:
    total = len(shipped_contents())
    first, count = st.columns(2)
    form.first_shipped = int(
        first.number_input(
            f"First content (of {total})",
            1,
            total,
            min(form.first_shipped, total),
            key="compare_first_shipped",
            help=explain("content"),
        )
    )
    form.n_shipped = int(
        count.number_input("How many", 1, MAX_PROMPTS, form.n_shipped, key="compare_n_shipped")
    )
    for prompt in form.prompts():
        st.text(prompt)


def draw_basket(work: Work) -> bool:
    """Draw the chosen latents as a table to edit and delete from; whether the basket changed."""
    state = st.session_state
    key = f"compare_basket_{state.get('compare_basket_version', 0)}"
    # The editor keeps edits relative to the table it was first given, so it gets a new identity
    # whenever the basket was changed elsewhere and the same table as long as it was not.
    seen = list(work.basket.items()), _promoted(work)
    if key not in state or state.get("compare_basket_seen") != seen:
        state["compare_basket_version"] = state.get("compare_basket_version", 0) + 1
        key = f"compare_basket_{state['compare_basket_version']}"
        table: dict[str, list[Any]] = {
            "latent": list(work.basket),
            "coefficient": list(work.basket.values()),
        }
        if seen[1]:
            table["promotes"] = [promotes(seen[1].get(index, ())) for index in work.basket]
        state["compare_basket_table"] = table
    column = st.column_config
    edited = st.data_editor(
        state["compare_basket_table"],
        key=key,
        hide_index=True,
        num_rows="delete",
        disabled=["latent", "promotes"],
        column_config=explained_columns(
            state["compare_basket_table"],
            {
                "latent": column.NumberColumn("latent", format="%d", width="small"),
                "coefficient": column.NumberColumn(
                    "coefficient",
                    help="It is the latent's mean on instructed prompts unless you change it.",
                    format="%.3f",
                    required=True,
                    min_value=-MAX_COEFFICIENT,
                    max_value=MAX_COEFFICIENT,
                ),
            },
        ),
        alt="Chosen latents with their coefficients",
    )
    kept = {
        int(latent): float(value)
        for latent, value in zip(edited["latent"], edited["coefficient"], strict=True)
        if value is not None and abs(value) <= MAX_COEFFICIENT
    }
    edited_now = list(kept.items()) != list(work.basket.items())
    if edited_now:
        work.set_basket(kept)
    state["compare_basket_seen"] = list(work.basket.items()), seen[1]
    return edited_now


def _promoted(work: Work) -> dict[int, tuple[str, ...]]:
    """The tokens that the latents of the basket promote, as far as they are known by now."""
    scores = work.ranking.latents if work.ranking else ()
    ranked = {score.index: score.top_tokens for score in scores if score.index in work.basket}
    known: dict[int, tuple[str, ...]] = st.session_state.setdefault(
        f"compare_promoted_{work.sae_id}", {}
    )
    missing = [index for index in work.basket if index not in ranked and index not in known]
    status = engine().status()
    if missing and status.model_loaded and not status.running:
        for index in missing[:_MOST_ASKED]:
            known[index] = ()
            with contextlib.suppress(SaifError):
                found = engine().ask(LatentQuestion(work.sae_id, index))
                known[index] = tuple(token for token, _ in found.promoted)
    found = {index: known.get(index, ()) for index in work.basket} | ranked
    return found if any(found.values()) else {}


def dial_range(work: Work) -> tuple[float, float]:
    """Ends of the dial; a strength beyond its usual range, from a link or session, widens it."""
    return min(0.0, work.strength), max(MAX_DIAL, work.strength)


def draw_strength(work: Work) -> None:
    """Draw the one dial."""
    state = st.session_state
    if state.get("compare_strength_seen") != work.strength:
        state["compare_strength"] = work.strength
    work.strength = float(
        st.slider(
            "Strength: 1 is as strong as on instructed prompts",
            *dial_range(work),
            None if "compare_strength" in state else work.strength,
            DIAL_STEP,
            key="compare_strength",
            help=explain("strength"),
        )
    )
    state["compare_strength_seen"] = work.strength


def draw_settings(form: SteeringForm) -> None:
    """Draw how the vector is applied and how the texts are sampled."""
    left, right = st.columns(2)
    with left:
        form.method, form.method_parameters = draw_method(
            form.method, form.method_parameters, key="compare", with_latents=True
        )
        form.schedule = draw_schedule(form.schedule, key="compare")
        form.keep_norm = draw_keep_norm(form.keep_norm, key="compare")
    with right:
        form.sampling = draw_sampling(form.sampling, key="compare")
