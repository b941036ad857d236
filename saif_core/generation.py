"""Step 7: prompts × arms in one batch, decoded together, steered row by row.

Row r has its own strength: the unsteered arm is the row whose strength is 0, by the same code
path. Sampling is by the Gumbel-max trick with noise keyed by (seed, sample, step), so arms share
their random draws and a difference between two arms comes from steering.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache

from saif_core.errors import SteeringError
from saif_core.hook_points import edit_resid
from saif_core.models import LoadedModel
from saif_core.records import SteeringScope

OnStep = Callable[[int, Sequence[Sequence[int]]], None]


class Delta(Protocol):
    """A steering method with everything but the residual stream filled in."""

    def __call__(
        self, resid: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What strength 1 adds to the residual stream."""


@dataclass
class Steering:
    """Where and how strongly each row of a batch is steered.

    Attributes:
        layer: block after which the residual stream is edited.
        delta: what strength 1 adds.
        strengths: one per row; 0 leaves the row alone.
        scope: "generated" = the last prompt token and every generated one; "all"; "prompt".
        n_calls: forward passes in which the hook fired.
        added_norm, resid_norm: of the last steered position of the prompt, for reporting.
    """

    layer: int
    delta: Delta
    strengths: tuple[float, ...]
    scope: SteeringScope = "generated"
    n_calls: int = 0
    added_norm: float = 0.0
    resid_norm: float = 0.0
    _real: Bool[Tensor, "batch pos"] | None = field(default=None, repr=False)

    def expect(self, real: Bool[Tensor, "batch pos"]) -> None:
        """Tell the hook which positions of the next forward pass are not padding."""
        self._real = real

    def edit(self, resid: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream with every row's own share of the steering vector."""
        assert self._real is not None
        strengths = torch.tensor(self.strengths, device=resid.device, dtype=resid.dtype)
        where = self._positions(is_prompt=self.n_calls == 0)
        added = self.delta(resid) * (strengths[:, None] * where)[..., None]
        if self.n_calls == 0:
            row = int(strengths.abs().argmax())
            self.added_norm = float(added[row, -1].float().norm())
            self.resid_norm = float(resid[row, -1].float().norm())
        self.n_calls += 1
        return resid + added

    def _positions(self, *, is_prompt: bool) -> Float[Tensor, "batch pos"]:
        assert self._real is not None
        where = self._real.float()
        if is_prompt and self.scope == "generated":
            where = torch.zeros_like(where)
            where[:, -1] = 1.0
        if not is_prompt and self.scope == "prompt":
            where = torch.zeros_like(where)
        return where


@dataclass(frozen=True)
class DecodedRow:
    """Tokens of one row, the end token left out."""

    token_ids: tuple[int, ...]
    ended: bool


@torch.no_grad()
def decode_batch(
    model: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    steering: Steering | None = None,
    on_step: OnStep | None = None,
) -> list[DecodedRow]:
    """Answers to all prompts, one batched forward pass per token.

    Args:
        prompts: token ids of each row.
        max_new_tokens: tokens to write at most.
        temperature: 0 is greedy.
        seed: of the sampling noise.
        samples: sample number of each row; rows with the same number share their noise.
        steering: one strength per row.
        on_step: told (tokens so far, token ids of every row) after each step; may raise to stop.

    Raises:
        SteeringError: a steered run whose hook never fired or that changed no logit.
    """
    token_ids, attention = _left_pad(model, prompts)
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    ends = torch.tensor(sorted(model.end_token_ids), device=model.device)
    running = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    texts: list[list[int]] = [[] for _ in prompts]
    cache = DynamicCache(config=model.hf_model.config)
    for step in range(max_new_tokens):
        logits = _steered_step(model, token_ids, positions, attention, cache, steering)
        if step == 0 and steering is not None:
            _check_effect(model, prompts, logits, steering)
        chosen = _sample(logits, temperature, seed, samples or [0] * len(prompts), step)
        running = running & ~torch.isin(chosen, ends)
        for row in running.nonzero().flatten().tolist():
            texts[row].append(int(chosen[row]))
        if on_step:
            on_step(step + 1, texts)
        if not running.any():
            break
        token_ids = chosen[:, None]
        positions = positions[:, -1:] + 1
        attention = torch.cat([attention, torch.ones_like(attention[:, :1])], dim=1)
    ended = (~running).tolist()
    return [DecodedRow(tuple(text), end) for text, end in zip(texts, ended, strict=True)]


def _left_pad(model: LoadedModel, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    token_ids = torch.zeros((len(prompts), width), dtype=torch.long)
    attention = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        token_ids[row, width - len(prompt) :] = torch.tensor(list(prompt))
        attention[row, width - len(prompt) :] = 1
    return token_ids.to(model.device), attention.to(model.device)


def _steered_step(
    model: LoadedModel,
    token_ids: Tensor,
    positions: Tensor,
    attention: Tensor,
    cache: DynamicCache,
    steering: Steering | None,
) -> Float[Tensor, "batch d_vocab"]:
    if steering is None:
        return model.decode_step(token_ids, positions, attention, cache)
    steering.expect(attention[:, -token_ids.shape[1] :].bool())
    n_calls = steering.n_calls
    with edit_resid(model.blocks[steering.layer], steering.edit):
        logits = model.decode_step(token_ids, positions, attention, cache)
    if steering.n_calls != n_calls + 1:
        raise SteeringError(
            f"The steering hook after block {steering.layer} fired {steering.n_calls - n_calls} "
            "times in one forward pass instead of once, so the text would not be what its label "
            "says; choose another layer or model."
        )
    return logits


def _check_effect(
    model: LoadedModel, prompts: Sequence[Sequence[int]], logits: Tensor, steering: Steering
) -> None:
    """Compare each steered row with the unsteered row of the same prompt, if the batch has one."""
    plain = {tuple(p): r for r, p in enumerate(prompts) if steering.strengths[r] == 0}
    for row, strength in enumerate(steering.strengths):
        twin = plain.get(tuple(prompts[row]))
        if strength and twin is not None and torch.equal(logits[row], logits[twin]):
            raise SteeringError(
                f"Steering with strength {strength:g} changed no logit of model {model.id!r}; "
                "raise the strength or choose latents with larger coefficients."
            )


def _sample(
    logits: Float[Tensor, "batch d_vocab"],
    temperature: float,
    seed: int,
    samples: Sequence[int],
    step: int,
) -> Tensor:
    if temperature == 0:
        return logits.argmax(dim=-1)
    noise = {sample: _gumbel(logits.shape[-1], seed, sample, step) for sample in set(samples)}
    rows = torch.stack([noise[sample] for sample in samples]).to(logits.device)
    return (logits / temperature + rows).argmax(dim=-1)


def _gumbel(d_vocab: int, seed: int, sample: int, step: int) -> Float[Tensor, " d_vocab"]:
    # Drawn on the CPU, so that the same seed gives the same text on every device.
    key = (seed * 1_000_003 + sample) * 1_000_003 + step
    generator = torch.Generator().manual_seed(key % (1 << 63))
    uniform = torch.rand(d_vocab, generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return -torch.log(-torch.log(uniform)).float()
