"""Residual streams as logits: what a model's final norm and head make of them."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

# Logits that are in memory at once, in float32: with 262,144 tokens, those of 64 positions.
MOST_LOGIT_BYTES = 64 << 20


class Unembedding:
    """What a model's final norm and head make of residual streams.

    Attributes:
        hf_model: the whole model, as transformers loads it.
        base_model: its blocks with the final norm, without the head.
    """

    hf_model: Any
    base_model: nn.Module
    final_norm: nn.Module
    d_model: int
    d_vocab: int
    device: torch.device
    _some_weight: Tensor

    @torch.no_grad()
    def unembed(self, resid: Tensor) -> Tensor:
        """Logits (…, d_vocab) of residual streams (…, d_model), by the model's norm and head."""
        rows = resid.to(self.device, self._some_weight.dtype).reshape(1, -1, self.d_model)
        logits = self._head_logits(self.final_norm(rows)).float()
        return logits.reshape(*resid.shape[:-1], logits.shape[-1])

    def unembed_parts(self, resid: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """``unembed`` of (n, d_model), a part at a time: which rows, and their logits."""
        for rows in self.logit_parts(len(resid)):
            yield rows, self.unembed(resid[rows])

    def logit_parts(self, n: int, *, copies: int = 1) -> Iterator[slice]:
        """Parts of ``n`` rows whose logits may be in memory at once.

        Args:
            n: rows in all.
            copies: logits of each row.
        """
        n_rows = max(MOST_LOGIT_BYTES // (4 * self.d_vocab * copies), 1)
        return (slice(start, min(start + n_rows, n)) for start in range(0, n, n_rows))

    @torch.no_grad()
    def unembed_directions(self, directions: Tensor) -> Tensor:
        """Logits (n, d_vocab) that directions (n, d_model) add, by the final norm's scale alone."""
        head = self.hf_model.get_output_embeddings()
        # Asked before the head is fetched, as asking runs it.
        (scale, centres), factor = self._norm_scale, self._logit_scale
        # Weights that no device has room for are fetched for the time of their use.
        with align_module_device(head):
            directions = directions.to(head.weight.device).float()
            if centres:
                directions = directions - directions.mean(dim=-1, keepdim=True)
            scaled = directions * scale.to(directions.device) * factor
            return _times_head(scaled, head.weight).to(self.device)

    def _head_logits(self, hidden: Tensor) -> Tensor:
        """What the model makes of hidden states (1, n, d_model) after its final norm.

        Heads scale, bend and offset logits, each family in its own way, so the model's own code is
        run on them.
        """

        def given(*_args: Any, **_inputs: Any) -> _HiddenStates:
            return _HiddenStates(hidden)

        inner: Any = self.base_model
        kept = inner.__dict__.get("forward")
        inner.forward = given
        try:
            ids = torch.zeros(1, hidden.shape[1], dtype=torch.long, device=self.device)
            logits: Tensor = self.hf_model(input_ids=ids, use_cache=False).logits
        finally:
            if kept is None:
                del inner.forward
            else:
                inner.forward = kept
        return logits

    @cached_property
    @torch.no_grad()
    def _norm_scale(self) -> tuple[Tensor, bool]:
        """What the final norm multiplies each dimension by, and whether it takes the mean out.

        The norm is asked rather than its name: what it makes of a stream of size 1 and of its
        opposite differs by twice its scale.
        """
        with align_module_device(self.final_norm):
            weights = list(self.final_norm.parameters())
            signs = torch.ones(self.d_model, device=weights[0].device if weights else self.device)
            signs[1::2] = -1.0
            if self.d_model % 2:
                signs[-1] = 0.0
            probe = signs.to(self._some_weight.dtype)
            spread = self.final_norm(torch.stack([probe, -probe, probe + 1.0])[None])[0].float()
            halves = (spread[0] - spread[1]) / 2
            scale = torch.where(signs == 0, 1.0, halves / torch.where(signs == 0, 1.0, signs))
            # A stream that is shifted as a whole reads alike only where the mean is taken out.
            centres = bool((spread[2] - spread[0]).abs().max() < 0.01 * halves.abs().max())
        return scale, centres

    @cached_property
    @torch.no_grad()
    def _logit_scale(self) -> float:
        """What the model multiplies its head's logits by; 1 for most."""
        head = self.hf_model.get_output_embeddings()
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(self.d_model, generator=generator).to(
            self.device, self._some_weight.dtype
        )
        # Small, as some models bend large logits.
        rows = torch.stack([probe * 0.01, probe * 0.0])[None]
        with align_module_device(head):
            first = rows[0, :1].float().to(head.weight.device)
            plain = _times_head(first, head.weight)[0]
        made = self._head_logits(rows)[0].float()
        plain = plain.to(made.device)
        added = made[0] - made[1]
        largest = plain.abs() > 0.1 * plain.abs().max()
        return float((added[largest] / plain[largest]).median())


def _times_head(rows: Tensor, weight: Tensor) -> Tensor:
    """Products (n, d_vocab) of rows with a head's weight (d_vocab, d_model), in float32."""
    if weight.dtype == torch.float32:
        return rows @ weight.T
    # A copy in float32 of a large vocabulary's head would take gigabytes.
    n = max(MOST_LOGIT_BYTES // (4 * weight.shape[-1]), 1)
    starts = range(0, len(weight), n)
    return torch.cat([rows @ weight[start : start + n].float().T for start in starts], dim=-1)


class _HiddenStates:
    """What a stack of blocks returns, with nothing but the hidden states in it."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, _index: int) -> Tensor:
        return self.last_hidden_state

    def __getattr__(self, _name: str) -> None:
        return None
