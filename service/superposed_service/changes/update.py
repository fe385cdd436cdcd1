"""Updates: rows on their way into the store, and into the journal in the dtype they came in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from superposed.contexts import Task, as_expression
from superposed.errors import TaskExists
from superposed.learning.online import apply
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Target, Targets, read_targets
from superposed_service.changes.array_codec import narrowed, pack, unpack
from superposed_service.changes.base import Change, JsonObject, refusal
from superposed_service.changes.quarantine import sources_of
from superposed_service.changes.rows import RowBatch
from superposed_service.errors import BeyondHorizon, Quarantined
from superposed_service.storage import Entry, Record

__all__ = ["Update"]


class Update(Change):
    """One online update: rows, and what they should have answered."""

    kind = "update"
    grouped = True

    def __init__(
        self,
        rows: RowBatch,
        targets: Sequence[Target] | Targets,
        steps: int,
        schemas: Mapping[str, str] | None = None,
    ) -> None:
        self._rows, self._given, self._steps = rows, targets, steps
        self._schemas = schemas  # that its targets were read with, where they were

    @property
    def task(self) -> str:
        """The task of its first row; of a composition the one of its heaviest part."""
        return self._batch.parts[0].task.schema.key

    @property
    def size(self) -> int:
        """Rows, times the steps on them."""
        return len(self._rows) * self._steps

    def check(self, store: WeightStore) -> None:
        """Contexts, rows and targets must be the tasks'."""
        # From here on it holds what the record will hold: contexts in their text form, numbers in arrays.
        self._rows = _plain(self._rows)
        self._batch: Batch = self._rows.batch(store)
        if isinstance(self._given, Targets):
            self._targets = self._given
        else:
            self._targets = read_targets(self._batch, self._given, store.config.network.outputs)
        schemas = {part.task.schema.key: _mark(part.task.schema) for part in self._batch.parts}
        if self._schemas not in (None, schemas):
            raise TaskExists("a task is registered with another schema than the update's")
        self._schemas = schemas
        store.bindings(self._batch)  # the family may not have such a composition

    def entry(self) -> Entry:
        """Contexts and steps; rows and targets as bytes."""
        head: JsonObject = {"steps": self._steps, "rows": len(self._rows), "schemas": self._schemas}
        arrays = {"classes": narrowed(self._targets.classes.numpy())}
        if self._targets.values is not None:
            arrays["values"] = self._targets.values.numpy()
        if self._rows.contexts is None:
            head["context"] = self._rows.context
            arrays["inputs"] = narrowed(self._rows.inputs)
        else:
            distinct = list(dict.fromkeys(self._rows.contexts))
            place = {text: number for number, text in enumerate(distinct)}
            head["contexts"] = distinct
            arrays["places"] = narrowed(np.asarray([place[text] for text in self._rows.contexts]))
            arrays["widths"] = narrowed(np.asarray([len(row) for row in self._rows.inputs]))
            arrays["inputs"] = narrowed(np.concatenate(self._rows.inputs))
        return Entry(self.kind, head, pack(arrays))

    def apply(self, store: WeightStore) -> JsonObject:
        """Answers with what the model knew before; in quarantine, with its refusal."""
        if (held := self._held(store)) is not None:
            store.sequence += 1
            return refusal(held)
        result = apply(store, self._batch, self._targets, steps=self._steps)
        return {name: value for name, value in vars(result).items() if value is not None}

    def _held(self, store: WeightStore) -> Quarantined | None:
        for source in sources_of({"contexts": self.contexts, "author": self.author}):
            if source in store.tasks.quarantined:
                return Quarantined(
                    f"{source} is in quarantine: the update is recorded, and not learned from",
                    expected="a source that was not quarantined, or was released",
                    received=source,
                )
        return None

    @property
    def steps(self) -> int:
        """Optimizer steps that it takes."""
        return self._steps

    @property
    def contexts(self) -> list[str]:
        """The distinct contexts that a checked update names, in their text form."""
        return list(dict.fromkeys(str(one) for one in self._rows.contexts or [self._rows.context]))

    @property
    def tasks(self) -> list[str]:
        """The keys of the tasks that a checked update has rows of that belong to nothing else."""
        bare = [_bare(context) for context in self._rows.contexts or [self._rows.context]]
        return list(dict.fromkeys(key for key in bare if key is not None))

    @property
    def rows_by_task(self) -> Mapping[str, int]:
        """How many rows it teaches which task."""
        keys = [part.task.schema.key for part in self._batch.parts]
        counts = np.bincount(self._batch.places().numpy(), minlength=len(keys)).tolist()
        rows: Counter[str] = Counter()
        for key, count in zip(keys, counts, strict=True):
            rows[key] += count
        return rows

    def places_of(self, key: str) -> Sequence[int]:
        """Which rows of a checked update belong to a bare task."""
        if self._rows.contexts is None:
            return range(len(self._rows) if _bare(self._rows.context) == key else 0)
        return [place for place, context in enumerate(self._rows.contexts) if _bare(context) == key]

    def row(self, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """A row of a checked update with its class (1,), or with its values."""
        number, values = self._targets.classes[place : place + 1].numpy(), self._targets.values
        row = np.asarray(self._rows.inputs[place])
        if values is None or number[0] >= 0:
            return row, number
        index = self._batch.index
        part = self._batch.parts[0 if index is None else int(index[place])]
        return row, values[place, : part.task.schema.outputs].numpy()

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From contexts, rows and targets."""
        if record.payload is None:
            raise BeyondHorizon(
                f"the rows of record {record.sequence} were erased, and nothing is replayed past it",
                expected="a rollback to before that record, or of a range of records after the erasure",
            )
        arrays = unpack(record.payload)
        if "context" in record.head:
            rows = RowBatch(record.head["context"], None, arrays["inputs"])
        else:
            contexts = [record.head["contexts"][place] for place in arrays["places"]]
            rows = RowBatch(None, contexts, np.split(arrays["inputs"], np.cumsum(arrays["widths"])[:-1]))
        classes, values = arrays["classes"].astype(np.int64), arrays.get("values")
        targets = Targets(
            torch.from_numpy(classes), None if values is None else torch.from_numpy(values.copy())
        )
        return cls(rows, targets, record.head["steps"], record.head["schemas"])


# Fields that say nothing of what a row or a class number means.
_WITHOUT_MEANING = {"keep_rows", "group", "own_layers", "composition"}


@lru_cache(maxsize=4096)
def _mark(schema: TaskSchema) -> str:
    """Tells a schema from others: class numbers mean something only with the labels they were read with."""
    meaning = schema.model_dump_json(exclude=schema.defaults | _WITHOUT_MEANING)
    return hashlib.sha256(meaning.encode()).hexdigest()[:16]


@lru_cache(maxsize=4096)
def _bare(context: object) -> str | None:
    """The key of a context that is one task's and not a composition."""
    expression = as_expression(context)
    return expression.key if isinstance(expression, Task) else None


def _plain(rows: RowBatch) -> RowBatch:
    """Contexts in their one text form, numbers in arrays; what cannot be read is left for the check."""
    if rows.contexts is None:
        return RowBatch(str(as_expression(rows.context)), None, _array(rows.inputs))
    text: dict[Any, str] = {}
    contexts = []
    for context in rows.contexts:
        known = context if isinstance(context, str) else str(as_expression(context))
        if known not in text:
            text[known] = str(as_expression(known))
        contexts.append(text[known])
    if not isinstance(rows.inputs, list | tuple):
        return RowBatch(None, contexts, rows.inputs)
    return RowBatch(None, contexts, _alike([_array(row) for row in rows.inputs]))


def _alike(rows: list[Any]) -> list[Any]:
    """Rows of numbers in one dtype, as the record will hold them: what is learned is what is replayed."""
    if not all(isinstance(row, np.ndarray) and row.dtype.kind in "biuf" for row in rows):
        return rows  # left for the check
    common = np.result_type(*{row.dtype for row in rows}) if rows else None
    return [row.astype(common, copy=False) for row in rows]


def _array(values: Any) -> Any:
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return values
    return array.astype(np.uint8) if array.dtype.kind == "b" else array
