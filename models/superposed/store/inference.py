"""Inference of a store: by the network that learns, or by one prepared for its device."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from superposed.contexts import Binding, Context, ContextTable, TaskId
from superposed.nn import MLP, SIZES, CudaGraphMLP, Network
from superposed.nn.cpu_runtime import prepared
from superposed.tasks.batch import Batch

__all__ = ["InferenceRunner"]

_PROBE = Context(((TaskId("~"), 1.0, None),))  # no key is written so
# How far the answers of recorded work may lie from the plain network's, for each unit of its largest.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.05}
_TRIED_ROWS = (1, 512)
_TIMES = 5
_log = logging.getLogger(__name__)


def record_network(network: MLP, precision: torch.dtype) -> CudaGraphMLP:
    """Wrap a network so that its work is recorded as CUDA graphs."""
    return CudaGraphMLP(network, precision)


class InferenceRunner:
    """Answers batches without learning. One thread at a time.

    Args:
        network: The network; where its weights change, so do the answers.
        contexts: What rows are bound with.
        device: Where both live.
    """

    def __init__(self, network: Network, contexts: ContextTable, device: torch.device) -> None:
        self._network, self._contexts, self._device = network, contexts, device
        self._recorded: CudaGraphMLP | None = None
        self.plain = prepared(network) if device.type == "cpu" else network

    def _bindings(self, batch: Batch) -> Mapping[str, Binding]:
        if batch.index is None:
            return self._contexts.bind_all(batch.parts[0].context)
        return self._by_row(batch)

    def _by_row(self, batch: Batch) -> Mapping[str, Binding]:
        return self._contexts.bind_rows([part.context for part in batch.parts], batch.places())

    def logits(self, batch: Batch) -> Tensor:
        """Answer a batch: (B, store outputs), on the CPU.

        Raises:
            CapacityExceeded: More distinct contexts than the table holds.
            CompositionNotSupported: The family has no such composition.
        """
        with torch.inference_mode():
            if self._recorded is not None:
                by_row = self._by_row(batch)
                try:
                    return self._recorded(batch.inputs, by_row)
                except Exception:  # noqa: BLE001 - compilers and drivers raise what they like
                    _log.exception("recorded work failed; from now on the plain network answers")
                    self._recorded = None
            answer: Tensor = self.plain(batch.inputs.to(self._device), self._bindings(batch))
            return answer.cpu()

    def seconds(self, rows: int, inputs: int, dtype: torch.dtype) -> float:
        """Return the seconds that a batch of `rows` rows takes: the least of a few times."""
        taken = []
        for _ in range(_TIMES):
            began = time.perf_counter()
            self._answer_probe(torch.zeros(rows, inputs, dtype=dtype))
            taken.append(time.perf_counter() - began)
        return min(taken)

    def prepare(self, inputs: int, dtype: torch.dtype, precision: torch.dtype | None = None) -> str | None:
        """Compile what is compiled at its first use, and on a GPU records the network's work.

        Args:
            inputs: Of a row.
            dtype: Of rows and weights.
            precision: Of a GPU's products; None for the weights' own.

        Returns:
            Why the plain network goes on answering though this is a GPU; else None.
        """
        for rows in _TRIED_ROWS:
            self._answer_probe(torch.zeros(rows, inputs, dtype=dtype))
        if self._device.type == "cpu":
            return None
        if not isinstance(self._network, MLP):
            return "only the work of multi-layer perceptrons is recorded"
        return self._record(self._network, inputs, dtype, precision or dtype)

    def _answer_probe(self, rows: Tensor) -> Tensor:
        with torch.inference_mode():
            answer: Tensor = self.plain(rows.to(self._device), self._contexts.bind_all(_PROBE))
            return answer.cpu()

    def _record(self, network: MLP, inputs: int, dtype: torch.dtype, precision: torch.dtype) -> str | None:
        """Record the work of every size, and use it where all answer as the plain network does."""
        if not CudaGraphMLP.can_record(network):
            return f"the work of {network.family.name} contexts cannot be recorded"
        try:
            recorded = record_network(network, precision)
            for count in SIZES:
                rows = torch.randn(count, inputs, generator=torch.Generator().manual_seed(count), dtype=dtype)
                expected = self._answer_probe(rows)
                slots = torch.zeros(count, dtype=torch.int64)
                with torch.inference_mode():
                    found = recorded(rows, self._contexts.bind_rows([_PROBE], slots))
                largest = expected.abs().max().clamp(min=1e-6)  # an expanded store starts at answers of 0
                distance = float((found - expected).abs().max() / largest)
                if not distance <= _TOLERANCES[precision]:
                    return f"what was recorded answers otherwise, by {distance:.2g} of the largest logit"
        except Exception as error:  # noqa: BLE001 - belongs to this request
            return f"{type(error).__name__}: {error}"
        self._recorded = recorded
        return None
