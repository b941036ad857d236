"""Tensors that edits name by the hash of their content, wherever they are kept."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from safetensors.numpy import load, save
from torch import Tensor

from saif_core.errors import SteeringError
from saif_core.records.ports import TensorPort
from saif_core.records.steering import Edit


class Tensors:
    """Named tensors by content hash: put once, read as torch tensors on the CPU.

    Args:
        port: where they are kept for longer than this process; None keeps them in memory alone.
    """

    def __init__(self, port: TensorPort | None = None) -> None:
        self._port: TensorPort = port or InMemoryTensors()
        self._read: dict[str, dict[str, Tensor]] = {}

    def put(self, tensors: Mapping[str, Tensor], *, note: str = "") -> str:
        """The hash that the tensors are kept under, as float32 or whole numbers."""
        plain = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        return self._port.put(
            {
                name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
                for name, tensor in plain.items()
            },
            note=note,
        )

    def payloads(self, edits: Sequence[Edit]) -> dict[str, bytes]:
        """The tensors of edits as files hold them, by the hash that each edit names."""
        names = {edit.tensors for edit in edits if edit.tensors}
        return {name: packed(self._port.get(name)) for name in sorted(names)}

    def get(self, sha256: str) -> Mapping[str, Tensor]:
        """The tensors under a hash; none for the empty one.

        Raises:
            SaifError: they are not known here.
        """
        if not sha256:
            return {}
        if sha256 not in self._read:
            found = self._port.get(sha256)
            self._read[sha256] = {
                name: torch.from_numpy(np.array(found[name])) for name in sorted(found)
            }
        return self._read[sha256]


def packed(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Named tensors as safetensors, always in the same bytes, whose hash names them."""
    return save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})


class InMemoryTensors:
    """Implements ``TensorPort`` for engines and notebooks without a store."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def put(self, tensors: Mapping[str, np.ndarray], *, note: str = "") -> str:
        """See ``TensorPort``."""
        del note  # nobody looks into memory
        payload = packed(tensors)
        sha256 = hashlib.sha256(payload).hexdigest()
        self._kept[sha256] = payload
        return sha256

    def get(self, sha256: str) -> dict[str, np.ndarray]:
        """See ``TensorPort``.

        Raises:
            SteeringError: they are not known here.
        """
        if sha256 not in self._kept:
            raise SteeringError(
                f"The tensors {sha256[:12]} of an edit are not known here; make them again."
            )
        return dict(load(self._kept[sha256]))
