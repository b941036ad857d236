"""Keys and values of the rows that are being written; rows join and leave between two tokens.

Rows end at the same slot and are padded on the left, so that a step adds one slot to all of them.
Buffers are made longer than needed: growing them by one slot a step would copy them every time.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

SPARE_SLOTS = 64


class RowCache(Cache):
    """A transformers cache whose batch can change.

    Attributes:
        n_rows: rows in the batch.
        length: slots in use; the same for all rows.
        fixed: hand out whole buffers and write to ``slot``, as a recorded step must; attention
            masks then cover all slots.
        slot: (1,) number of the slot that a fixed cache writes to.
        between_layers: called before each layer's buffers are made or moved, which for many rows
            takes long in all.
    """

    def __init__(
        self,
        n_layers: int,
        *,
        fixed: bool = False,
        between_layers: Callable[[], None] = lambda: None,
    ) -> None:
        self._between_layers = between_layers
        self.n_rows = self.length = 0
        self.fixed = fixed
        self.slot = torch.zeros(1, dtype=torch.long)
        self._slots = [_LayerSlots(self) for _ in range(n_layers)]
        super().__init__(layers=list(self._slots))

    def add_rows(self, n_rows: int, n_slots: int) -> None:
        """Append blank rows and make room so that at least ``n_slots`` slots are in use."""
        length = max(self.length, n_slots)
        moved: list[tuple[_LayerSlots, int]] = []
        try:
            for layer in self._slots:
                self._between_layers()
                n_before = layer.n_slots
                layer.resize(self.n_rows + n_rows, self.length, length)
                moved.append((layer, n_before))
        except BaseException:
            # Memory ran out half-way: those that were here before go on as if nobody had come.
            for layer, n_before in moved:
                layer.move_back(self.n_rows, length - self.length, n_before)
            raise
        self.n_rows += n_rows
        self.length = length

    def fill(
        self, rows: Sequence[int], paths: Int[Tensor, "n_rows n_slots"], computed: Cache
    ) -> None:
        """Copy keys and values of computed nodes into the last slots of rows.

        Args:
            rows: their numbers.
            paths: nodes of each row, as long as the longest, padded on the left with any node.
            computed: cache of one batch row that holds the nodes.
        """
        layers: Any = computed.layers
        for mine, other in zip(self._slots, layers, strict=True):
            self._between_layers()
            mine.fill(rows, paths, other.keys, other.values)

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        for layer in self._slots:
            self._between_layers()
            layer.keep(rows)
        self.n_rows = len(rows)

    def part(self, rows: Sequence[int]) -> "RowCache":
        """A cache of its own with copies of some rows."""
        own = RowCache(len(self._slots), fixed=self.fixed, between_layers=self._between_layers)
        own.n_rows, own.length = len(rows), self.length
        for mine, layer in zip(own._slots, self._slots, strict=True):
            if layer.keys is not None:
                mine.keys, mine.values = layer.keys, layer.values
                mine.keep(rows)
        return own

    @property
    def n_slots(self) -> int:
        """Slots that buffers have, or will have once a pass needs them."""
        return self._slots[0].n_slots

    def reserve(self, n_slots: int) -> None:
        """Make sure that buffers have so many slots."""
        for layer in self._slots:
            # Each by itself: the last one to grow may have run out of memory.
            if n_slots > layer.n_slots:
                layer.resize(self.n_rows, self.length, self.length)

    def advance(self) -> None:
        """Count the slot that the last forward pass has filled."""
        self.length += 1


class _LayerSlots(CacheLayerMixin):
    """One layer's keys and values (rows, heads, slots, d_head); nothing until a pass needs them."""

    is_sliding = False
    keys: Any
    values: Any

    def __init__(self, owner: RowCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        n_slots = self._owner.length + SPARE_SLOTS
        self.keys = _blank(key_states, self._owner.n_rows, n_slots)
        self.values = _blank(value_states, self._owner.n_rows, n_slots)

    def resize(self, n_rows: int, old_length: int, length: int) -> None:
        if self.keys is not None:
            # Both or none, should memory run out between the two.
            self.keys, self.values = (
                _moved(old, n_rows, old_length, length) for old in (self.keys, self.values)
            )

    def move_back(self, n_rows: int, shift: int, n_slots: int) -> None:
        """Undo a ``resize`` that added rows and moved by ``shift`` what ``n_slots`` slots held."""
        if self.keys is not None:
            slots = slice(shift, shift + n_slots)
            self.keys, self.values = self.keys[:n_rows, :, slots], self.values[:n_rows, :, slots]

    @property
    def n_slots(self) -> int:
        """Slots of its buffers, or those that they will have once a pass needs them."""
        n_new = self._owner.length + SPARE_SLOTS
        return n_new if self.keys is None else int(self.keys.shape[-2])

    def fill(self, rows: Sequence[int], paths: Tensor, keys: Tensor, values: Tensor) -> None:
        if self.keys is None:
            self.lazy_initialization(keys, values)
        end = self._owner.length
        where = torch.tensor(rows, device=keys.device)
        for mine, other in ((self.keys, keys), (self.values, values)):
            found = other[0][:, paths.to(other.device)]  # (heads, rows, slots, d_head)
            mine[where, :, end - paths.shape[1] : end] = found.transpose(0, 1)

    def keep(self, rows: Sequence[int]) -> None:
        if self.keys is not None:
            where = torch.tensor(rows, device=self.keys.device)
            self.keys, self.values = self.keys[where], self.values[where]

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start = self._owner.length
        end = start + key_states.shape[-2]
        if self.keys is None:
            self.lazy_initialization(key_states, value_states)
        if self._owner.fixed:
            self.keys.index_copy_(2, self._owner.slot, key_states)
            self.values.index_copy_(2, self._owner.slot, value_states)
            return self.keys, self.values
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        n_slots = self._owner.n_slots if self._owner.fixed else self._owner.length + query_length
        return n_slots, 0

    def get_seq_length(self) -> int:
        return self._owner.length

    def get_max_length(self) -> int:
        return -1


def _blank(like: Tensor, n_rows: int, n_slots: int) -> Float[Tensor, "rows heads slots d_head"]:
    # Padding is never attended to, but zeros keep its products finite.
    return like.new_zeros(n_rows, like.shape[1], n_slots, like.shape[-1])


def _moved(old: Tensor, n_rows: int, old_length: int, length: int) -> Tensor:
    """The buffer with room for rows and slots; what it held ends at ``length`` now."""
    new = _blank(old, n_rows, length + SPARE_SLOTS)
    new[: old.shape[0], :, length - old_length : length] = old[:, :, :old_length]
    return new
