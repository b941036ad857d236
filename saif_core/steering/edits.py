"""Step 6: what is added to the residual stream of a row, where, and how strongly along its text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.records.steering import SteeringScope


class Delta(Protocol):
    """A steering method with everything but the residual stream filled in."""

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What strength 1 adds to the residual stream."""


@dataclass(frozen=True, eq=False)
class Steering:
    """What is added to the residual stream of a row, and where.

    Attributes:
        layer: block after which the residual stream is edited.
        delta: what strength 1 adds.
        strength: 0 leaves the row alone.
        scope, first, decay, decay_power, keep_norm: see ``Arm``.
    """

    layer: int
    delta: Delta
    strength: float
    scope: SteeringScope = "generated"
    first: int = 1
    decay: float = 0.0
    decay_power: float = 1.0
    keep_norm: bool = False

    def strength_at(self, step: int) -> float:
        """Strength while token number ``step`` of the answer is being written.

        Source of the decay: arXiv 2510.01246.
        """
        if self.scope not in ("generated", "all"):
            n_steps = self.first if self.scope == "first" else 1
            if step >= n_steps:
                return 0.0
        return float(self.strength / (1 + self.decay * step) ** self.decay_power)

    @property
    def edits_prompt(self) -> bool:
        """Whether tokens before the last one of the prompt are steered."""
        return self.scope in ("all", "prompt") and self.strength != 0


def add_deltas(
    resid: Float[Tensor, "batch pos d_model"],
    changes: Sequence[tuple[Delta, Tensor, Tensor]],
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream with every delta added, by its own strength at every position.

    Args:
        resid: residual stream after a block.
        changes: deltas, each with its strengths, and with whether the sum keeps the norm of the
            residual stream; both broadcast to (batch, pos, 1).
    """
    edited = resid
    keeps_norm = torch.zeros((), dtype=torch.bool, device=resid.device)
    for delta, strengths, keeps in changes:
        strengths = strengths.to(resid.device, resid.dtype)
        # Not just a product with zero: what a method makes of the other rows is nobody's.
        edited = edited + torch.where(strengths == 0, 0.0, strengths * delta(resid))
        keeps_norm = keeps_norm | keeps
    norms = [x.float().norm(dim=-1, keepdim=True) for x in (resid, edited)]
    scale = (norms[0] / norms[1].clamp(min=1e-9)).to(resid.dtype)
    return torch.where(keeps_norm, edited * scale, edited)
