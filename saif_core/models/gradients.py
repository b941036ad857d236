"""Forward passes that something is learned by: logits that are differentiable in what is written.

The model's own weights are not learned. What nothing is written to need not be computed again at
every step: the keys and values of prompts are read once, see ``read_prompt_keys``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from saif_core.errors import ModelError
from saif_core.models.hook_points import edit_resid
from saif_core.models.loaded_model import LoadedModel

ROWS_PER_PASS = 16


class PromptKeys(NamedTuple):
    """Keys and values of a text's first tokens: a pair (heads, tokens, d_head) for every layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    n_tokens: int


def logits_with_gradient(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    write: Mapping[int, Callable[[Tensor], Tensor]],
    strengths: Sequence[Sequence[float]],
    keys: Sequence[PromptKeys] | None = None,
) -> list[Float[Tensor, "n d_vocab"]]:
    """For each sequence the logits that predict what follows its start.

    Args:
        sequences: token ids.
        starts: position of each sequence from which on its logits are wanted.
        write: by layer, what is added to the residual stream (batch, pos, d_model) there, which
            is given as zero at tokens that nothing is added to.
        strengths: what it is multiplied by at every token of each sequence.
        keys: of each sequence's tokens before its start, to which nothing is written then; without
            them whole sequences are run.

    Raises:
        ModelError: the model mixes precisions, which keeps no gradient of what is added.
    """
    if model.mixed_precision:
        raise ModelError(
            f"Model {model.id!r} mixes two precisions, in which nothing can be learned; load it "
            "in float32 or bfloat16."
        )
    first = [0] * len(sequences) if keys is None else list(starts)
    tokens = _padded([list(s)[f:] for s, f in zip(sequences, first, strict=True)]).long()
    factors = _padded([list(s)[f:] for s, f in zip(strengths, first, strict=True)])
    offsets = [start - f for start, f in zip(starts, first, strict=True)]
    n_kept = tokens.shape[1] - min(offsets)
    context = _after(model, keys, tokens) if keys else _whole(model, sequences)

    def run() -> Tensor:
        with _writing(model, write, factors.to(model.device)[..., None]):
            logits: Tensor = model.hf_model(
                input_ids=tokens.to(model.device), logits_to_keep=n_kept, **context
            ).logits
        return logits

    with torch.enable_grad():
        logits = model.pausing(run)
    cut = tokens.shape[1] - n_kept
    return [
        logits[row, offset - cut : len(sequence) - f - 1 - cut]
        for row, (sequence, f, offset) in enumerate(zip(sequences, first, offsets, strict=True))
    ]


@torch.no_grad()
def read_prompt_keys(model: LoadedModel, prompts: Sequence[Sequence[int]]) -> list[PromptKeys]:
    """The keys and values of every token of some prompts; each has one token at least."""
    found: list[PromptKeys] = []
    for start in range(0, len(prompts), ROWS_PER_PASS):
        rows = prompts[start : start + ROWS_PER_PASS]
        cache = DynamicCache()
        tokens = _padded([list(row) for row in rows]).long().to(model.device)
        # Padding comes after, where nothing of a prompt sees it.
        model.pausing(partial(model.base_model, tokens, past_key_values=cache, use_cache=True))
        for at, row in enumerate(rows):
            # Models that keep anything else are refused before.
            held: list[Any] = list(cache.layers)
            layers = tuple(
                (one.keys[at, :, : len(row)].clone(), one.values[at, :, : len(row)].clone())
                for one in held
            )
            found.append(PromptKeys(layers, len(row)))
    return found


@contextmanager
def _writing(
    model: LoadedModel, write: Mapping[int, Callable[[Tensor], Tensor]], factors: Tensor
) -> Iterator[None]:
    def edit(layer: int, resid: Tensor) -> Tensor:
        here = factors.to(resid.device)
        # What is written may depend on a whole text, of which only steered tokens are seen.
        seen = torch.where(here == 0, 0.0, resid)
        # Not just a product with zero: what is written elsewhere may be anything.
        added = torch.where(here == 0, 0.0, here * write[layer](seen))
        # What is learned is often more precise than the model.
        return resid + added.to(resid.dtype)

    with ExitStack() as hooks:
        for layer in write:
            hooks.enter_context(edit_resid(model.blocks[layer], partial(edit, layer)))
        yield


def _whole(model: LoadedModel, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
    real = _padded([[1.0] * len(sequence) for sequence in sequences])
    return {"attention_mask": real.long().to(model.device), "use_cache": False}


def _after(model: LoadedModel, keys: Sequence[PromptKeys], tokens: Tensor) -> dict[str, Any]:
    """What a pass over tokens that follow some prompts is given; prompts are padded on the left."""
    lengths = torch.tensor([one.n_tokens for one in keys])[:, None]
    width, n_new = int(lengths.max()), tokens.shape[1]
    cache = DynamicCache()
    for number in range(len(keys[0].layers)):
        ks, vs = ([one.layers[number][part] for one in keys] for part in (0, 1))
        cache.update(_left_padded(ks, width), _left_padded(vs, width), number)
    new = lengths + torch.arange(n_new)
    positions = torch.cat([torch.arange(width) - (width - lengths), new], dim=1)
    mask = (positions[:, None] >= 0) & (positions[:, None] <= new[:, :, None])
    return {
        "position_ids": new.to(model.device),
        "attention_mask": model.attention_masks(mask[:, None], new, positions),
        "past_key_values": cache,
        "use_cache": True,
    }


def _padded(rows: Sequence[Sequence[float]]) -> Float[Tensor, "rows width"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])


def _left_padded(parts: Sequence[Tensor], width: int) -> Float[Tensor, "rows heads width d_head"]:
    return torch.stack(
        [torch.nn.functional.pad(part, (0, 0, width - part.shape[1], 0)) for part in parts]
    )
