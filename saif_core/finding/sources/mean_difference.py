"""Source ``mean_difference``: a steering vector without an SAE.

Source: Contrastive Activation Addition (arXiv 2312.06681) and AxBench's DiffMean, reconstructed;
read over response tokens, the difference is between the model's own answers.
"""

from collections.abc import Iterator

from saif_core.finding.study import Study
from saif_core.records.steering import Edit


def mean_difference(study: Study) -> Iterator[Edit]:
    """The mean residual stream with the instruction minus that without."""
    for layer in study.layers:
        yield study.edit(layer, vector=study.mean_difference(layer))
