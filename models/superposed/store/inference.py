"""Inference of a store: by the network that learns, or by one prepared for its device."""

import timeit
from collections.abc import Mapping

import torch
from torch import Tensor

from superposed.contexts import Binding, Context, ContextTable, TaskId
from superposed.nn import MLP, Network
from superposed.tasks.batch import Batch

_PROBE = Context(((TaskId("~"), 1.0, None),))  # no key is written so
_TIMES = 5


class InferenceRunner:
    """Answers batches without learning, by the network's weights as they are. One thread at a time."""

    def __init__(self, network: Network, contexts: ContextTable, device: torch.device, outputs: int) -> None:
        self._network, self._contexts, self._device, self._outputs = network, contexts, device, outputs
        self._precision: torch.dtype | None = None

    def logits(self, batch: Batch) -> Tensor:
        """Answer a batch: (B, store outputs), on the CPU.

        Raises:
            CapacityExceeded: More distinct contexts than the table holds.
            CompositionNotSupported: The family has no such composition.
        """
        with torch.inference_mode():
            if batch.index is None:
                bindings = self._contexts.bind_all(batch.parts[0].context)
            else:
                bindings = self._contexts.bind_rows([part.context for part in batch.parts], batch.index)
            needed = max(part.task.schema.outputs for part in batch.parts)
            if not isinstance(self._network, MLP) or needed > self._outputs // 2:
                return self._answers(batch.inputs, bindings)
            answers = batch.inputs.new_zeros(len(batch), self._outputs)
            answers[:, :needed] = self._answers(batch.inputs, bindings, needed=needed)
            return answers

    def _answers(self, inputs: Tensor, bindings: Mapping[str, Binding], **how: int) -> Tensor:
        """Return logits of rows, on the CPU; products are of the precision of inference."""
        if self._device.type == "cpu":
            found: Tensor = self._network(inputs, bindings, **how)
            return found
        with torch.autocast(self._device.type, self._precision, enabled=self._precision is not None):
            answer: Tensor = self._network(inputs.to(self._device), bindings, **how)
        return answer.to(inputs.dtype).cpu()

    def seconds(self, rows: int, inputs: int, dtype: torch.dtype) -> float:
        """Return the seconds that a batch of `rows` rows takes: the least of a few times."""
        probe = torch.zeros(rows, inputs, dtype=dtype)
        return min(timeit.repeat(lambda: self._answer_probe(probe), number=1, repeat=_TIMES))

    def prepare(self, inputs: int, dtype: torch.dtype, precision: torch.dtype | None = None) -> None:
        """Compile what is compiled at its first use, for inference and for learning.

        `precision` is that of a GPU's products; None for the weights' own, which is that of the rows, `dtype`.
        """
        self._precision = None if precision == dtype else precision
        if isinstance(self._network, MLP):
            self._network.prepare(dtype)
        if self._device.type != "cpu":
            self._answer_probe(torch.zeros(1, inputs, dtype=dtype))

    def _answer_probe(self, rows: Tensor) -> Tensor:
        with torch.inference_mode():
            return self._answers(rows, self._contexts.bind_all(_PROBE))
