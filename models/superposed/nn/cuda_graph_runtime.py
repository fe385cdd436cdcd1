"""A network made ready to answer on a GPU: a few sizes of batch, the work of each recorded once and replayed.

A small network costs a GPU little but the launching of its kernels, so those of each size are launched
together, as one CUDA graph; rows are padded to the next size. Activation, normalisation, the constant 1,
gathering the context, binding and the change of precision on both sides are one kernel, which `torch.compile`
makes; in a network of many different widths it may give up, and several are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from superposed.contexts import Binding
from superposed.nn.build import Network
from superposed.nn.layers import SuperposedLinear
from superposed.nn.mlp import MLP

__all__ = ["SIZES", "CudaGraphMLP", "record_graph"]

SIZES = (1, 4, 16, 64, 256, 1024, 4096)
# What is run before it is recorded: libraries allocate, and the compiler compiles, at first use.
_REHEARSALS = 3

Work = Callable[[], None]


def record_graph(work: Work) -> Work:
    """Record work as a CUDA graph; return a function that launches it again."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no annotation there
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_REHEARSALS):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may ask for its memory
        work()
    return graph.replay


def compile_for_all_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile one kernel for any number of rows."""
    return torch.compile(function, dynamic=True)


@dataclass(frozen=True)
class _Layer:
    """One layer: its product's matrix (D_out, width) in the precision of products, and its bias."""

    name: str
    layer: SuperposedLinear
    matrix: Tensor  # the weights themselves, where nothing differs
    bias: Tensor | None

    def refresh(self) -> None:
        """Copy what is not the weights themselves, to where it was."""
        if self.matrix.data_ptr() != self.layer.weight.data_ptr():
            self.matrix.copy_(self.layer.matrix().detach())
        if self.bias is not None:
            self.bias.copy_(torch.as_tensor(self.layer.shared_bias()))


@dataclass(frozen=True)
class _Size:
    """Fixed buffers for one batch size, and the recorded work on them."""

    staged: Tensor  # (rows, inputs), in pinned memory where the device is a GPU
    inputs: Tensor  # (rows, inputs)
    slots: Tensor  # (rows,)
    answers: Tensor  # (rows, outputs)
    run: Work


class CudaGraphMLP:
    """Answers as `MLP.forward` does, up to rounding. One thread at a time.

    Args:
        network: The network; where its weights change, so do the answers. Of any family but rotations.
        precision: Of what products take and give; bfloat16 adds up in float32. What stands between them is
            computed in the weights' own.
        record: Records work, once it is known not to change.
        compile_: Makes one kernel of what binds: activation, normalisation, the constant, context.
    """

    def __init__(
        self,
        network: MLP,
        precision: torch.dtype,
        *,
        record: Callable[[Work], Work] = record_graph,
        compile_: Callable[..., Any] = compile_for_all_sizes,
    ) -> None:
        self._network = network
        self._record = record
        self._bind = compile_(_bound)
        self._versions: tuple[int, ...] = ()
        self._layers = [
            _Layer(
                name,
                layer,
                layer.matrix().detach().to(precision),
                None if layer.bias is None else torch.as_tensor(layer.shared_bias()).detach().clone(),
            )
            for name, layer in network.superposed_layers().items()
        ]
        self._tables: list[Tensor] = []
        self._sizes: dict[int, _Size] = {}

    @staticmethod
    def can_record(network: Network) -> bool:
        """Return True if a network's work on a batch is always the same; a rotation's is not."""
        return isinstance(network, MLP) and network.family.name != "rotation"

    def __call__(self, inputs: Tensor, bindings: Mapping[str, Binding]) -> Tensor:
        """Return logits of a batch whose rows may belong to different contexts.

        Args:
            inputs: (B, inputs), on the CPU.
            bindings: Every layer's contexts, and each row's slot in them.

        Returns:
            (B, outputs), on the CPU.
        """
        self._refresh()
        self._point_at([bindings[layer.name].contexts for layer in self._layers])
        slots = bindings[self._layers[0].name].slots
        assert slots is not None  # noqa: S101 - the caller binds rows
        parts = range(0, len(inputs), SIZES[-1])
        return torch.cat(
            [self._answer(inputs[at : at + SIZES[-1]], slots[at : at + SIZES[-1]]) for at in parts]
        )

    def launch(self, rows: int) -> None:
        """Do the work of one size again, on the rows that stand there: what a batch costs the device alone.

        Args:
            rows: One of `SIZES`, of which rows were answered before.
        """
        self._sizes[rows].run()

    def _refresh(self) -> None:
        """Copy the weights anew where they have changed, to where they were."""
        versions = tuple(parameter._version for parameter in self._network.parameters())
        if versions == self._versions:
            return
        self._versions = versions
        for own in self._layers:
            own.refresh()

    def _point_at(self, tables: list[Tensor]) -> None:
        """Forget what was recorded where the context table has moved: it grows with its contexts."""
        if [table.data_ptr() for table in tables] != [table.data_ptr() for table in self._tables]:
            self._sizes.clear()
        self._tables = tables

    def _answer(self, inputs: Tensor, slots: Tensor) -> Tensor:
        rows = len(inputs)
        size = self._size(next(size for size in SIZES if size >= rows))
        size.staged[:rows] = inputs
        size.inputs[:rows].copy_(size.staged[:rows], non_blocking=True)
        size.slots[:rows] = slots  # what is padded keeps slots of before: they are in the table still
        size.run()
        return size.answers[:rows].to("cpu", copy=True)

    def _size(self, rows: int) -> _Size:
        if rows not in self._sizes:
            first, last = self._layers[0], self._layers[-1]
            like = first.layer.weight
            staged = torch.zeros(rows, first.layer.in_features, dtype=like.dtype, pin_memory=like.is_cuda)
            inputs = staged.to(like.device, copy=True)
            slots = torch.zeros(rows, dtype=torch.int64, device=inputs.device)
            answers = inputs.new_zeros(rows, len(last.matrix))
            work = self._record(partial(self._work, inputs, slots, answers, self._tables))
            self._sizes[rows] = _Size(staged, inputs, slots, answers, work)
        return self._sizes[rows]

    def _work(self, inputs: Tensor, slots: Tensor, answers: Tensor, tables: list[Tensor]) -> None:
        signal = inputs
        if self._network.family.components == 2:
            signal = torch.cat([inputs, torch.zeros_like(inputs)], dim=-1)  # (B, 2 inputs)
        for place, own in enumerate(self._layers):
            active = self._network.activate_and_normalise if place else None
            bound = self._bind(own.layer, active, signal, tables[place], slots, own.matrix.dtype)
            signal = F.linear(bound, own.matrix)
            signal = signal if own.bias is None else signal + own.bias
        answers.copy_(signal)


def _bound(
    layer: SuperposedLinear,
    active: Callable[[Tensor], Tensor] | None,
    signal: Tensor,
    table: Tensor,
    slots: Tensor,
    precision: torch.dtype,
) -> Tensor:
    """Return the input of a layer's product: the signal, activated except for inputs, extended and bound.

    All of it is computed in the weights' own precision, and then brought to the product's.
    """
    signal = signal.to(layer.weight.dtype)
    extended = layer.extend(signal if active is None else active(signal))
    return layer.family.bind(extended, table, slots).to(precision)
