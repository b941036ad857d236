"""Quality of an SAE on text that was not trained on: FVU, CE loss recovered, L0, dead latents.

Attention sinks, the first token of every sequence and the rare later token whose residual norm is
more than SINK_NORM_RATIO times the median, are not what SAEs are trained on: they keep their own
residual stream and are left out of FVU and L0.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from saif_core.errors import SaifError
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel
from saif_core.records.saes import SaeCard
from saif_core.saes.loaded_sae import SINK_NORM_RATIO, LoadedSae

BATCH_ROWS = 8


class SaeMeasurement(NamedTuple):
    """Cards per kind of text, and which latents fired on none of them."""

    cards: tuple[SaeCard, ...]
    dead_fraction: float


_Edit = Callable[[Tensor, Tensor], Tensor]  # (batch, pos, d_model), (batch, pos) → edited


class _Batch(NamedTuple):
    token_ids: Tensor  # (batch, pos), right-padded
    scored: Tensor  # (batch, pos) bool: real tokens after the first


def measure_sae(
    model: LoadedModel, sae: LoadedSae, held_out: Mapping[str, Sequence[Sequence[int]]]
) -> SaeMeasurement:
    """Measure an SAE on every kind of text.

    Args:
        held_out: {kind of text: token sequences of at least 2 tokens}.

    Raises:
        SaifError: a kind has no sequence that is long enough.
    """
    fired = torch.zeros(sae.d_sae, dtype=torch.bool)
    cards = tuple(
        _measure_text(model, sae, kind, sequences, fired) for kind, sequences in held_out.items()
    )
    return SaeMeasurement(cards, 1.0 - float(fired.float().mean()))


def _measure_text(
    model: LoadedModel,
    sae: LoadedSae,
    kind: str,
    sequences: Sequence[Sequence[int]],
    fired: Tensor,
) -> SaeCard:
    batches = _make_batches([s for s in sequences if len(s) >= 2])
    if not batches:
        raise SaifError(f"There is no text of kind {kind!r} to measure on; give some sentences.")
    reconstruction = _Reconstruction(sae, fired)
    losses = {
        "clean": _mean_loss(model, sae.layer, batches, _keep),
        "zero": _mean_loss(model, sae.layer, batches, _zero),
        "sae": _mean_loss(model, sae.layer, batches, reconstruction),
    }
    fvu = reconstruction.fvu()
    return SaeCard(
        text=kind,
        n_tokens=reconstruction.n_tokens,
        fvu=fvu,
        explained_variance=1.0 - fvu,
        ce_recovered=(losses["zero"] - losses["sae"]) / (losses["zero"] - losses["clean"]),
        l0=reconstruction.n_active / reconstruction.n_tokens,
    )


def _keep(resid: Tensor, _scored: Tensor) -> Tensor:
    return resid


def _zero(resid: Tensor, scored: Tensor) -> Tensor:
    return resid * ~scored[..., None]


def _edit_where(edit: _Edit, scored: Tensor, resid: Tensor) -> Tensor:
    return edit(resid, scored)


class _Reconstruction:
    """Replaces the residual stream by its reconstruction; keeps the sums for FVU and L0."""

    def __init__(self, sae: LoadedSae, fired: Tensor) -> None:
        self._sae, self._fired = sae, fired
        self.n_tokens = self.n_active = 0
        self._error = self._square = 0.0
        self._sum: Tensor | None = None

    def __call__(self, resid: Tensor, scored: Tensor) -> Tensor:
        norms = resid.float().norm(dim=-1)
        scored = scored & (norms < SINK_NORM_RATIO * norms[scored].median())
        rows = resid[scored].float()
        activations = self._sae.encode(rows)
        decoded = self._sae.decode(activations)
        self.n_tokens += len(rows)
        self.n_active += int((activations > 0).sum())
        self._fired |= (activations > 0).any(dim=0).cpu()
        self._error += float((rows - decoded).double().pow(2).sum())
        self._square += float(rows.double().pow(2).sum())
        total = rows.double().sum(dim=0)
        self._sum = total if self._sum is None else self._sum + total
        edited = resid.clone()
        edited[scored] = decoded.to(resid.dtype)
        return edited

    def fvu(self) -> float:
        assert self._sum is not None
        variance = self._square - float(self._sum.pow(2).sum()) / self.n_tokens
        return self._error / variance


def _make_batches(sequences: Sequence[Sequence[int]]) -> list[_Batch]:
    ordered = sorted(sequences, key=len)
    batches = []
    for start in range(0, len(ordered), BATCH_ROWS):
        rows = ordered[start : start + BATCH_ROWS]
        width = max(map(len, rows))
        token_ids = torch.zeros((len(rows), width), dtype=torch.long)
        scored = torch.zeros((len(rows), width), dtype=torch.bool)
        for index, row in enumerate(rows):
            token_ids[index, : len(row)] = torch.tensor(list(row))
            scored[index, 1 : len(row)] = True
        batches.append(_Batch(token_ids, scored))
    return batches


def _mean_loss(
    model: LoadedModel,
    layer: int,
    batches: Sequence[_Batch],
    edit: _Edit,
) -> float:
    """Mean next-token cross-entropy (nats) over targets whose own token is scored and edited."""
    total, n_targets = 0.0, 0
    for token_ids, scored in batches:
        ids, where = token_ids.to(model.device), scored.to(model.device)
        with edit_resid(model.blocks[layer], partial(_edit_where, edit, where)):
            lengths = [1 + n for n in scored.sum(dim=1).tolist()]
            last = model.run_sequences(ids, lengths, [model.n_layers - 1])[model.n_layers - 1]
        # Position 0 predicts token 1 from the sink alone, which no edit touches.
        targets = where[:, 2:]
        resid, next_ids = last[:, 1:-1][targets.to(last.device)], ids[:, 2:][targets]
        for rows, logits in model.unembed_parts(resid):
            log_probs = torch.log_softmax(logits, dim=-1)
            chosen = log_probs.gather(1, next_ids[rows][:, None])
            total -= float(chosen.double().sum())
        n_targets += len(next_ids)
    return total / n_targets
