"""Updates: rows on their way into the store, and into the journal in the dtype they came in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
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
from superposed.tasks.targets import Target, Targets, check_classes, read_targets
from superposed_service.changes.array_codec import narrowed, pack, unpack
from superposed_service.changes.base import Change, JsonObject, PreparedChange, rejection
from superposed_service.changes.quarantine import sources_of
from superposed_service.changes.rows import RowBatch
from superposed_service.errors import HistoryTruncated, Quarantined
from superposed_service.storage import Entry, Record


@dataclass(frozen=True)
class PreparedUpdate(PreparedChange):
    """An update that was validated against the store's tasks.

    Args:
        rows: The rows as the record holds them: contexts as text, numbers in arrays.
        batch: The rows as the store reads them.
        targets: Classes or values of the rows.
        steps: Optimizer steps.
    """

    rows: RowBatch = field(kw_only=True)
    batch: Batch = field(kw_only=True)
    targets: Targets = field(kw_only=True)
    steps: int = field(kw_only=True)

    @property
    def tasks(self) -> list[str]:
        """Keys of the single tasks that rows belong to; compositions are left out."""
        single = [_bare(context) for context in self.rows.contexts or [self.rows.context]]
        return list(dict.fromkeys(key for key in single if key is not None))

    def places_of(self, key: str) -> Sequence[int]:
        """Return the places of the rows that belong to a single task."""
        if self.rows.contexts is None:
            return range(len(self.rows) if _bare(self.rows.context) == key else 0)
        return [place for place, context in enumerate(self.rows.contexts) if _bare(context) == key]

    def row(self, place: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return a row with its class (1,), or with its values."""
        number, values = self.targets.classes[place : place + 1].numpy(), self.targets.values
        row = np.asarray(self.rows.inputs[place])
        if values is None or number[0] >= 0:
            return row, number
        index = self.batch.index
        part = self.batch.parts[0 if index is None else int(index[place])]
        return row, values[place, : part.task.schema.outputs].numpy()


class Update(Change):
    """One online update: rows, and their targets.

    Args:
        rows: The rows.
        targets: A class or values for each row.
        steps: Optimizer steps.
        schemas: Marks of the schemas that the targets were read with; None for an update that is new.
    """

    kind = "update"
    grouped = True

    def __init__(
        self,
        rows: RowBatch,
        targets: Sequence[Target] | Targets,
        steps: int,
        schemas: Mapping[str, str] | None = None,
    ) -> None:
        self._rows, self._targets, self._steps, self._schemas = rows, targets, steps, schemas

    @property
    def size(self) -> int:
        """Rows, times the steps on them."""
        return len(self._rows) * self._steps

    def prepare(self, store: WeightStore) -> PreparedUpdate:
        """Read contexts, rows and targets as the tasks' schemas say."""
        rows = _plain(self._rows)
        batch = rows.batch(store)
        targets = self._targets
        if not isinstance(targets, Targets):
            targets = read_targets(batch, targets, store.config.network.outputs)
        check_classes(batch, targets)
        schemas = {part.task.schema.key: _mark(part.task.schema) for part in batch.parts}
        if self._schemas not in (None, schemas):
            raise TaskExists("a task is registered with another schema than the update's")
        store.bindings(batch)  # the family may not have such a composition
        contexts = [str(one) for one in rows.contexts or [rows.context]]
        return PreparedUpdate(
            entry=partial(_entry, rows, targets, self._steps, schemas),
            apply=partial(
                _learn, batch=batch, targets=targets, steps=self._steps, contexts=contexts, author=self.author
            ),
            task=batch.parts[0].task.schema.key,
            rows_by_task=_rows_by_task(batch),
            rows=rows,
            batch=batch,
            targets=targets,
            steps=self._steps,
        )

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record."""
        if record.payload is None:
            raise HistoryTruncated(
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


def _entry(rows: RowBatch, targets: Targets, steps: int, schemas: Mapping[str, str]) -> Entry:
    """Return the record: contexts and steps in the head; rows and targets as bytes."""
    head: JsonObject = {"steps": steps, "rows": len(rows), "schemas": schemas}
    arrays = {"classes": narrowed(targets.classes.numpy())}
    if targets.values is not None:
        arrays["values"] = targets.values.numpy()
    if rows.contexts is None:
        head["context"] = rows.context
        arrays["inputs"] = narrowed(rows.inputs)
    else:
        distinct = list(dict.fromkeys(rows.contexts))
        place = {text: number for number, text in enumerate(distinct)}
        head["contexts"] = distinct
        arrays["places"] = narrowed(np.asarray([place[text] for text in rows.contexts]))
        arrays["widths"] = narrowed(np.asarray([len(row) for row in rows.inputs]))
        arrays["inputs"] = narrowed(np.concatenate(rows.inputs))
    return Entry(Update.kind, head, pack(arrays))


def _learn(
    store: WeightStore, *, batch: Batch, targets: Targets, steps: int, contexts: list[str], author: str | None
) -> JsonObject:
    """Learn from the rows and return the measurement before it; of a quarantined source, the rejection."""
    for source in sources_of({"contexts": list(dict.fromkeys(contexts)), "author": author}):
        if source in store.tasks.quarantined:
            store.sequence += 1
            return rejection(
                Quarantined(
                    f"{source} is in quarantine: the update is recorded, and not learned from",
                    expected="a source that was not quarantined, or was released",
                    received=source,
                )
            )
    result = apply(store, batch, targets, steps=steps)
    return {name: value for name, value in vars(result).items() if value is not None}


def _rows_by_task(batch: Batch) -> Mapping[str, int]:
    keys = [part.task.schema.key for part in batch.parts]
    rows: Counter[str] = Counter()
    for key, count in zip(
        keys, np.bincount(batch.places().numpy(), minlength=len(keys)).tolist(), strict=True
    ):
        rows[key] += count
    return rows


# Fields that say nothing of what a row or a class number means.
_WITHOUT_MEANING = {"keep_rows", "group", "own_layers", "composition"}


@lru_cache(maxsize=4096)
def _mark(schema: TaskSchema) -> str:
    """Tell a schema from others: class numbers mean something only with the labels they were read with."""
    meaning = schema.model_dump_json(exclude=schema.defaults | _WITHOUT_MEANING)
    return hashlib.sha256(meaning.encode()).hexdigest()[:16]


@lru_cache(maxsize=4096)
def _bare(context: object) -> str | None:
    """Return the key of a context that is one task's and not a composition."""
    expression = as_expression(context)
    return expression.key if isinstance(expression, Task) else None


def _plain(rows: RowBatch) -> RowBatch:
    """Return rows with contexts in canonical text and numbers in arrays, as far as they can be read."""
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
    """Return rows of numbers in one dtype, as the record will hold them."""
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
