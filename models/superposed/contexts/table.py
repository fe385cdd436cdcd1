"""Materialised contexts: rows that a batch gathers from, bounded by bytes, derived again on a miss."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.contexts.expression import Leaf
from superposed.contexts.family import Family, Term
from superposed.contexts.keys import Stream, TaskId
from superposed.errors import check_most

# Generators are kept for contexts that are composed of the same tasks again and again.
_GENERATOR_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Context:
    """A composed context in canonical form: what it is, whatever way it was written.

    `shares` are (task, weight, exponent) of every task in it, sorted, equal tasks and exponents merged; `text` is the
    same as text: what is looked up in tables, as its hash is kept.
    """

    shares: tuple[tuple[TaskId, float, float | None], ...]
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", repr(self.shares))

    @classmethod
    def from_leaves(cls, leaves: Sequence[Leaf], ids: Mapping[str, TaskId]) -> "Context":
        """Return canonical form of a flattened expression, given what every key stands for."""
        merged: dict[tuple[TaskId, float | None], float] = {}
        for leaf in leaves:
            place = (ids[leaf.key], leaf.exponent)
            merged[place] = merged.get(place, 0.0) + leaf.weight
        ordered = sorted(merged, key=lambda place: (place[0], place[1] is not None, place[1] or 0.0))
        return cls(tuple((task, merged[task, exponent], exponent) for task, exponent in ordered))


class Binding(NamedTuple):
    """Contexts that one layer binds a batch with, and for a mixed batch each row's slot in them."""

    contexts: Tensor
    slots: Tensor | None = None


class ContextSource:
    """Derives contexts from the secret: the one place where a composed context becomes numbers.

    `features` are each layer's number of input features by its name, first to last; `expanded` the families of
    layers whose contexts are expanded.
    """

    def __init__(
        self,
        family: Family[Any],
        features: Mapping[str, int],
        secret: bytes,
        expanded: Mapping[str, Family[Any]] | None = None,
    ) -> None:
        self.family, self.features, self._secret = family, dict(features), secret
        self._expanded = dict(expanded or {})
        self._layers_left = {name: len(features) - place for place, name in enumerate(features)}
        self._generators: OrderedDict[tuple[str, TaskId], Any] = OrderedDict()
        self.generator_bytes = 0

    def family_of(self, layer: str) -> Family[Any]:
        """Return the family of a layer's contexts."""
        return self._expanded.get(layer, self.family)

    def _generator(self, layer: str, task: TaskId) -> Any:
        """Draw a task's generator, or take it from the least-recently-used ones that are kept."""
        place = (layer, task)
        if place in self._generators:
            self._generators.move_to_end(place)
            return self._generators[place]
        stream = Stream.for_task(self._secret, layer, task)
        generator = self._generators[place] = self.family_of(layer).generate(stream, self.features[layer])
        self.generator_bytes += generator.nbytes
        while self.generator_bytes > _GENERATOR_BYTES and len(self._generators) > 1:
            _, dropped = self._generators.popitem(last=False)
            self.generator_bytes -= dropped.nbytes
        return generator

    def derive(self, context: Context, layer: str) -> Tensor:
        """Return one layer's context, float64, of the family's `context_shape`; raises as `Family.compose`."""
        left = self._layers_left[layer]
        bound = [(task.bound_in(left), weight, exponent) for task, weight, exponent in context.shares]
        terms = [Term(self._generator(layer, task), weight, exponent) for task, weight, exponent in bound]
        # Binary contexts draw which part of a mixture gives a coordinate.
        names = (f"{task.key}#{task.generation}" for task in dict.fromkeys(task for task, _, _ in bound))
        return self.family_of(layer).compose(terms, Stream(self._secret, ("mixture", layer, *names)))


class ContextTable:
    """Contexts of every layer in slots of one tensor a layer, the least recently used evicted first.

    Not thread-safe: the owner of the store owns its table. The rows, of a dtype and on a device, take up
    `max_bytes` at most, but at least one slot is always kept.
    """

    def __init__(self, source: ContextSource, max_bytes: int, dtype: torch.dtype, device: torch.device) -> None:
        self.source, self._dtype, self._device = source, dtype, device
        shapes = {name: source.family_of(name).context_shape(count) for name, count in source.features.items()}
        self.bytes_per_context = dtype.itemsize * sum(torch.Size(shape).numel() for shape in shapes.values())
        self.capacity = max(1, max_bytes // self.bytes_per_context)
        self._rows = {name: torch.empty((0, *shape), dtype=dtype, device=device) for name, shape in shapes.items()}
        self._slots: OrderedDict[str, int] = OrderedDict()  # by text, the one used last at the end
        self._room = 0
        self._free: list[int] = []
        if device.type == "cuda":  # what is recorded there reads the table where it is
            self._grow(self.capacity)

    @property
    def cached_bytes(self) -> int:
        """Bytes of the table's rows and of the kept generators."""
        return sum(rows.nbytes for rows in self._rows.values()) + self.source.generator_bytes

    def bind_all(self, context: Context) -> dict[str, Binding]:
        """Return every layer's binding for a batch of one context."""
        slot = int(self._load([context])[0])
        return {name: Binding(rows[slot]) for name, rows in self._rows.items()}

    def bind_rows(self, contexts: Sequence[Context], index: Tensor) -> dict[str, Binding]:
        """Return every layer's binding for a mixed batch; arguments and errors as `gather`."""
        slots = torch.from_numpy(self._load(contexts)[index.numpy()]).to(self._device)  # (B,)
        return {name: Binding(rows, slots) for name, rows in self._rows.items()}

    def gather(self, contexts: Sequence[Context], index: Tensor | None = None) -> dict[str, Binding]:
        """Copy every layer's contexts out of the table, in the order given, for a batch that is learned.

        The bits of a product depend on the alignment and the order of its operands. Which slot a context has follows
        from earlier requests; a copy follows from the batch alone, so a replay computes the same.

        `index` (B,) int64 is each row's place among the K distinct contexts; without one there is one context.
        Raise `CapacityExceeded` for more distinct contexts than the table has room for.
        """
        slots = torch.from_numpy(self._load(contexts)).to(self._device)  # (K,)
        copies = {name: rows.index_select(0, slots) for name, rows in self._rows.items()}
        if index is None:
            return {name: Binding(copy[0]) for name, copy in copies.items()}
        places = index.to(self._device)
        return {name: Binding(copy, places) for name, copy in copies.items()}

    def _load(self, contexts: Sequence[Context]) -> NDArray[np.int64]:
        """Return every context's slot, (K,); what is not there yet is derived."""
        problem = "a batch names more contexts than the context table holds"
        check_most(problem, len(contexts), self.capacity, " distinct contexts")
        for context in contexts:  # before the first miss, so that none of them is evicted
            if context.text in self._slots:
                self._slots.move_to_end(context.text)
        for context in contexts:
            if context.text not in self._slots:
                derived = {name: self.source.derive(context, name) for name in self._rows}
                slot = self._slots[context.text] = self._free_slot()
                for name, values in derived.items():
                    self._rows[name][slot] = values.to(self._dtype)
        return np.asarray([self._slots[context.text] for context in contexts], dtype=np.int64)

    def holds(self, context: Context) -> bool:
        """Return True if a context has a slot. Any thread."""
        return context.text in self._slots

    def evict(self, context: Context) -> None:
        """Give a context's slot to the next one that needs one; it is derived again when it is needed."""
        if (slot := self._slots.pop(context.text, None)) is not None:
            self._free.append(slot)

    def _free_slot(self) -> int:
        if self._free:
            return self._free.pop()
        used = len(self._slots)
        if used == self.capacity:
            return self._slots.popitem(last=False)[1]
        if used == self._room:
            self._grow(min(self.capacity, max(4, 2 * used)))
        return used

    def _grow(self, room: int) -> None:
        self._room = room
        with torch.inference_mode(mode=False):
            for name, rows in self._rows.items():
                grown = torch.empty((room, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
                grown[: len(rows)] = rows
                self._rows[name] = grown
