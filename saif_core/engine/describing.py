"""Describes a latent through a language endpoint and scores the description, as a job of its own.

The endpoint is waited for on a thread of the job, so that the engine's worker never is: it only
reads activations and writes texts, between other people's requests.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from saif_core.engine.engine import Engine
from saif_core.engine.job import Job
from saif_core.errors import SaifError, SteeringError
from saif_core.explaining.descriptions import (
    Evidence,
    OutputScore,
    describe,
    input_score,
    output_score,
)
from saif_core.explaining.text_reading import read_activations
from saif_core.models.language_endpoint import LanguageEndpoint
from saif_core.models.loaded_model import LoadedModel
from saif_core.models.prompting import NEUTRAL_PROMPT
from saif_core.records.as_json import to_json
from saif_core.records.notes import LatentDescription
from saif_core.records.ports import JobLog
from saif_core.records.ranking import ChosenLatent
from saif_core.records.steering import GenerationRequest
from saif_core.saes.loaded_sae import LoadedSae

PROMPTS = (NEUTRAL_PROMPT, "Yesterday I read that", "The first thing to know is")
# Latents act at their largest activation of a corpus times this.
STRENGTH = 2.0
TEXT_TOKENS = 24
N_STEPS = 3
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DescribingRequest:
    """A latent to describe.

    Attributes:
        chosen: the latent, with its largest activation.
        others: latents of the same SAE, at least two, whose texts its own are told apart from.
    """

    sae_id: str
    sae_sha256: str
    chosen: ChosenLatent
    evidence: Evidence
    others: tuple[ChosenLatent, ...]


def start_describing(
    engine: Engine,
    endpoint: LanguageEndpoint,
    request: DescribingRequest,
    keep: Callable[[LatentDescription], Any],
    *,
    job_log: JobLog | None = None,
) -> Job:
    """Begin on a thread; the job's result is the ``LatentDescription`` that ``keep`` was given."""

    def work(job: Job) -> LatentDescription:
        described = _describe(engine, endpoint, request, job)
        keep(described)
        return described

    title = f"Describe latent {request.chosen.index}"
    job = Job("describe", title, request, work, log=job_log)
    threading.Thread(target=_run, args=(job,), name="saif-describing", daemon=True).start()
    return job


def _run(job: Job) -> None:
    job.run()
    if job.error is not None and not isinstance(job.error, SaifError):
        log.error("%s failed", job.title, exc_info=job.error)


def _describe(
    engine: Engine, endpoint: LanguageEndpoint, request: DescribingRequest, job: Job
) -> LatentDescription:
    latent = request.chosen.index

    def activate(texts: Sequence[str]) -> list[float]:
        def read(model: LoadedModel, sae: LoadedSae) -> list[float]:
            read = (read_activations(model, sae, latent, text, chat=False)[1] for text in texts)
            # The first token, an attention sink, fires latents whatever the text says.
            return [max(values[1:], default=0.0) for values in read]

        return engine.ask(f"Latent {latent} on sentences", request.sae_id, read)

    job.step(0, N_STEPS, f"asking {endpoint.model} for a description")
    description = describe(endpoint, request.evidence)
    job.step(1, N_STEPS, "testing where the latent fires")
    on_input = input_score(endpoint, description.text, activate)
    job.step(2, N_STEPS, "testing what the latent makes the model write")
    on_output, problem = _output_score(engine, endpoint, request, description.text)
    job.step(N_STEPS, N_STEPS, "keeping the description")
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
    engine: Engine, endpoint: LanguageEndpoint, request: DescribingRequest, description: str
) -> tuple[OutputScore | None, str]:
    """The score, or why there is none: a latent that changes no text cannot be judged by texts."""
    jobs = [
        engine.generate(
            GenerationRequest(
                sae_id=request.sae_id,
                prompts=PROMPTS,
                latents=(chosen,),
                strength=STRENGTH,
                chat=False,
                max_new_tokens=TEXT_TOKENS,
            )
        )
        for chosen in (request.chosen, *request.others)
    ]
    try:
        texts = [
            [made.text for made in job.result().generations if made.arm == "steered"]
            for job in jobs
        ]
    except SteeringError as error:
        return None, str(error)
    return output_score(endpoint, description, texts[0], texts[1:], request.chosen.index), ""
