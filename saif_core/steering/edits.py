"""Step 6: what is added to the residual stream of a row, where, and how strongly along its text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from saif_core.records.steering import Schedule


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
        schedule: which tokens are steered, and how strongly along the text.
        keep_norm: rescale the edited residual stream to the norm it had.
        gates: residual stream → how far each gate of the delta is open (batch, pos, k); None for
            a delta without gates.
        may_be_silent: adding nothing is no sign of a fault, as where gates may be closed.
    """

    layer: int
    delta: Delta
    strength: float
    schedule: Schedule = Schedule()
    keep_norm: bool = False
    gates: Callable[[Tensor], Tensor] | None = None
    may_be_silent: bool = False

    def strength_at(self, step: int) -> float:
        """Strength while token number ``step`` of the answer is being written."""
        return self.schedule.strength_at(self.strength, step)

    def strengths(self, n_prompt: int, n_tokens: int) -> Float[Tensor, "1 pos 1"]:
        """``Schedule.strengths`` as a factor of what is added to one row."""
        found = self.schedule.strengths(self.strength, n_prompt, n_tokens)
        return torch.tensor(found)[None, :, None]

    @property
    def edits_prompt(self) -> bool:
        """Whether tokens before the last one of the prompt are steered."""
        return self.schedule.edits_prompt and self.strength != 0


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
        added = torch.broadcast_to(delta(resid), resid.shape)
        edited = edited + torch.where(strengths == 0, 0.0, strengths * added)
        keeps_norm = keeps_norm | keeps
    norms = [x.float().norm(dim=-1, keepdim=True) for x in (resid, edited)]
    scale = (norms[0] / norms[1].clamp(min=1e-9)).to(resid.dtype)
    return torch.where(keeps_norm, edited * scale, edited)
