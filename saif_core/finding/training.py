"""Training by the language model's loss: what every source that learns by it has in common.

It takes named tensors and how they are written, and lowers the loss of target answers by Adam. It
goes on after a stop, reports its progress, and gives way to people at every step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Interval
from jaxtyping import Float
from torch import Tensor

from saif_core.finding.study import GENERATED, Study, Target
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.steering import Schedule
from saif_core.saes.loaded_sae import LoadedSae
from saif_core.steering.edits import Delta

Write = Callable[[Mapping[str, Tensor]], Mapping[int, Delta]]
BATCH = 12
# Parameters that every trained source has.
Contents = Annotated[int, Interval(ge=2, le=2000)]
AnswerTokens = Annotated[int, Interval(ge=4, le=256)]
Steps = Annotated[int, Interval(ge=1, le=5000)]
Share = Annotated[float, Interval(gt=0, le=1)]
_FIRST, _SECOND = "first.", "second."  # Adam's moments, as a checkpoint names them
_LOSSES = "losses"


@dataclass(frozen=True, eq=False)
class Trained:
    """What training found.

    Attributes:
        tensors: the trained ones, by name.
        losses: (steps,) of each step's batch before it, in nats per token.
    """

    tensors: Mapping[str, Tensor]
    losses: Float[Tensor, " steps"]


def train(
    study: Study,
    start: Mapping[str, Tensor],
    write: Write,
    targets: Sequence[Target],
    *,
    steps: int,
    rates: Mapping[str, float],
    batch: int = BATCH,
    schedule: Schedule = GENERATED,
    penalty: Callable[[], Tensor] | None = None,
) -> Trained:
    """Lower the loss of the targets' answers by Adam, in batches drawn by the study's seed.

    Args:
        start: where training begins, by name; float32.
        write: the tensors → what is added after each layer.
        rates: learning rate of each tensor; those without one stay as they are.
        schedule: the tokens that are steered.
        penalty: added to each step's loss, once it has been run.
    """
    tensors = {name: tensor.clone().float() for name, tensor in start.items()}
    learned = [name for name in tensors if rates.get(name)]
    for name in learned:
        tensors[name].requires_grad_()
    adam = torch.optim.Adam([{"params": [tensors[n]], "lr": rates[n]} for n in learned])
    losses = torch.zeros(steps)
    done, kept = study.resume(steps)
    if done:
        _take_up(tensors, learned, adam, kept, done)
        losses[:done] = kept[_LOSSES][:done]
    for at in range(done, steps):
        chosen = _batch(targets, at, batch, study.seed)
        with quick_math(study.model.device):
            loss = study.loss(write(tensors), chosen, schedule=schedule)
        if penalty:
            loss = loss + penalty()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        losses[at] = loss.detach()
        study.checkpoint(at + 1, steps, **_state(tensors, learned, adam), **{_LOSSES: losses})
        study.step(at + 1, steps, f"training, loss {float(losses[at]):.2f}")
    return Trained({name: tensor.detach() for name, tensor in tensors.items()}, losses)


@contextmanager
def quick_math(device: torch.device) -> Iterator[None]:
    """Products of matrices in bfloat16, on CPUs that are faster at it.

    Only a training may be so: its gradients hardly change, and it takes half the time.
    """
    has_it = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    with torch.autocast("cpu", torch.bfloat16, enabled=has_it):
        yield


def attribute(
    study: Study, layer: int, targets: Sequence[Target], *, batch: int = BATCH
) -> Float[Tensor, " d_sae"]:
    """How much every latent's direction would lower the loss: its mean positive part by token.

    Gradient attribution: minus the gradient of the targets' loss at each token that would be
    steered, along the latent's decoder direction, negative values counted as zero.

    Source: Building Bridges (arXiv 2501.18887) for the gradient as attribution; reconstructed.
    """
    sae = study.sae(layer)
    directions = torch.nn.functional.normalize(sae.W_dec.float(), dim=-1)
    total, n_tokens = torch.zeros(sae.d_sae, device=directions.device), 0
    for start in range(0, len(targets), batch):
        chosen = targets[start : start + batch]
        gradients = _gradients(study, layer, chosen).to(directions.device)
        total += (-gradients @ directions.T).clamp(min=0).sum(0)
        n_tokens += len(gradients)
        study.step(min(start + batch, len(targets)), len(targets), "reading gradients")
    return total / max(n_tokens, 1)


def unit_steps(
    model: LoadedModel, sae: LoadedSae, indices: Sequence[int], share: float
) -> Float[Tensor, " k"]:
    """Coefficients at which each latent adds a share of the norm of a neutral residual stream."""
    resid = model.neutral_resid(sae.layer).float()
    rows = sae.W_dec[list(indices)].float()
    scale = sae.resid_scale(resid[None]).to(rows.device)
    return torch.as_tensor(share * resid.norm().to(rows.device) / (rows * scale).norm(dim=-1))


def share_of_norm(
    model: LoadedModel, layer: int, direction: Float[Tensor, " d_model"], share: float
) -> Float[Tensor, " d_model"]:
    """A direction at a share of the norm of a neutral residual stream."""
    norm: Tensor = share * model.neutral_resid(layer).float().norm()
    return norm * torch.nn.functional.normalize(direction.float().to(norm.device), dim=0)


def gate(
    resid: Float[Tensor, "... d_model"],
    weight: Float[Tensor, "k d_model"],
    bias: Float[Tensor, " k"],
) -> Float[Tensor, "... k"]:
    """ReLU(w · u + b), how far each gate is open; u is the residual stream at norm √d_model.

    Sizes of the residual stream differ by orders of magnitude between layers and tokens.
    """
    precise = resid.float()
    rms = precise.pow(2).mean(-1, keepdim=True).sqrt()
    unit = precise / rms.clamp(min=1e-6)
    return torch.relu(unit @ weight.to(unit.device).T + bias.to(unit.device))


def _gradients(study: Study, layer: int, targets: Sequence[Target]) -> Float[Tensor, "n d_model"]:
    """Gradient of the targets' summed loss at every token that is steered."""
    probes: list[Tensor] = []

    def probe(resid: Tensor) -> Tensor:
        probes.append(torch.zeros_like(resid, dtype=torch.float32).requires_grad_())
        return probes[-1]

    with quick_math(study.model.device):
        loss = study.loss({layer: probe}, targets) * sum(len(target.answer) for target in targets)
    (found,) = torch.autograd.grad(loss, probes[-1])
    # Tokens that are not steered, padding among them, have a gradient of exactly zero.
    return torch.as_tensor(found[found.abs().sum(-1) > 0])


def _batch(targets: Sequence[Target], at: int, batch: int, seed: int) -> list[Target]:
    """The targets of a step: every one once, in an order of its own, before any comes again."""
    size = min(batch, len(targets))
    per_round = len(targets) // size
    generator = torch.Generator().manual_seed(seed * 1_000_003 + at // per_round)
    order = torch.randperm(len(targets), generator=generator).tolist()
    first = at % per_round * size
    return [targets[number] for number in order[first : first + size]]


def _state(
    tensors: Mapping[str, Tensor], learned: Sequence[str], adam: torch.optim.Adam
) -> dict[str, Tensor]:
    found = {name: tensors[name] for name in learned}
    for name in learned:
        moments = adam.state[tensors[name]]
        found[_FIRST + name], found[_SECOND + name] = moments["exp_avg"], moments["exp_avg_sq"]
    return found


def _take_up(
    tensors: Mapping[str, Tensor],
    learned: Sequence[str],
    adam: torch.optim.Adam,
    kept: Mapping[str, Tensor],
    done: int,
) -> None:
    for name in learned:
        with torch.no_grad():
            tensors[name].copy_(kept[name])
        adam.state[tensors[name]] = {
            "step": torch.tensor(float(done)),
            "exp_avg": kept[_FIRST + name].clone(),
            "exp_avg_sq": kept[_SECOND + name].clone(),
        }
