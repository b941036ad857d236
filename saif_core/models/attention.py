"""Attention masks as a model takes them, and whether it reads prefix trees as they are meant."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from saif_core.errors import ModelError

if TYPE_CHECKING:
    from saif_core.models.loaded_model import LoadedModel

# How a model whose own code limits attention by distance says so; a mask cannot lift such limits.
_WINDOW_SETTINGS = (
    "attention_chunk_size",
    "attention_types",
    "attention_window_size",
    "window_size",
)
_MASKED_KINDS = {"full_attention", "sliding_attention"}
_SHORT_WINDOW = 64


def attention_masks(
    config: Any, dtype: torch.dtype, mask: Tensor, positions: Tensor, key_positions: Tensor
) -> Any:
    """The mask as the model takes it: one, or one per kind of layer where some see a window.

    Args:
        config: the model's.
        dtype: of the model's residual stream.
        mask: (batch, 1, queries, keys) True where a query may attend to a key.
        positions, key_positions: (batch, queries) and (batch, keys) positions in the sequence.
    """
    if "sliding_attention" not in _attention_kinds(config):
        return _added_to_scores(mask, dtype)
    # The window counts positions in the sequence, not nodes of a tree or slots of a cache.
    distance = positions[:, None, :, None] - key_positions[:, None, None, :]
    near = _added_to_scores(mask & (distance < config.sliding_window), dtype)
    if not getattr(config, "layer_types", None):
        return near
    return {"full_attention": _added_to_scores(mask, dtype), "sliding_attention": near}


def tree_difference(model: "LoadedModel") -> float:
    """Largest relative difference at any token between a tree and its sequences alone.

    The tree: a stem with two branches, then a second root.

    Raises:
        ModelError: the model's own code limits attention, so that no tree can be read.
    """
    config = model.config
    own = [name for name in _WINDOW_SETTINGS if getattr(config, name, None) is not None]
    own += sorted(_attention_kinds(config) - _MASKED_KINDS)
    if own:
        raise ModelError(f"its configuration has {', '.join(own)}")
    window = getattr(config, "sliding_window", None) or 0
    n_stem, n_branch = (window if window <= _SHORT_WINDOW else 0) + 5, 3
    n_nodes = n_stem + 3 * n_branch
    nodes = torch.arange(n_nodes)
    stem, branch, root = nodes[:n_stem], nodes[-2 * n_branch : -n_branch], nodes[-n_branch:]
    paths = [nodes[: n_stem + n_branch], torch.cat([stem, branch]), root]
    token_ids = torch.arange(17, 17 + 7 * n_nodes, 7) % model.d_vocab
    positions, mask = torch.zeros(n_nodes, dtype=torch.long), torch.zeros(n_nodes, n_nodes)
    for path in paths:
        positions[path] = torch.arange(len(path))
        for depth, node in enumerate(path):
            mask[node, path[: depth + 1]] = 1
    last = model.n_layers - 1
    tree = model.run_to_layers(token_ids[None], positions[None], mask.bool()[None, None], [last])
    differences = []
    for path in paths:
        alone = model.run_sequences(token_ids[path][None], [len(path)], [last])[last][0]
        packed = tree[last][0][path.to(alone.device)]
        differences.append((packed - alone).norm(dim=-1) / alone.norm(dim=-1))
    return float(torch.cat(differences).max())


def _attention_kinds(config: Any) -> set[str]:
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds and getattr(config, "sliding_window", None):
        return {"sliding_attention"}
    return kinds


def _added_to_scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    # Attention would turn a boolean mask into this one in every block.
    lowest = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest)
