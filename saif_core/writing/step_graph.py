"""A decode step recorded once as a CUDA graph and replayed: no Python and no launches in between.

Writing with a small model on a GPU is bound by launching its kernels, not by their work. A graph
replays fixed addresses, so whatever changes from step to step lies in tensors that are overwritten.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Recording(Protocol):
    """A recorded call; replaying it computes its output again, in place."""

    output: Tensor

    def replay(self) -> None:
        """Compute the output again from what the inputs hold now."""


Recorder = Callable[[Callable[[], Tensor]], Recording]


class _CudaRecording:
    def __init__(self, call: Callable[[], Tensor]) -> None:
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self._graph):
            self.output = call()

    def replay(self) -> None:
        self._graph.replay()


class StepGraph:
    """Runs steps of one shape: the first as it is, the second recorded, all others replayed.

    Args:
        record: makes a recording; CUDA's own unless a test brings another.
    """

    def __init__(self, record: Recorder = _CudaRecording) -> None:
        self._record = record
        self._shape: Any = None
        self._inputs: list[Tensor] = []
        self._recording: Recording | None = None
        self._works = True

    def another(self) -> "StepGraph":
        """One that runs other steps in the same way."""
        return StepGraph(self._record)

    def run(
        self, shape: Any, inputs: Sequence[Tensor], step: Callable[[Sequence[Tensor]], Tensor]
    ) -> Tensor:
        """The output of ``step(inputs)``.

        Args:
            shape: equal for two steps whose inputs have the same shapes and that do the same.
            inputs: everything that changes between such steps, on the device.
            step: reads them; it must not wait for the device.
        """
        if not self._works or shape != self._shape:
            # What only the first step of a batch does, such as measuring norms, is not recorded.
            self._shape, self._recording = shape, None
            return step(inputs)
        if self._recording is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            try:
                self._recording = self._record(lambda: step(self._inputs))
            except Exception as error:  # what a step raises by itself, it raises again below
                log.warning("This model's steps cannot be recorded (%s); they run as usual.", error)
                self._works = False
                return step(inputs)
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)
        self._recording.replay()
        return self._recording.output
