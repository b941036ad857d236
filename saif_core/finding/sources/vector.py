"""Source ``vector``: a steering vector that was uploaded, downloaded or computed elsewhere."""

from collections.abc import Iterator

from saif_core.errors import SteeringError
from saif_core.finding.study import Study
from saif_core.records.steering import Edit
from saif_core.steering.target import VECTOR


def vector(study: Study, *, tensors: str = "") -> Iterator[Edit]:
    """A vector of the residual stream, added as it is.

    Args:
        tensors: the hash that the vector is kept under, which uploading it tells.
    """
    if not tensors:
        raise SteeringError("No vector was given; upload one, and give the hash it is kept under.")
    kept = study.tensors.get(tensors)
    if VECTOR not in kept:
        raise SteeringError(
            f"The tensors {tensors[:12]} hold {', '.join(kept)}, but no tensor called 'vector'; "
            "upload a steering vector."
        )
    for layer in study.layers:
        yield study.edit(layer, vector=kept[VECTOR])
