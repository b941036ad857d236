"""Step 2: token sequences → residual stream at hook points, each distinct prefix computed once.

Sequences that share prefixes are packed as prefix trees: one node per token, position id = depth,
attention mask = ancestors. SAIF's prompts share the chat template, the content and much of the
instruction, so a tree holds a fraction of their tokens. Sequences that share next to nothing, and
all sequences of a model that cannot read trees, run whole, next to others of their length. Either
way a row bounds the memory and the wait of a forward pass. It knows nothing of SAEs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import Tensor

from saif_core.errors import PromptPairError
from saif_core.models.loaded_model import LoadedModel

# Whoever stops a job waits for one row: half a second on a small CPU. A tree's dense attention mask
# grows with the square of it; whole sequences have none, and gain from larger matrices.
ROW_TOKENS, WHOLE_ROW_TOKENS = 512, 1024
# A GPU is busy only with many tokens at once.
ROWS_ON_GPU = 32
# A tree pays for its dense attention mask from about this share of repeated tokens on.
LEAST_SHARED = 0.1
# What padding may cost before a dense mask over unrelated sequences costs less.
MOST_PADDING = 0.1

Sequences = Sequence[Sequence[int]]
OnRow = Callable[[int, int], None]
Reduced = TypeVar("Reduced")


@dataclass(frozen=True, eq=False)
class PackedRow:
    """Some sequences as one forest of at most ``row_tokens`` nodes.

    Attributes:
        token_ids: (n_nodes,) token of each node.
        depths: (n_nodes,) position id of each node.
        paths: for each packed sequence its index in the input and the nodes it runs through.
        spans: runs of nodes (start, end, ancestors of the first), each the parent of the next.
    """

    token_ids: np.ndarray
    depths: np.ndarray
    paths: list[tuple[int, np.ndarray]]
    spans: list[tuple[int, int, np.ndarray]]

    @cached_property
    def mask(self) -> np.ndarray:
        """(n_nodes, n_nodes) True where the row node may attend to the column node."""
        n_nodes = len(self.token_ids)
        mask = np.zeros((n_nodes, n_nodes), dtype=bool)
        for start, end, ancestors in self.spans:
            mask[start:end, ancestors] = True
            mask[start:end, start:end] = np.tri(end - start, dtype=bool)
        return mask


def pack_rows(
    model: LoadedModel, sequences: Sequences, *, row_tokens: int = 0
) -> Iterator[PackedRow]:
    """Pack sequences into the rows that ``model`` reads fastest: prefix trees or whole sequences.

    Args:
        row_tokens: nodes of a row; 0 takes what suits its kind.

    Raises:
        PromptPairError: a sequence is empty.
    """
    order = _sort(sequences)
    n_tokens = sum(map(len, sequences))
    n_shared = sum(_n_shared(one, other) for one, other in pairwise(tokens for _, tokens in order))
    if model.packs_trees and n_shared >= LEAST_SHARED * n_tokens:
        return _pack_sorted(order, row_tokens or ROW_TOKENS)
    return _pack_by_length(order, row_tokens or WHOLE_ROW_TOKENS)


def pack_prefix_trees(sequences: Sequences, *, row_tokens: int = ROW_TOKENS) -> Iterator[PackedRow]:
    """Pack sequences into rows; neighbours in sorted order share their common prefix.

    Args:
        sequences: token ids, each of length 1 or more.
        row_tokens: nodes per row; a longer sequence gets a row of its own.

    Raises:
        PromptPairError: a sequence is empty.
    """
    return _pack_sorted(_sort(sequences), row_tokens)


def pack_singly(sequences: Sequences) -> Iterator[PackedRow]:
    """One row per sequence, in the order given, for models that cannot read trees.

    Raises:
        PromptPairError: a sequence is empty.
    """
    for index, tokens in sorted(_sort(sequences), key=lambda entry: entry[0]):
        builder = _RowBuilder()
        builder.add(index, tokens, 0)
        yield builder.row()


_Sorted = list[tuple[int, np.ndarray]]  # a number, and the tokens or nodes of a sequence


def _sort(sequences: Sequences) -> _Sorted:
    for index, sequence in enumerate(sequences):
        if len(sequence) == 0:
            raise PromptPairError(f"Prompt {index + 1} has no tokens; give it some text.")
    order = sorted(range(len(sequences)), key=lambda index: tuple(sequences[index]))
    return [(index, np.asarray(sequences[index], dtype=np.int64)) for index in order]


def _n_shared(one: np.ndarray, other: np.ndarray) -> int:
    """Length of the common prefix."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    first = int(differs.argmax()) if length else 0
    return first if length and differs[first] else length


def _pack_sorted(order: _Sorted, row_tokens: int) -> Iterator[PackedRow]:
    builder = _RowBuilder()
    for index, tokens in order:
        shared = _n_shared(tokens, builder.last)
        if builder.n_nodes and builder.n_nodes + len(tokens) - shared > row_tokens:
            yield builder.row()
            builder, shared = _RowBuilder(), 0
        builder.add(index, tokens, shared)
    if builder.n_nodes:
        yield builder.row()


def _pack_by_length(order: _Sorted, row_tokens: int) -> Iterator[PackedRow]:
    # Longest first: whatever does not fit into memory fails at once.
    for batch in _cut_batches(sorted(order, key=lambda entry: -len(entry[1])), row_tokens):
        builder = _RowBuilder()
        for index, tokens in batch:
            builder.add(index, tokens, 0)
        yield builder.row()


def _cut_batches(longest_first: _Sorted, n_cells: int) -> Iterator[_Sorted]:
    """Batches that, padded to their first and longest entry, have at most ``n_cells`` cells."""
    start = 0
    while start < len(longest_first):
        n_rows = max(1, n_cells // len(longest_first[start][1]))
        yield longest_first[start : start + n_rows]
        start += n_rows


class _RowBuilder:
    def __init__(self) -> None:
        self.n_nodes = 0
        self.last = np.empty(0, dtype=np.int64)
        self._last_path = np.empty(0, dtype=np.int64)
        self._tokens: list[np.ndarray] = []
        self._depths: list[np.ndarray] = []
        self._paths: list[tuple[int, np.ndarray]] = []
        self._spans: list[tuple[int, int, np.ndarray]] = []

    def add(self, index: int, sequence: np.ndarray, shared: int) -> None:
        """Add a sequence whose first ``shared`` nodes are those of the one before."""
        start, end = self.n_nodes, self.n_nodes + len(sequence) - shared
        path = np.concatenate([self._last_path[:shared], np.arange(start, end)])
        self._tokens.append(sequence[shared:])
        self._depths.append(np.arange(shared, len(sequence)))
        self._spans.append((start, end, path[:shared]))
        self._paths.append((index, path))
        self.last, self._last_path, self.n_nodes = sequence, path, end

    def row(self) -> PackedRow:
        return PackedRow(
            np.concatenate(self._tokens), np.concatenate(self._depths), self._paths, self._spans
        )


def run_rows(
    model: LoadedModel, rows: Sequence[PackedRow], layers: Sequence[int]
) -> dict[int, Tensor]:
    """Residual stream after each layer for a batch of rows: {layer: (batch, pos, d_model)}.

    Rows run as trees or, where that is cheaper or trees cannot be trusted, as whole sequences.
    """
    batches = list(_whole_batches(rows))
    n_cells = sum(len(batch) * len(batch[0][1]) for batch in batches)
    if not model.packs_trees or n_cells <= (1 + MOST_PADDING) * _n_nodes(rows):
        return _run_whole(model, rows, batches, layers)
    return _run_trees(model, rows, layers)


def read_rows(
    model: LoadedModel, sequences: Sequences, layers: Sequence[int]
) -> Iterator[tuple[PackedRow, dict[int, Tensor]]]:
    """Every row of some sequences with its residual stream, {layer: (n_nodes, d_model)}.

    Raises:
        PromptPairError: a sequence is empty.
    """
    rows = pack_rows(model, sequences)
    while batch := list(islice(rows, rows_at_once(model))):
        resid = run_rows(model, batch, layers)
        for position, row in enumerate(batch):
            n_nodes = len(row.token_ids)
            yield row, {layer: values[position, :n_nodes] for layer, values in resid.items()}


def rows_at_once(model: LoadedModel) -> int:
    """Rows of one pass: one on a CPU, which it keeps busy, and which others wait for."""
    return 1 if model.device.type == "cpu" else ROWS_ON_GPU


def _n_nodes(rows: Sequence[PackedRow]) -> int:
    return sum(len(row.token_ids) for row in rows)


def _whole_batches(rows: Sequence[PackedRow]) -> Iterator[_Sorted]:
    """(row, path) of all sequences, in padded batches no larger than the rows together."""
    paths = [(number, path) for number, row in enumerate(rows) for _, path in row.paths]
    paths.sort(key=lambda entry: -len(entry[1]))
    largest = max(len(row.token_ids) for row in rows)
    return _cut_batches(paths, int((1 + MOST_PADDING) * largest) * len(rows))


def _run_trees(
    model: LoadedModel, rows: Sequence[PackedRow], layers: Sequence[int]
) -> dict[int, Tensor]:
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


def _run_whole(
    model: LoadedModel,
    rows: Sequence[PackedRow],
    batches: Sequence[_Sorted],
    layers: Sequence[int],
) -> dict[int, Tensor]:
    width = max(len(row.token_ids) for row in rows)
    found: dict[int, Tensor] = {}
    for batch in batches:
        lengths = [len(path) for _, path in batch]
        token_ids = torch.zeros((len(batch), lengths[0]), dtype=torch.long)
        for line, (position, path) in enumerate(batch):
            token_ids[line, : len(path)] = torch.from_numpy(rows[position].token_ids[path])
        for layer, resid in model.run_sequences(token_ids, lengths, layers).items():
            if layer not in found:
                found[layer] = resid.new_zeros((len(rows), width, resid.shape[-1]))
            for line, (position, path) in enumerate(batch):
                nodes = torch.from_numpy(path).to(resid.device)
                found[layer][position, nodes] = resid[line, : len(path)]
    return found


@overload
def read_resid(
    model: LoadedModel,
    sequences: Sequences,
    layers: Sequence[int],
    wanted: Sequences,
    *,
    on_row: OnRow | None = None,
) -> tuple[dict[int, list[Tensor]], int]: ...


@overload
def read_resid(
    model: LoadedModel,
    sequences: Sequences,
    layers: Sequence[int],
    wanted: Sequences,
    *,
    on_row: OnRow | None = None,
    reduce: Callable[[Tensor], Reduced],
) -> tuple[dict[int, list[Reduced]], int]: ...


def read_resid(
    model: LoadedModel,
    sequences: Sequences,
    layers: Sequence[int],
    wanted: Sequences,
    *,
    on_row: OnRow | None = None,
    reduce: Callable[[Tensor], Any] | None = None,
) -> tuple[dict[int, list[Any]], int]:
    """Residual stream at chosen positions of every sequence.

    Args:
        sequences: token ids.
        wanted: positions to return for each sequence.
        on_row: told (sequences done, sequences in all) after each row.
        reduce: what to keep of the (n_wanted, d_model) residual stream of one sequence; it is
            called as soon as its row is computed, so that memory holds no more than a row.

    Returns:
        ({layer: one (n_wanted, d_model) tensor, or what it was reduced to, per sequence}, tokens
        that were computed).

    Raises:
        PromptPairError: a sequence is empty.
    """
    found: dict[int, list[Any]] = {layer: [torch.empty(0)] * len(sequences) for layer in layers}
    n_computed = n_done = 0
    for row, resid in read_rows(model, sequences, layers):
        for index, path in row.paths:
            nodes = torch.from_numpy(path[list(wanted[index])])
            for layer in layers:
                mine = resid[layer][nodes.to(resid[layer].device)]
                found[layer][index] = reduce(mine) if reduce else mine
        n_computed += len(row.token_ids)
        n_done += len(row.paths)
        if on_row:
            on_row(n_done, len(sequences))
    return found, n_computed


def count_tree_tokens(sequences: Sequences) -> int:
    """Tokens that ``read_resid`` would compute where prompts share prefixes."""
    return _n_nodes(list(pack_prefix_trees(sequences)))
