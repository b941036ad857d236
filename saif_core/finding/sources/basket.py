"""Source ``basket``: latents that a person chose, with coefficients of their own."""

from collections.abc import Iterator

from saif_core.errors import SteeringError
from saif_core.finding.study import Study
from saif_core.inputs.latent_lists import parse_latents
from saif_core.records.steering import Edit


def basket(study: Study, *, latents: str = "") -> Iterator[Edit]:
    """Chosen latents with their coefficients.

    Args:
        latents: as INDEX:COEFFICIENT, with commas between them.
    """
    chosen = parse_latents(latents)
    if not chosen:
        raise SteeringError("The basket is empty; choose at least one latent to steer with.")
    if len(study.layers) > 1:
        raise SteeringError(
            f"The basket holds latents of one SAE, but {len(study.layers)} layers were asked for; "
            "choose one."
        )
    for layer in study.layers:
        yield study.edit(layer, latents=chosen)
