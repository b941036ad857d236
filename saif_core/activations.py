"""Step 2: token sequences → residual stream at hook points, each distinct prefix computed once.

Sequences are packed as prefix trees: one node per token, position id = depth, attention mask =
ancestors. SAIF's prompts share the chat template, the content and much of the instruction, so a
tree holds a fraction of their tokens; documents without shared prefixes are packed by the same
code, as several trees in one row, without padding between them. It knows nothing of SAEs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saif_core.errors import PromptPairError
from saif_core.models import LoadedModel

ROW_TOKENS = 512


@dataclass(frozen=True)
class PackedRow:
    """Some sequences as one forest of at most ``row_tokens`` nodes.

    Attributes:
        token_ids: (n_nodes,) token of each node.
        depths: (n_nodes,) position id of each node.
        mask: (n_nodes, n_nodes) True where the row node may attend to the column node.
        paths: for each packed sequence its index in the input and the nodes it runs through.
    """

    token_ids: np.ndarray
    depths: np.ndarray
    mask: np.ndarray
    paths: list[tuple[int, np.ndarray]]


def pack_prefix_trees(
    sequences: Sequence[Sequence[int]], *, row_tokens: int = ROW_TOKENS
) -> Iterator[PackedRow]:
    """Pack sequences into rows; neighbours in sorted order share their common prefix.

    Args:
        sequences: token ids, each of length 1 or more.
        row_tokens: nodes per row; a longer sequence gets a row of its own.

    Raises:
        PromptPairError: a sequence is empty.
    """
    for index, sequence in enumerate(sequences):
        if len(sequence) == 0:
            raise PromptPairError(f"Prompt {index + 1} has no tokens; give it some text.")
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
    builder = _RowBuilder()
    for index in order:
        tokens = np.asarray(sequences[index], dtype=np.int64)
        if builder.n_nodes and builder.n_nodes + builder.n_new(tokens) > row_tokens:
            yield builder.row()
            builder = _RowBuilder()
        builder.add(index, tokens)
    if builder.n_nodes:
        yield builder.row()


class _RowBuilder:
    def __init__(self) -> None:
        self.n_nodes = 0
        self._tokens: list[np.ndarray] = []
        self._depths: list[np.ndarray] = []
        self._spans: list[tuple[int, int, np.ndarray]] = []  # start, end, ancestors of the span
        self._paths: list[tuple[int, np.ndarray]] = []
        self._last = np.empty(0, dtype=np.int64)
        self._last_path = np.empty(0, dtype=np.int64)

    def _shared(self, sequence: np.ndarray) -> int:
        length = min(len(sequence), len(self._last))
        differs = np.nonzero(sequence[:length] != self._last[:length])[0]
        return int(differs[0]) if len(differs) else length

    def n_new(self, sequence: np.ndarray) -> int:
        return len(sequence) - self._shared(sequence)

    def add(self, index: int, sequence: np.ndarray) -> None:
        shared = self._shared(sequence)
        start, end = self.n_nodes, self.n_nodes + len(sequence) - shared
        path = np.concatenate([self._last_path[:shared], np.arange(start, end)])
        self._tokens.append(sequence[shared:])
        self._depths.append(np.arange(shared, len(sequence)))
        self._spans.append((start, end, path[:shared]))
        self._paths.append((index, path))
        self._last, self._last_path, self.n_nodes = sequence, path, end

    def row(self) -> PackedRow:
        mask = np.zeros((self.n_nodes, self.n_nodes), dtype=bool)
        for start, end, ancestors in self._spans:
            mask[start:end, ancestors] = True
            mask[start:end, start:end] = np.tri(end - start, dtype=bool)
        return PackedRow(
            np.concatenate(self._tokens), np.concatenate(self._depths), mask, self._paths
        )


def run_rows(
    model: LoadedModel, rows: Sequence[PackedRow], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Residual stream after each layer for a batch of rows: {layer: (batch, pos, d_model)}."""
    width = max(len(row.token_ids) for row in rows)
    token_ids = np.zeros((len(rows), width), dtype=np.int64)
    depths = np.zeros((len(rows), width), dtype=np.int64)
    # Padding nodes attend to themselves: a row with nothing to attend to would be NaN.
    mask = np.broadcast_to(np.eye(width, dtype=bool), (len(rows), 1, width, width)).copy()
    for position, row in enumerate(rows):
        n_nodes = len(row.token_ids)
        token_ids[position, :n_nodes] = row.token_ids
        depths[position, :n_nodes] = row.depths
        mask[position, 0, :n_nodes, :n_nodes] = row.mask
    return model.run_to_layers(
        torch.from_numpy(token_ids), torch.from_numpy(depths), torch.from_numpy(mask), layers
    )


def read_resid(
    model: LoadedModel,
    sequences: Sequence[Sequence[int]],
    layers: Sequence[int],
    wanted: Sequence[Sequence[int]],
    *,
    on_row: Callable[[int, int], None] | None = None,
) -> tuple[dict[int, list[Tensor]], int]:
    """Residual stream at chosen positions of every sequence.

    Args:
        sequences: token ids.
        wanted: positions to return for each sequence.
        on_row: told (sequences done, sequences in all) after each row.

    Returns:
        ({layer: one (n_wanted, d_model) tensor per sequence}, tokens that were computed).
    """
    found: dict[int, list[Tensor]] = {layer: [torch.empty(0)] * len(sequences) for layer in layers}
    n_computed = n_done = 0
    for row in pack_prefix_trees(sequences):
        resid = run_rows(model, [row], layers)
        for index, path in row.paths:
            nodes = torch.from_numpy(path[list(wanted[index])])
            for layer in layers:
                found[layer][index] = resid[layer][0][nodes.to(resid[layer].device)]
        n_computed += len(row.token_ids)
        n_done += len(row.paths)
        if on_row:
            on_row(n_done, len(sequences))
    return found, n_computed


def count_tree_tokens(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that ``read_resid`` would compute."""
    return sum(len(row.token_ids) for row in pack_prefix_trees(sequences))
