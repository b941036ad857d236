"""Steering vector without an SAE: mean residual stream with minus without the instruction.

Source: Contrastive Activation Addition (arXiv 2312.06681) and AxBench's DiffMean, reconstructed;
read over response tokens, the difference is between the model's own answers.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.errors import PromptPairError
from saif_core.models.activations import read_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.reading.pairs import find_readings
from saif_core.records.jobs import Step
from saif_core.records.ports import ActivationCache
from saif_core.records.ranking import RankingRequest


def read_mean_difference(
    model: LoadedModel,
    request: RankingRequest,
    layers: Sequence[int],
    *,
    cache: ActivationCache | None = None,
    step: Step | None = None,
) -> dict[int, Float[Tensor, " d_model"]]:
    """Mean over the read positions with minus without the instruction, after each layer.

    Args:
        request: pairs and reading position; its SAE and selector do not matter.
        layers: 0-based block indices, read in one pass.

    Raises:
        PromptPairError: there are no pairs, or the model answers every prompt with nothing.
    """
    readings, _ = find_readings(model, request, cache, step)
    wanted = [list(range(reading.start, len(reading.token_ids))) for reading in readings]
    n_pairs = len(request.pairs)
    counts = [
        sum(len(positions) for positions in half) for half in (wanted[:n_pairs], wanted[n_pairs:])
    ]
    if min(counts) == 0:
        raise PromptPairError(
            "The model wrote no answer to any prompt, so there are no response tokens to read; "
            "read at the last prompt token, or use other contents."
        )
    found, _ = read_resid(
        model,
        [reading.token_ids for reading in readings],
        list(layers),
        wanted,
        on_row=(lambda done, total: step(done, total, "reading")) if step else None,
        reduce=lambda resid: resid.double().sum(dim=0),
    )
    differences = {}
    for layer in layers:
        sums = torch.stack(found[layer])
        positive, negative = sums[:n_pairs].sum(0), sums[n_pairs:].sum(0)
        differences[layer] = (positive / counts[0] - negative / counts[1]).float()
    return differences
