"""Inference of a store: by the network that learns, or by one prepared for its device."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from superposed.contexts import Binding, Context, ContextTable, TaskId
from superposed.nn import Network
from superposed.nn.cpu_runtime import FusedMLP, prepared
from superposed.tasks.batch import Batch

_PROBE = Context(((TaskId("~"), 1.0, None),))  # no key is written so
_TRIED_ROWS = (1, 512)
_TIMES = 5


class InferenceRunner:
    """Answers batches without learning. One thread at a time.

    Args:
        network: The network; where its weights change, so do the answers.
        contexts: What rows are bound with.
        device: Where both live.
    """

    def __init__(self, network: Network, contexts: ContextTable, device: torch.device) -> None:
        self._network, self._contexts, self._device = network, contexts, device
        self._precision: torch.dtype | None = None
        self.plain = prepared(network) if device.type == "cpu" else network

    def _bindings(self, batch: Batch) -> Mapping[str, Binding]:
        if batch.index is None:
            return self._contexts.bind_all(batch.parts[0].context)
        return self._contexts.bind_rows([part.context for part in batch.parts], batch.places())

    def logits(self, batch: Batch) -> Tensor:
        """Answer a batch: (B, store outputs), on the CPU.

        Raises:
            CapacityExceeded: More distinct contexts than the table holds.
            CompositionNotSupported: The family has no such composition.
        """
        with torch.inference_mode():
            if isinstance(self.plain, FusedMLP):
                needed = max(part.task.schema.outputs for part in batch.parts)
                return self.plain(batch.inputs, self._bindings(batch), needed)
            return self._answers(batch.inputs, self._bindings(batch))

    def _answers(self, inputs: Tensor, bindings: Mapping[str, Binding]) -> Tensor:
        """Return logits of rows, on the CPU; products are of the precision of inference."""
        lower = torch.autocast(self._device.type, self._precision, enabled=self._precision is not None)
        with lower:
            answer: Tensor = self.plain(inputs.to(self._device), bindings)
        return answer.to(inputs.dtype).cpu()

    def seconds(self, rows: int, inputs: int, dtype: torch.dtype) -> float:
        """Return the seconds that a batch of `rows` rows takes: the least of a few times."""
        taken = []
        for _ in range(_TIMES):
            began = time.perf_counter()
            self._answer_probe(torch.zeros(rows, inputs, dtype=dtype))
            taken.append(time.perf_counter() - began)
        return min(taken)

    def prepare(self, inputs: int, dtype: torch.dtype, precision: torch.dtype | None = None) -> None:
        """Compile what is compiled at its first use.

        Args:
            inputs: Of a row.
            dtype: Of rows and weights.
            precision: Of a GPU's products; None for the weights' own.
        """
        self._precision = None if precision == dtype else precision
        for rows in _TRIED_ROWS:
            self._answer_probe(torch.zeros(rows, inputs, dtype=dtype))

    def _answer_probe(self, rows: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._answers(rows, self._contexts.bind_all(_PROBE))
