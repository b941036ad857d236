"""The form of an evaluation: what is asked, the request it makes, and what that would cost."""

from collections.abc import Sequence
from math import prod
from typing import Annotated, Any, NamedTuple

import streamlit as st
from annotated_types import Interval
from streamlit.delta_generator import DeltaGenerator

from app.dashboard.evaluate.candidate_fields import (
    check_indices,
    draw_candidates,
    draw_source_choice,
)
from app.dashboard.evaluate.instruction_field import Asked, draw_instruction, short_hash
from app.dashboard.evaluate.kept_fields import keep_fields, take_fields
from app.dashboard.evaluate.run_fields import draw_reading, draw_writing
from app.dashboard.evaluate.sae_field import draw_saes
from app.dashboard.fields.grid_fields import draw_values
from app.dashboard.handles import engine
from app.dashboard.messages import shown
from app.presentation.arms import BASELINE_HELP, CONTROL_HELP, CONTROL_WORDS
from app.presentation.figures import duration
from app.presentation.glossary import explain
from saif_core.errors import EvaluatorError
from saif_core.parameters import Parameter
from saif_core.records.as_json import from_json, to_json
from saif_core.records.evaluation import BASELINES, CONTROLS, MOST_CANDIDATES, EvaluationRequest
from saif_core.records.prompts import Instruction
from saif_core.records.saes import SaeInfo, layers_of
from saif_core.records.steering import MAX_STRENGTH

CPU_TOKENS_PER_SECOND = 250.0
DEFAULT_N_TEST, DEFAULT_N_RANK = 20, 16
MOST_SETTINGS = 10_000
STRENGTHS = Parameter("strengths", Annotated[float, Interval(ge=0.01, le=MAX_STRENGTH)], 1.0, "")
_LAYERS = Parameter("layers", Annotated[int, Interval(ge=0, le=999)], None, "")


class Cost(NamedTuple):
    """What an evaluation writes, at most.

    Attributes:
        n_learned: tokens that are written to learn from, before any text is.
    """

    n_cells: int
    n_texts: int
    n_tokens: int
    n_learned: int = 0

    def seconds(self, tokens_per_second: float) -> float:
        """How long that takes."""
        return (self.n_tokens + self.n_learned) / tokens_per_second


def check_choice(request: EvaluationRequest, infos: Sequence[SaeInfo]) -> None:
    """Raise a sentence for choices that make no evaluation together.

    Args:
        infos: the chosen SAEs.

    Raises:
        EvaluatorError: no arm, no SAE or layer, a control without what it controls, a layer
            twice, or too much at once.
        SaifError: a source, method or parameter does not fit.
    """
    from saif_core.evaluating.plan import check_request

    layers = [info.layer for info in infos]
    repeated = [layer for layer in layers if layers.count(layer) > 1]
    if repeated:
        raise EvaluatorError(
            f"Several of the chosen SAEs are at layer {repeated[0]}; choose one for each layer."
        )
    if len(request.candidates) > MOST_CANDIDATES:
        raise EvaluatorError(
            f"{len(request.candidates)} steered arms are chosen; choose at most {MOST_CANDIDATES}."
        )
    if request.candidates and not request.rank_wordings:
        raise EvaluatorError("No wording is chosen to learn from; choose one.")
    n_settings = _n_settings(request, len(infos) + len(request.layers))
    # Before they are listed, which would take more memory than there is.
    if n_settings > MOST_SETTINGS:
        raise EvaluatorError(
            f"{n_settings:,} settings would be measured; give fewer values, so that there are at "
            f"most {MOST_SETTINGS:,}."
        )
    check_request(request)


def _n_settings(request: EvaluationRequest, n_layers: int) -> int:
    """How many settings there are of what is steered with, layers one by one."""
    n_choices = sum(
        prod(len(values) for grid in (one.grid, one.method_grid) for values in grid.values())
        for one in request.candidates
    )
    return n_choices * n_layers * len(request.strengths)


def cost_of(request: EvaluationRequest, layers: Sequence[int]) -> Cost:
    """Cells, texts and tokens at most, controls included.

    Args:
        layers: of the request's SAEs, in their order, then its further layers.
    """
    from saif_core.evaluating.plan import plan_controls, plan_settings

    settings = plan_settings(request, layers)
    # Whatever setting an arm does best at, it has as many controls as any other.
    best = list({setting.arm: setting for setting in settings if not setting.of}.values())
    n_cells = len({*settings, *plan_controls(request, best)})
    n_texts = n_cells * len(request.test_contents)
    n_tokens = n_texts * request.sampling.max_new_tokens
    return Cost(n_cells, n_texts, n_tokens, _n_learned(request))


def _n_learned(request: EvaluationRequest) -> int:
    """Tokens of the answers that latents are read over: to every wording, and without one."""
    if not request.candidates or request.read != "response":
        return 0
    n_answers = len(request.rank_contents) * (len(request.rank_wordings) + 1)
    return n_answers * request.response_tokens


def cost_sentence(
    cost: Cost, tokens_per_second: float, *, measured: bool = False, source: str = ""
) -> str:
    """What an evaluation costs, in one line.

    Args:
        measured: the speed is that of the evaluation on the page.
        source: where the speed comes from, if elsewhere.
    """
    learned = f" and {cost.n_learned:,} to learn from" if cost.n_learned else ""
    usual = "the speed of the evaluation below" if measured else "usual for a CPU"
    return (
        f"Up to {cost.n_cells:,} cells · {cost.n_texts:,} texts · {cost.n_tokens:,} tokens"
        f"{learned} · about {duration(cost.seconds(tokens_per_second))} at "
        f"{tokens_per_second:,.0f} tokens/s "
        f"({source or usual})"
    )


def layers_of_request(request: EvaluationRequest) -> list[int]:
    """The layers that a request writes after, each once."""
    known = layers_of(engine().saes())
    return list(dict.fromkeys([*(known[sae_id] for sae_id in request.sae_ids), *request.layers]))


def draw_evaluation_form(first: DeltaGenerator | None = None) -> EvaluationRequest | None:
    """Draw the form; None while what it holds makes no request, which it has then said why.

    Args:
        first: where the fields go that everybody reads.
    """
    take_fields()
    offered = {info.id: info for info in engine().saes()}
    drawn = draw_fields(offered, first)
    keep_fields()
    if any(value is None for value in drawn.values()):
        return None
    contents = drawn.pop("contents")
    request: EvaluationRequest | None = None
    with shown():
        made = EvaluationRequest(**_split(drawn, contents))
        check_choice(made, [offered[sae_id] for sae_id in made.sae_ids])
        check_indices(made.candidates, made.sae_ids, len(layers_of_request(made)))
        request = _checked(made)
    return request


def draw_fields(offered: dict[str, SaeInfo], first: DeltaGenerator | None = None) -> dict[str, Any]:
    """Draw a field for every field of a request; the values by name, None where one is no use.

    Contents come as how many are to be ranked and tested on, and "contents" as those there are.

    Args:
        first: see ``draw_evaluation_form``.
    """
    with first or st.container():
        left, right = st.columns(2)
    with left:
        asked = draw_instruction()
        sae_ids = draw_saes(offered)
    with right:
        sources = draw_source_choice()
        strengths = draw_values(
            STRENGTHS,
            "0.5, 1, 1.5, 2",
            key="evaluation_strengths",
            label="Strengths",
            about="1 = as strongly as the latents fire on instructed prompts; with commas.",
        )
    candidates = draw_candidates(sources)
    wordings = _draw_wordings(asked.instruction) if asked.instruction else {}
    return {
        "instruction": asked.instruction,
        "sae_ids": tuple(sae_ids),
        "candidates": candidates,
        "strengths": strengths,
        **_draw_comparisons(),
        "contents": asked.contents,
        **_draw_contents(asked),
        **_draw_layers(len(sae_ids)),
        **wordings,
        **draw_reading(),
        **draw_writing(),
    }


def _split(drawn: dict[str, Any], contents: Sequence[str]) -> dict[str, Any]:
    """The fields of a request, with the contents themselves.

    Args:
        contents: all that there are.

    Raises:
        EvaluatorError: there are too few contents.
    """
    from saif_core.evaluating.splitting import split_contents

    ranked, tested = split_contents(contents, drawn["rank_contents"], drawn["test_contents"])
    return {**drawn, "rank_contents": ranked, "test_contents": tested}


def _checked(request: EvaluationRequest) -> EvaluationRequest:
    """The request, within the bounds of its fields.

    Raises:
        EvaluatorError: one is not; the message names it.
    """
    try:
        return from_json(EvaluationRequest, to_json(request))
    except ValueError as error:
        raise EvaluatorError(str(error)) from error


def _draw_comparisons() -> dict[str, Any]:
    left, right = st.columns(2)
    baselines = left.multiselect(
        "Baselines",
        BASELINES,
        default=list(BASELINES),
        key="evaluation_baselines",
        persist_state="session",
        help=explain("Baselines", _listed(BASELINE_HELP)),
    )
    controls = right.multiselect(
        "Controls",
        CONTROLS,
        default=["random"],
        format_func=lambda control: CONTROL_WORDS[control],
        key="evaluation_controls",
        persist_state="session",
        help=explain(
            "Controls",
            _listed({CONTROL_WORDS[control]: words for control, words in CONTROL_HELP.items()}),
        ),
    )
    of_all = right.toggle(
        "Controls of every setting",
        key="evaluation_controls_of",
        persist_state="session",
        help=explain("Controls, setting", "Off: only of the setting that does best in each arm."),
    )
    return {
        # In their own order, so that the order of choosing decides nothing.
        "baselines": tuple(baseline for baseline in BASELINES if baseline in baselines),
        "controls": tuple(control for control in CONTROLS if control in controls),
        "controls_of": "all" if of_all else "best",
    }


def _listed(helps: dict[str, str]) -> str:
    return "  \n".join(f"{name}: {words}" for name, words in helps.items())


def _draw_contents(asked: Asked) -> dict[str, Any]:
    """Draw how many contents are ranked and tested on."""
    n_known, kind = len(asked.contents), asked.kind
    left, right = st.columns(2)
    n_test = left.number_input(
        f"Test contents (of {n_known} {kind})",
        2,
        max(n_known - 1, 2),
        min(DEFAULT_N_TEST, max(n_known // 2, 2)),
        step=1,
        key=f"evaluation_n_test_{n_known}",
        persist_state="session",
        help=explain(
            "contents", "The last ones. 20 give a first look; intervals shrink with more."
        ),
    )
    n_rank = right.number_input(
        "Contents to rank latents on",
        1,
        max(n_known - 2, 1),
        min(DEFAULT_N_RANK, max(n_known // 2, 1)),
        step=1,
        key=f"evaluation_n_rank_{n_known}",
        persist_state="session",
        help=explain("contents, latents", "The first ones; no content both ranks and tests."),
    )
    return {"rank_contents": int(n_rank), "test_contents": int(n_test)}


def _draw_layers(n_saes: int) -> dict[str, Any]:
    with st.expander("Layers", key="evaluation_layers_expander", icon=":material/layers:"):
        left, right = st.columns(2)
        with left:
            layers = draw_values(
                _LAYERS,
                "",
                key="evaluation_layers",
                label="Further layers",
                about="Blocks to write after besides those of the SAEs, counted from 0, with "
                "commas; for sources that need no SAE.",
            )
        n_layers = n_saes + len([layer for layer in layers or () if layer is not None])
        together = right.toggle(
            "All these layers at once too",
            key="evaluation_together",
            persist_state="session",
            disabled=n_layers < 2,
            help=explain(
                "layers, strength",
                "Each layer at an equal share of the strength; needs two layers or more.",
            ),
        )
    return {
        "layers": None if layers is None else tuple(x for x in layers if x is not None),
        "together": bool(together and n_layers > 1),
    }


def _draw_wordings(instruction: Instruction) -> dict[str, Any]:
    """Draw which wordings of the instruction are learned from, and which are prompted with."""
    from saif_core.evaluating.splitting import split_wordings

    known = list(dict.fromkeys(wording.text for wording in instruction.wordings))
    ranked, tested = split_wordings(known)
    with st.expander("Wordings", key="evaluation_wordings", icon=":material/translate:"):
        left, right = st.columns(2)
        chosen = [
            place.multiselect(
                label,
                known,
                default=list(default),
                # Another instruction has other wordings, so it gets fields of its own.
                key=f"evaluation_{name}_{instruction.name}_{short_hash(known)}",
                persist_state="session",
                help=explain("wording", about),
            )
            for place, name, label, default, about in (
                (left, "rank_wordings", "To learn from", ranked, "What sources learn from."),
                (
                    right,
                    "test_wordings",
                    "To prompt with",
                    tested,
                    "The prompted arm is told these in turn; texts are judged by them.",
                ),
            )
        ]
    return {
        name: tuple(wording for wording in known if wording in some)
        for name, some in zip(("rank_wordings", "test_wordings"), chosen, strict=True)
    }
