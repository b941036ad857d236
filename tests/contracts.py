"""Values for the parameters of any plug-in, so that everything registered can be tried.

A new plug-in needs an entry only for a text parameter of a new name that has no usable default.
"""

from typing import Any

import torch

from saif_core.parameters import Parameter
from saif_core.registry import Registered
from saif_core.steering.target import VECTOR
from saif_core.steering.tensors import Tensors
from tests import tiny

# By the name of the parameter, whichever plug-in has it.
TEXTS = {
    "latents": f"{tiny.PLANTED_LATENT}:4.0, 3:-1.5",
    "instruction_id": "punctuation:no_comma",
    "keyword": "river",
    "question": "Is it about a river?",
}


def parameters_of(registered: Registered[Any], tensors: Tensors | None = None) -> dict[str, Any]:
    """Values that a plug-in works with: its defaults, and others where these say nothing.

    Args:
        tensors: keeps the steering vector of a parameter called ``tensors``.
    """
    wanted = [one for one in registered.parameters if one.required or one.default == ""]
    return {one.name: _value(registered.name, one, tensors) for one in wanted}


def _value(owner: str, parameter: Parameter, tensors: Tensors | None) -> Any:
    if parameter.name == "tensors" and tensors is not None:
        return tensors.put({VECTOR: 4 * tiny.plant_direction()})
    if parameter.choices:
        return parameter.choices[0]
    if parameter.kind is bool:
        return False
    if parameter.kind in (int, float):
        return parameter.accept(parameter.least if parameter.least is not None else 1)
    assert parameter.name in TEXTS, (
        f"{owner} has a text parameter {parameter.name!r} without a usable default; give "
        "tests/contracts.py a value for it."
    )
    return TEXTS[parameter.name]


def planted_resid(*, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Two rows of residual streams (2, 5, d_model), the second full of the planted direction."""
    resid = torch.randn(2, 5, tiny.D_MODEL, generator=torch.Generator().manual_seed(5))
    resid[1] += 3 * tiny.plant_direction()
    return resid.to(dtype)
