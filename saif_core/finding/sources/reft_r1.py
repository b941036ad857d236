"""Source ``reft_r1``: a direction that is trained to read an instruction and to write it at once.

While it is trained, every steered token of a text gets m · w, where w is the direction at norm 1
and m the mean of the text's largest readings ReLU(w · h); readings that are not among these are
kept small. What is steered with afterwards is a vector: w at the mean m of the answers.

Source: ReFT-r1 of AxBench (arXiv 2501.17148), reconstructed; there the direction starts at random
and prompts are written to as well.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from jaxtyping import Float
from torch import Tensor

from saif_core.finding.study import Study
from saif_core.finding.training import BATCH, AnswerTokens, Contents, Steps, quick_math, train
from saif_core.records.steering import Edit
from saif_core.steering.target import VECTOR

RATE = 0.01


def reft_r1(
    study: Study,
    *,
    top: Annotated[int, Interval(ge=1, le=64)] = 8,
    sparsity: Annotated[float, Ge(0)] = 0.005,
    contents: Contents = 160,
    tokens: AnswerTokens = 48,
    steps: Steps = 80,
) -> Iterator[Edit]:
    """A direction that is trained to read an instruction and to write it at once.

    Args:
        top: how many of a text's readings decide how much is written.
        sparsity: weight in the loss of the readings that do not, in norms of the residual stream.
        contents: answers to learn from at most.
        tokens: of an answer at most.
        steps: of training.
    """
    targets = study.targets(n=contents, max_new_tokens=tokens)
    for layer in study.layers:
        here = study.at((layer,))
        norm = float(study.model.neutral_resid(layer).float().norm())
        written = _Readings(top)

        def write(
            tensors: Mapping[str, Tensor], layer: int = layer, written: _Readings = written
        ) -> Mapping[int, partial[Tensor]]:
            return {layer: partial(written.write, direction=tensors[VECTOR])}

        def penalty(written: _Readings = written, norm: float = norm) -> Tensor:
            return sparsity * written.outside / norm

        start = torch.nn.functional.normalize(study.mean_difference(layer).float(), dim=0)
        trained = train(
            here,
            {VECTOR: start},
            write,
            targets,
            steps=steps,
            rates={VECTOR: RATE},
            penalty=penalty,
        ).tensors
        sizes = []
        with torch.no_grad(), quick_math(study.model.device):
            for at in range(0, len(targets), BATCH):
                study.loss(write(trained), targets[at : at + BATCH])
                sizes.append(written.sizes)
        direction = torch.nn.functional.normalize(trained[VECTOR], dim=0)
        yield study.edit(layer, vector=torch.cat(sizes).mean() * direction)


class _Readings:
    """What the direction read in the latest pass.

    Attributes:
        sizes: (batch,) mean of each text's largest readings.
        outside: sum of the other readings, mean over the texts.
    """

    def __init__(self, top: int) -> None:
        self._top = top
        self.sizes: Float[Tensor, " batch"] = torch.zeros(0)
        self.outside: Float[Tensor, ""] = torch.zeros(())

    def write(
        self, resid: Float[Tensor, "batch pos d_model"], direction: Float[Tensor, " d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """As much of the direction at every token as the text's largest readings come to."""
        unit = torch.nn.functional.normalize(direction, dim=0).to(resid.device)
        readings = torch.relu((resid.float() * unit).sum(-1))
        largest = readings.topk(min(self._top, readings.shape[1]), dim=1).values
        self.sizes = largest.mean(1)
        self.outside = (readings.sum(1) - largest.sum(1)).mean()
        return (self.sizes[:, None, None] * unit).expand_as(resid)
