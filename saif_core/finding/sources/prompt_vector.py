"""Source ``prompt_vector``: a vector trained for the ends of the prompt, where alone it is added.

Direction and strength are trained together, by the language model's loss on answers that follow the
instruction; the answer itself is written by the model as it is.

Source: PrOSV (arXiv 2605.05983), reconstructed.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated

from annotated_types import Interval
from torch import Tensor

from saif_core.finding.study import Study
from saif_core.finding.training import (
    AnswerTokens,
    Contents,
    Share,
    Steps,
    share_of_norm,
    train,
)
from saif_core.records.steering import Edit, Schedule
from saif_core.steering.target import VECTOR


def prompt_vector(
    study: Study,
    *,
    prompt_first: Annotated[int, Interval(ge=0, le=64)] = 4,
    prompt_last: Annotated[int, Interval(ge=1, le=64)] = 4,
    contents: Contents = 160,
    tokens: AnswerTokens = 48,
    steps: Steps = 80,
    share: Share = 0.15,
) -> Iterator[Edit]:
    """A vector trained for the first and last tokens of the prompt, and added there alone.

    Args:
        prompt_first: tokens at the beginning of the prompt.
        prompt_last: tokens at its end.
        contents: answers to learn from at most.
        tokens: of an answer at most.
        steps: of training.
        share: norm that training begins with, as a share of the residual stream's.
    """
    targets = study.targets(n=contents, max_new_tokens=tokens)
    schedule = Schedule("prompt-ends", prompt_first=prompt_first, prompt_last=prompt_last)
    for layer in study.layers:
        first = share_of_norm(study.model, layer, study.mean_difference(layer), share)

        def written(
            tensors: Mapping[str, Tensor], layer: int = layer
        ) -> Mapping[int, partial[Tensor]]:
            return {layer: partial(_add, vector=tensors[VECTOR])}

        trained = train(
            study.at((layer,)),
            {VECTOR: first},
            written,
            targets,
            steps=steps,
            # A step of Adam is as long for every entry, so it has to suit the vector's own size.
            rates={VECTOR: 0.05 * float(first.abs().mean())},
            schedule=schedule,
        )
        yield study.edit(layer, vector=trained.tensors[VECTOR], schedule=schedule)


def _add(resid: Tensor, vector: Tensor) -> Tensor:
    return vector.to(resid.device).expand_as(resid)
