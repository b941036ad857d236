"""The form of an evaluation: what is asked, the request it makes, and what that would cost."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, get_args

import streamlit as st

from app.dashboard.frame import describe_sae
from app.dashboard.handles import engine
from app.dashboard.instructions.pair_form import draw_instruction_choice, uploaded_contents
from app.dashboard.messages import shown
from app.dashboard.work import work
from app.presentation.arms import ARM_NAMES, READ_WORDS, SCOPES
from saif_core.errors import EvaluatorError
from saif_core.inputs.shipped import shipped_contents
from saif_core.records.evaluation import (
    CONTROLS,
    DEFAULT_ARMS,
    EVALUATION_ARMS,
    STEERED,
    EvaluationRequest,
)
from saif_core.records.prompts import InstructionPosition
from saif_core.records.ranking import ReadPosition
from saif_core.records.saes import SaeInfo
from saif_core.records.steering import SteeringScope

T = TypeVar("T")
CPU_TOKENS_PER_SECOND = 250.0
DEFAULT_N_TEST, DEFAULT_N_RANK = 20, 16
MAX_STRENGTH, MAX_BETA, MAX_TOP, MAX_VALUES = 100.0, 10.0, 1000, 20
MAX_TOKENS, MAX_RESPONSE_TOKENS = 512, 256
ARM_HELP = {
    "unsteered": "the content as it is, nothing added",
    "prompted": "the content with the instruction in words",
    "saif": "the top k latents added at once",
    "one-latent": "the best latent alone",
    "clamp": "the top k latents held at their activations",
    "ablate": "the top k latents set to zero",
    "denoised": "latents with the largest mean differences, as coefficients",
    "mean-difference": "the mean difference of the residual stream, without an SAE",
    "random": "control: as many latents drawn at random, of equal norm",
    "flipped": "control: the same vector with its sign flipped",
    "logit-bias": "control: what the vector adds to the logits directly, there alone",
}


class Cost(NamedTuple):
    """What an evaluation writes, at most."""

    n_cells: int
    n_texts: int
    n_tokens: int


def parse_numbers(text: str, what: str, low: float, high: float) -> tuple[float, ...]:
    """The different numbers of a list typed with commas, in rising order.

    Args:
        what: name of the field in messages, such as "Strengths".
        low, high: the least and the largest value.

    Raises:
        EvaluatorError: there is none, one is no number or out of range, or there are too many.
    """
    values = set()
    for part in text.replace(";", ",").split(","):
        if not part.strip():
            continue
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        # A range check that is negated refuses what is no number as well.
        if not low <= value <= high:
            raise EvaluatorError(
                f"{what} holds {part.strip()[:40]!r}; give numbers from {low:g} to {high:g}, with "
                "commas between them."
            )
        values.add(value)
    if not 1 <= len(values) <= MAX_VALUES:
        raise EvaluatorError(
            f"{what} holds {len(values)} values; give 1 to {MAX_VALUES}, with commas between them."
        )
    return tuple(sorted(values))


def parse_counts(text: str, what: str, high: int) -> tuple[int, ...]:
    """The different whole numbers of a list typed with commas, in rising order.

    Raises:
        EvaluatorError: as ``parse_numbers``, or a number is not whole.
    """
    values = parse_numbers(text, what, 1, high)
    broken = [value for value in values if not value.is_integer()]
    if broken:
        raise EvaluatorError(f"{what} holds {broken[0]:g}; give whole numbers.")
    return tuple(int(value) for value in values)


def split_wordings(wordings: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Wordings to rank with and to prompt with, in turn; one alone does both."""
    return tuple(wordings[::2]), tuple(wordings[1::2] or wordings)


def split_contents(
    contents: Sequence[str], n_rank: int, n_test: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first contents to rank on and the last ones to test on; repeated ones count once.

    Raises:
        EvaluatorError: there are too few for both.
    """
    distinct = list(dict.fromkeys(contents))
    if n_rank + n_test > len(distinct):
        raise EvaluatorError(
            f"{n_rank} contents to rank on and {n_test} to test on are more than the "
            f"{len(distinct)} different ones there are; lower one of the two."
        )
    return tuple(distinct[:n_rank]), tuple(distinct[len(distinct) - n_test :])


def check_choice(arms: Sequence[str], infos: Sequence[SaeInfo]) -> None:
    """Raise a sentence for arms and SAEs that make no evaluation together.

    Raises:
        EvaluatorError: no arm, no SAE, a control without what it controls, or a layer twice.
    """
    if not arms:
        raise EvaluatorError("No arm is chosen; choose at least one.")
    if not infos:
        raise EvaluatorError("No SAE is chosen; choose at least one.")
    layers = [info.layer for info in infos]
    repeated = [layer for layer in layers if layers.count(layer) > 1]
    if repeated:
        raise EvaluatorError(
            f"Several of the chosen SAEs are at layer {repeated[0]}; choose one for each layer."
        )
    controls = [arm for arm in arms if arm in CONTROLS]
    if controls and not any(arm in STEERED for arm in arms):
        raise EvaluatorError(
            f"The control “{ARM_NAMES[controls[0]]}” has no steered arm to be matched to; choose "
            "one as well."
        )


def cost_of(request: EvaluationRequest, layers: Sequence[int]) -> Cost:
    """Cells, texts and tokens at most, controls included.

    Args:
        layers: of the request's SAEs, in their order.
    """
    from saif_core.evaluating.plan import plan_controls, plan_settings

    settings = plan_settings(request, layers)
    # Whatever setting an arm does best at, it has as many controls as any other.
    best = list({setting.arm: setting for setting in settings}.values())
    n_cells = len({*settings, *plan_controls(request, best)})
    n_texts = n_cells * len(request.test_contents)
    return Cost(n_cells, n_texts, n_texts * request.max_new_tokens)


def cost_sentence(cost: Cost, tokens_per_second: float, *, measured: bool) -> str:
    """What an evaluation costs, in one line.

    Args:
        measured: the speed is that of the evaluation on the page.
    """
    source = "the speed of the evaluation below" if measured else "usual for a CPU"
    return (
        f"Up to {cost.n_cells:,} cells · {cost.n_texts:,} texts · {cost.n_tokens:,} tokens · about "
        f"{duration(cost.n_tokens / tokens_per_second)} at {tokens_per_second:,.0f} tokens/s "
        f"({source})"
    )


def duration(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 100:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def draw_evaluation_form() -> EvaluationRequest | None:
    """Draw the form; None while what it holds makes no request, which it has then said why."""
    offered = {info.id: info for info in engine().saes()}
    left, right = st.columns(2)
    with left:
        instruction = draw_instruction_choice(
            "evaluation_instruction", about="Upload or edit your own on the Instructions page."
        )
        sae_ids = _draw_saes(offered)
    with right:
        arms = _draw_arms()
        strengths = _draw_list(
            "Strengths",
            "evaluation_strengths",
            "0.5, 1, 1.5, 2",
            lambda text: parse_numbers(text, "Strengths", 0.01, MAX_STRENGTH),
            about="1 = as strongly as the latents fire on instructed prompts; with commas.",
        )
    contents = _known_contents()
    n_test, n_rank = _draw_contents(len(contents))
    latents = _draw_latents(len(sae_ids))
    reading = _draw_reading()
    writing = _draw_writing()
    lists = [strengths, *latents.values()]
    if any(value is None for value in lists):
        return None
    request: EvaluationRequest | None = None
    with shown():
        check_choice(arms, [offered[sae_id] for sae_id in sae_ids])
        rank_contents, test_contents = split_contents(contents, n_rank, n_test)
        rank_wordings, test_wordings = split_wordings([w.text for w in instruction.wordings])
        made = EvaluationRequest(
            instruction=instruction,
            sae_ids=tuple(sae_ids),
            rank_contents=rank_contents,
            rank_wordings=rank_wordings,
            test_contents=test_contents,
            test_wordings=test_wordings,
            # In the order of the arms, so that the order of choosing decides nothing.
            arms=tuple(arm for arm in EVALUATION_ARMS if arm in arms),
            strengths=strengths or (),
            **latents,
            **reading,
            **writing,
        )
        _check(made)
        request = made
    return request


def _check(request: EvaluationRequest) -> None:
    from saif_core.evaluating.plan import check_request

    check_request(request)


def _draw_saes(offered: dict[str, SaeInfo]) -> list[str]:
    return st.multiselect(
        "SAEs, one for each layer",
        list(offered),
        default=[work().sae_id] if work().sae_id in offered else [],
        format_func=lambda sae_id: describe_sae(offered[sae_id]),
        key="evaluation_saes",
        persist_state="session",
    )


def _draw_arms() -> list[str]:
    return st.multiselect(
        "Arms",
        EVALUATION_ARMS,
        default=list(DEFAULT_ARMS),
        format_func=lambda arm: ARM_NAMES[arm],
        key="evaluation_arms",
        persist_state="session",
        help="  \n".join(f"**{ARM_NAMES[arm]}**: {words}" for arm, words in ARM_HELP.items()),
    )


def _draw_list(
    label: str, key: str, default: str, read: Callable[[str], T], *, about: str
) -> T | None:
    typed = st.text_input(
        label, default, max_chars=200, key=key, persist_state="session", help=about
    )
    values: T | None = None
    with shown():
        values = read(typed or "")
    return values


def _known_contents() -> list[str]:
    """The contents uploaded on the Instructions page, else the shipped ones; each once."""
    own = uploaded_contents()
    return list(dict.fromkeys(shipped_contents() if own is None else own))


def _draw_contents(n_known: int) -> tuple[int, int]:
    kind = "your own" if uploaded_contents() is not None else "shipped"
    left, right = st.columns(2)
    n_test = _number(
        left,
        f"Test contents (of {n_known} {kind})",
        f"evaluation_n_test_{n_known}",
        min(DEFAULT_N_TEST, max(n_known // 2, 2)),
        2,
        max(n_known - 1, 2),
        "The last ones. 20 give a first look; intervals shrink with more.",
    )
    n_rank = _number(
        right,
        "Contents to rank latents on",
        f"evaluation_n_rank_{n_known}",
        min(DEFAULT_N_RANK, max(n_known // 2, 1)),
        1,
        max(n_known - 2, 1),
        "The first ones; no content both ranks and tests.",
    )
    return n_test, n_rank


def _number(
    place: Any, label: str, key: str, default: int, low: int, high: int, about: str | None = None
) -> int:
    return int(
        place.number_input(
            label, low, high, default, step=1, key=key, persist_state="session", help=about
        )
    )


def _draw_latents(n_saes: int) -> dict[str, Any]:
    with st.expander("Latents and layers", key="evaluation_latents", icon=":material/tune:"):
        left, right = st.columns(2)
        with left:
            tops = _draw_list(
                "Numbers of latents (k)",
                "evaluation_tops",
                "15",
                lambda text: parse_counts(text, "Numbers of latents", MAX_TOP),
                about="Of SAIF, clamped, ablated and random latents; with commas.",
            )
            betas = _draw_list(
                "β",
                "evaluation_betas",
                "0",
                lambda text: parse_numbers(text, "β", -MAX_BETA, MAX_BETA),
                about="The coefficient of a latent is its mean + β × standard deviation.",
            )
        with right:
            denoised = _draw_list(
                "Numbers of latents, denoised",
                "evaluation_denoised_tops",
                "60",
                lambda text: parse_counts(text, "Numbers of latents, denoised", MAX_TOP),
                about="Of the denoised mean difference; with commas.",
            )
            together = st.toggle(
                "All these layers at once too",
                key="evaluation_together",
                persist_state="session",
                disabled=n_saes < 2,
                help="Each layer at an equal share of the strength; needs two SAEs or more.",
            )
        of_all = right.toggle(
            "Controls of every setting",
            key="evaluation_controls",
            persist_state="session",
            help="Off: only of the setting that does best in each arm.",
        )
    return {
        "tops": tops,
        "betas": betas,
        "denoised_tops": denoised,
        "controls": "all" if of_all else "best",
        "together": together and n_saes > 1,
    }


def _draw_reading() -> dict[str, Any]:
    with st.expander(
        "How latents are ranked", key="evaluation_reading", icon=":material/visibility:"
    ):
        left, right = st.columns(2)
        read = left.segmented_control(
            "Read activations at",
            get_args(ReadPosition)[::-1],
            default="response",
            required=True,
            format_func=lambda option: READ_WORDS[option],
            key="evaluation_read",
            persist_state="session",
        )
        position = right.segmented_control(
            "Instruction comes",
            get_args(InstructionPosition),
            default="after",
            required=True,
            key="evaluation_position",
            persist_state="session",
            help="After or before the content.",
        )
        n_tokens = _number(
            left, "Answer tokens to read", "evaluation_response_tokens", 24, 1, MAX_RESPONSE_TOKENS
        )
        chat = right.toggle(
            "Chat template",
            True,
            key="evaluation_chat",
            persist_state="session",
            help="Off: the model reads the prompt as raw text.",
        )
    return {
        "read": read or "response",
        "position": position or "after",
        "response_tokens": n_tokens,
        "chat": chat,
    }


def _draw_writing() -> dict[str, Any]:
    with st.expander(
        "How texts are steered and written", key="evaluation_writing", icon=":material/edit:"
    ):
        left, right = st.columns(2)
        n_tokens = _number(left, "Tokens at most", "evaluation_max_new_tokens", 40, 1, MAX_TOKENS)
        scope = right.selectbox(
            "Steer",
            get_args(SteeringScope),
            format_func=lambda option: SCOPES[option],
            key="evaluation_scope",
            persist_state="session",
            help="Tokens whose residual stream is edited.",
        )
        decay = left.number_input(
            "Decay",
            0.0,
            10.0,
            0.0,
            0.05,
            key="evaluation_decay",
            persist_state="session",
            help="The strength at token t is divided by 1 + decay · t; 0 keeps it.",
        )
        temperature = left.number_input(
            "Temperature",
            0.0,
            2.0,
            0.5,
            0.1,
            key="evaluation_temperature",
            persist_state="session",
            help="0 is greedy, in which small models loop. All arms share their draws.",
        )
        seed = _number(right, "Seed", "evaluation_seed", 0, 0, 2**31 - 1)
        first = 1
        if scope == "first":
            first = _number(right, "How many tokens", "evaluation_first", 1, 1, MAX_TOKENS)
        keep_norm = right.toggle(
            "Keep the norm",
            key="evaluation_keep_norm",
            persist_state="session",
            help="Rescale the edited residual stream to the norm it had.",
        )
    return {
        "max_new_tokens": n_tokens,
        "scope": scope,
        "first": first,
        "decay": float(decay),
        "keep_norm": keep_norm,
        "temperature": float(temperature),
        "seed": seed,
    }
