"""Prompt pairs → mean difference of the residual stream, with minus without the instruction.

Source: Contrastive Activation Addition (arXiv 2312.06681) and AxBench's DiffMean, reconstructed;
read over response tokens, the difference is between the model's own answers.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.pairs import Reading, find_readings, no_answer
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import RankingRequest


@torch.no_grad()
def read_mean_difference(
    model: LoadedModel,
    request: RankingRequest,
    layers: Sequence[int],
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> dict[int, Float[Tensor, " d_model"]]:
    """Mean over the read positions with minus without the instruction, after each layer.

    All positions weigh the same, as in a ranking.

    Args:
        request: pairs and reading position; its SAE and selector do not matter.
        layers: 0-based block indices, read in one pass.

    Raises:
        PromptPairError: there are no pairs, or the model answers every prompt with nothing.
    """
    readings, _ = find_readings(model, request, cache, step)
    # Wordings of one content share what is read without the instruction.
    distinct = list(dict.fromkeys(readings))
    found, _ = read_resid(
        model,
        [reading.token_ids for reading in distinct],
        list(layers),
        [list(range(reading.start, len(reading.token_ids))) for reading in distinct],
        on_row=(lambda done, total: step(done, total, "reading")) if step else None,
        reduce=lambda resid: (resid.double().sum(dim=0).cpu(), len(resid)),
    )
    n_pairs = len(request.pairs)
    differences = {}
    for layer in layers:
        sums = dict(zip(distinct, found[layer], strict=True))
        positive, negative = _mean(readings[:n_pairs], sums), _mean(readings[n_pairs:], sums)
        differences[layer] = (positive - negative).float()
    return differences


def _mean(
    readings: Sequence[Reading], sums: dict[Reading, tuple[Tensor, int]]
) -> Float[Tensor, " d_model"]:
    times = Counter(readings)
    n_rows = sum(n * sums[reading][1] for reading, n in times.items())
    if n_rows == 0:
        raise no_answer()
    return sum((n * sums[reading][0] for reading, n in times.items()), torch.zeros(())) / n_rows
