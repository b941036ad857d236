"""A chat that each arm goes on with: earlier turns, the next request, and how turns are shown."""

import html
from collections.abc import Mapping
from dataclasses import replace

from app.presentation.texts import plain_name
from saif_core.inputs.prompt_pairs import join_instruction
from saif_core.records.prompts import Turn
from saif_core.records.steering import Arm, GenerationRequest
from saif_core.records.texts import Generation, GenerationResult

History = tuple[Turn, ...]
_SPEAKERS = {"user": "you", "assistant": "model"}
_TURN = "white-space:pre-wrap;overflow-wrap:anywhere;font-size:0.9rem;opacity:0.8;padding:0.15rem 0"


def histories_of(request: GenerationRequest) -> dict[str, History]:
    """The earlier turns of each arm of a request, by its name."""
    found = request.histories or ((),) * len(request.arms)
    return {arm.name: history for arm, history in zip(request.arms, found, strict=False)}


def next_request(
    page: GenerationRequest, result: GenerationResult, message: str, *, shared: bool
) -> GenerationRequest:
    """The request that goes on with a finished chat, by what is set on the page now.

    Args:
        result: texts of one prompt; of several samples the first goes on.
        message: what the user says next.
        shared: all arms go on with the unsteered arm's chat, and not each with its own.
    """
    done = _done(result)
    plain = done[plain_name(result.request.arms, list(done))]
    histories = tuple(plain if shared else done.get(arm.name, plain) for arm in page.arms)
    return replace(page, prompts=(message,), histories=histories)


def arms_without_texts(page: GenerationRequest, result: GenerationResult) -> list[str]:
    """Names of arms that are on the page now but wrote none of these texts."""
    wrote = {generation.arm for generation in result.generations}
    return [arm.name for arm in page.arms if arm.name not in wrote]


def is_shared(histories: Mapping[str, History]) -> bool:
    """Whether all arms go on with one history."""
    return len(set(histories.values())) == 1 and any(histories.values())


def turns_html(history: History) -> str:
    """Earlier turns below each other, everything in them escaped."""
    return "".join(
        f'<div dir="auto" style="{_TURN}"><b>{_SPEAKERS[turn.role]}:</b> '
        f"{html.escape(turn.text)}</div>"
        for turn in history
    )


def _done(result: GenerationResult) -> dict[str, History]:
    """Each arm's whole chat, with the prompt and text that came last."""
    earlier = histories_of(result.request)
    arms = {arm.name: arm for arm in result.request.arms}
    first: dict[str, Generation] = {}
    for generation in result.generations:
        if generation.arm not in first or generation.sample < first[generation.arm].sample:
            first[generation.arm] = generation
    return {
        name: (
            *earlier.get(name, ()),
            Turn("user", _as_put(arms.get(name), generation.prompt)),
            Turn("assistant", generation.text),
        )
        for name, generation in first.items()
    }


def _as_put(arm: Arm | None, prompt: str) -> str:
    """A prompt as the model saw it in an arm."""
    if arm is None or not arm.is_told:
        return prompt
    return join_instruction(prompt, arm.instruction.strip(), arm.position)
