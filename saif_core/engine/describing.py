"""Describes a latent through a language endpoint, and tests the description.

It runs beside the engine, which it asks for what needs the model: nobody waits for the endpoint.
"""

from collections.abc import Callable, Sequence
from typing import Any

from saif_core.errors import SteeringError
from saif_core.explaining.descriptions import describe, input_score, output_score
from saif_core.models.language_endpoint import LanguageEndpoint
from saif_core.models.prompting import NEUTRAL_PROMPT
from saif_core.records.as_json import to_json
from saif_core.records.descriptions import OutputScore
from saif_core.records.jobs import Step
from saif_core.records.notes import LatentDescription
from saif_core.records.questions import DescribeRequest, LatentOnTextsQuestion, SaeQuestion
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import UNSTEERED, Arm, Edit, GenerationRequest, Sampling

PROMPTS = (NEUTRAL_PROMPT, "Yesterday I read that", "The first thing to know is")
# Latents act at their largest activation of a corpus times this.
STRENGTH = 2.0
TEXT_TOKENS = 24
N_STEPS = 3

Ask = Callable[[Any], Any]


def describe_latent_in_words(
    endpoint: LanguageEndpoint, request: DescribeRequest, *, ask: Ask, step: Step
) -> LatentDescription:
    """A description, with how well it says where the latent fires and what it makes texts say.

    Args:
        ask: the engine's answer to a question.
        step: told what is done; may raise to stop.
    """
    latent = request.chosen.index

    def activate(texts: Sequence[str]) -> list[float]:
        asked = LatentOnTextsQuestion(request.sae_id, latent, tuple(texts))
        # The first token, an attention sink, fires latents whatever the text says.
        return [max(one.activations[1:], default=0.0) for one in ask(asked).texts]

    step(0, N_STEPS, f"asking {endpoint.model} for a description")
    description = describe(endpoint, request.evidence)
    step(1, N_STEPS, "testing where the latent fires")
    on_input = input_score(endpoint, description.text, activate)
    step(2, N_STEPS, "testing what the latent makes the model write")
    on_output, problem = _output_score(endpoint, request, description.text, ask)
    step(N_STEPS, N_STEPS, "keeping the description")
    return LatentDescription(
        sae_sha256=request.sae_sha256,
        latent=latent,
        method="tokens and examples (EnsembleRaw)",
        text=description.text,
        model=description.model,
        prompt=description.prompt,
        evidence={
            "evidence": description.evidence,
            "input": to_json(on_input),
            "output": to_json(on_output) if on_output else {"problem": problem},
        },
        input_score=on_input.auc,
        output_score=on_output.rate if on_output else None,
    )


def _output_score(
    endpoint: LanguageEndpoint, request: DescribeRequest, description: str, ask: Ask
) -> tuple[OutputScore | None, str]:
    """The score, or why there is none: a latent that changes no text cannot be judged by texts."""
    layer = ask(SaeQuestion(request.sae_id)).layer
    try:
        texts = [
            _steered_texts(request.sae_id, layer, chosen, ask)
            for chosen in (request.chosen, *request.others)
        ]
    except SteeringError as error:
        return None, str(error)
    return output_score(endpoint, description, texts[0], texts[1:], request.chosen.index), ""


def _steered_texts(sae_id: str, layer: int, chosen: ChosenLatent, ask: Ask) -> list[str]:
    edit = Edit(layer, sae_id=sae_id, latents=(chosen,))
    arms = (UNSTEERED, Arm("steered", edits=(edit,), strength=STRENGTH))
    sampling = Sampling(chat=False, max_new_tokens=TEXT_TOKENS)
    result = ask(GenerationRequest(PROMPTS, arms, sampling))
    return [made.text for made in result.generations if made.arm == "steered"]
