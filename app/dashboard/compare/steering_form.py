"""The controls of the Compare page: prompts, chosen latents, strength, method and sampling."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import streamlit as st

from app.dashboard.compare.lab_arms import MAX_ARMS, MAX_SAMPLES, LabArm
from app.dashboard.fields.parameter_fields import draw_parameters
from app.dashboard.fields.schedule_fields import Schedule, draw_schedule
from app.dashboard.work import Work
from app.presentation.escaping import escape_markdown
from app.presentation.sessions import MAX_PROMPTS, chosen_table, split_prompts
from app.presentation.token_change_html import MAX_TEXTS_WITH_CHANGES
from saif_core.inputs.shipped import shipped_contents
from saif_core.records.evaluation import EvaluationRequest
from saif_core.records.steering import GenerationRequest
from saif_core.registry import STEERING_METHODS

PromptSource = Literal["one", "lines", "shipped"]
_SOURCES: dict[PromptSource, str] = {
    "one": "One prompt",
    "lines": "Several, one per line",
    "shipped": "Shipped contents",
}
MAX_DIAL, DIAL_STEP = 3.0, 0.05
MAX_TOKENS = 512
# Streamlit forgets widgets of a page that is left; the form outlives them under this key.
_KEY = "compare_form"


@dataclass
class SteeringForm:
    """What is set on the Compare page, kept while other pages are visited.

    Attributes:
        first_shipped: number of the first shipped content, counted from 1.
        schedule: of the steered arm.
        temperature, samples: used when ``sampled``.
        arms: arms beside unsteered and steered.
    """

    source: PromptSource = "one"
    prompt: str = ""
    lines: str = ""
    first_shipped: int = 1
    n_shipped: int = 4
    method: str = "addition"
    method_parameters: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    chat: bool = True
    max_new_tokens: int = 48
    sampled: bool = False
    temperature: float = 0.7
    seed: int = 0
    samples: int = 1
    arms: list[LabArm] = field(default_factory=list)

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

    def arm_names(self) -> list[str]:
        """Names of all arms."""
        return ["unsteered", "steered", *(lab.arm.name for lab in self.arms)]

    def request(self, work: Work) -> GenerationRequest:
        """The request that the form and the work in hand describe."""
        ranking = work.ranking
        request = GenerationRequest(
            sae_id=work.sae_id,
            prompts=self.prompts(),
            latents=work.basket_latents(),
            strength=work.strength,
            method=self.method,
            method_parameters=dict(self.method_parameters),
            **asdict(self.schedule),
            chat=self.chat,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature if self.sampled else 0.0,
            seed=self.seed,
            samples=self.samples if self.sampled else 1,
            instruction=work.instruction,
            read=ranking.read if ranking else "",
            selector=ranking.selector if ranking else "",
        )
        steered = request.all_arms[1]
        request = replace(request, arms=tuple(lab.now(work, steered) for lab in self.arms))
        return replace(request, divergence=request.n_texts <= MAX_TEXTS_WITH_CHANGES)

    def take(self, request: GenerationRequest, arms: list[LabArm]) -> None:
        """Set the form as a request says; latents and strength belong to the work in hand.

        Args:
            arms: its further arms.
        """
        self.set_prompts(request.prompts)
        if request.histories and request.histories[0]:
            # A chat is begun again with the message that began it.
            self.set_prompts((request.histories[0][0].text,))
        self.method, self.method_parameters = request.method, dict(request.method_parameters)
        self.schedule = Schedule.of(request)
        self.chat, self.seed = request.chat, request.seed
        self.max_new_tokens = request.max_new_tokens
        self.sampled = request.temperature > 0
        self.samples = min(max(request.samples, 1), MAX_SAMPLES)
        if self.sampled:
            self.temperature = request.temperature
        self.arms = arms

    def add(self, lab: LabArm) -> None:
        """Add an arm in place of one of its name; the oldest goes where there is no room."""
        others = [one for one in self.arms if one.arm.name != lab.arm.name]
        self.arms = [*others, lab][-(MAX_ARMS - 2) :]

    def steer_like(self, request: EvaluationRequest) -> None:
        """Steer and sample as an evaluation did; the prompts and the other arms stay."""
        self.schedule, self.chat = Schedule.of(request), request.chat
        self.max_new_tokens = request.max_new_tokens
        self.method, self.method_parameters = "addition", {}
        self.sampled = request.temperature > 0
        if self.sampled:
            self.temperature = request.temperature


def steering_form() -> SteeringForm:
    """The form of this browser session; its first prompt is a shipped content."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = SteeringForm(prompt=shipped_contents()[0])
    form: SteeringForm = st.session_state[_KEY]
    return form


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
                height=100,
                max_chars=8000,
                key="compare_prompt",
            )
            or ""
        )
    elif form.source == "lines":
        form.lines = (
            st.text_area(
                f"Prompts, one per line (at most {MAX_PROMPTS})",
                form.lines,
                height=160,
                max_chars=64000,
                key="compare_lines",
            )
            or ""
        )
        n_lines = len(split_prompts(form.lines))
        if n_lines > MAX_PROMPTS:
            st.caption(f"{n_lines} prompts given; the first {MAX_PROMPTS} are used.")
    else:
        _draw_shipped(form)


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
    if key not in state or state.get("compare_basket_seen") != list(work.basket.items()):
        state["compare_basket_version"] = state.get("compare_basket_version", 0) + 1
        key = f"compare_basket_{state['compare_basket_version']}"
        table = chosen_table(work.basket_latents(), work.ranking)
        state["compare_basket_table"] = {
            name: table[name] for name in ("latent", "coefficient", "promotes") if name in table
        }
    column = st.column_config
    edited = st.data_editor(
        state["compare_basket_table"],
        key=key,
        hide_index=True,
        num_rows="delete",
        disabled=["latent", "promotes"],
        column_config={
            "latent": column.NumberColumn("latent", format="%d", width="small"),
            "coefficient": column.NumberColumn(
                "coefficient",
                help="Activation of the latent at strength 1; its mean on instructed prompts "
                "unless you change it.",
                format="%.3f",
                required=True,
            ),
            "promotes": column.TextColumn("promotes"),
        },
        alt="Chosen latents with their coefficients",
    )
    kept = {
        int(latent): float(value)
        for latent, value in zip(edited["latent"], edited["coefficient"], strict=True)
        if value is not None and math.isfinite(value)
    }
    edited_now = list(kept.items()) != list(work.basket.items())
    if edited_now:
        work.clear()
        for index, coefficient in kept.items():
            work.add_latent(index, coefficient)
    state["compare_basket_seen"] = list(work.basket.items())
    return edited_now


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
        )
    )
    state["compare_strength_seen"] = work.strength


def draw_settings(form: SteeringForm) -> None:
    """Draw how the vector is applied and how the texts are sampled."""
    left, right = st.columns(2)
    with left:
        _draw_method(form)
        form.schedule = draw_schedule(form.schedule, key="compare")
        form.chat = st.toggle(
            "Prompts go through the chat template",
            form.chat,
            key="compare_chat",
            help="Off: the model continues the prompt as raw text.",
        )
    with right:
        form.max_new_tokens = int(
            st.number_input(
                "Tokens at most",
                1,
                max(MAX_TOKENS, form.max_new_tokens),
                form.max_new_tokens,
                key="compare_max_new_tokens",
            )
        )
        form.sampled = (
            st.selectbox(
                "Sampling",
                ["greedy", "sampled"],
                index=int(form.sampled),
                key="compare_sampling",
                help="All arms share their random draws, so they differ by steering alone.",
            )
            == "sampled"
        )
        if form.sampled:
            form.temperature = float(
                st.number_input(
                    "Temperature", 0.05, 5.0, form.temperature, 0.05, key="compare_temperature"
                )
            )
            form.seed = int(st.number_input("Seed", 0, 2**31 - 1, form.seed, key="compare_seed"))
            form.samples = int(
                st.number_input(
                    "Samples of each text", 1, MAX_SAMPLES, form.samples, key="compare_samples"
                )
            )


def _draw_method(form: SteeringForm) -> None:
    names = STEERING_METHODS.names()
    chosen = st.selectbox(
        "Steering method",
        names,
        index=names.index(form.method) if form.method in names else 0,
        format_func=lambda name: name.replace("_", " "),
        key="compare_method",
    )
    if chosen != form.method:
        form.method, form.method_parameters = chosen, {}
    registered = STEERING_METHODS.get(chosen)
    st.caption(escape_markdown(registered.help))
    form.method_parameters = draw_parameters(
        registered.parameters,
        key=f"compare_parameter_{chosen}",
        values=form.method_parameters,
    )
