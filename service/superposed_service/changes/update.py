"""Updates: rows on their way into the store, labels that they add, and their journal records in the rows' dtype."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Self

import numpy as np
import orjson
import torch
from numpy.typing import NDArray

from superposed.contexts import Task, as_expression
from superposed.errors import SchemaChanged, TaskExists
from superposed.learning.online import apply, check_records_fit, learn_features
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch, join_lists
from superposed.tasks.labels import Label, plain_target
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Target, Targets, check_classes, read_targets, weighted
from superposed_service.changes.base import Change, JsonObject, PreparedChange, rejection
from superposed_service.changes.quarantine import sources_of
from superposed_service.changes.rows import RowBatch, narrowed, pack, unpack
from superposed_service.errors import HistoryTruncated, NotReady, Quarantined
from superposed_service.storage import Entry, Record


@dataclass(frozen=True)
class Growth:
    """Labels that a change adds to a task."""

    key: str
    version: int  # version of the task's schema before
    labels: Sequence[Label]  # the labels, none of which the task has

    def schema(self, store: WeightStore) -> TaskSchema:
        """Return the task's schema with the labels; raises as `check_version` and `WeightStore.altered`."""
        check_version(store, self.key, self.version)
        return store.altered(self.key, add_labels=self.labels)


def check_version(store: WeightStore, key: str, version: int) -> None:
    """Raise `SchemaChanged` where a task's schema has another version."""
    if (now := store.tasks.get(key).version) != version:
        text = f"the schema of task {key} has changed: read the task and ask again"
        raise SchemaChanged(text, expected=f"schema_version {now}", received=version)


def growth_for(batch: Batch, targets: Sequence[Target]) -> list[Growth]:
    """Return the labels that targets add to the tasks of their rows, in the order of the rows.

    Rows of compositions add none: a mixture of a task with more outputs than its others cannot be addressed.
    """
    found: dict[str, dict[Label, None]] = {}
    for place, target in zip(batch.places().tolist(), targets, strict=False):
        part, label = batch.parts[place], plain_target(target)
        schema = part.task.schema
        if not (part.is_single and schema.labels is not None) or schema.has_label(label):
            continue
        if isinstance(label, bool | int | float | str):
            found.setdefault(schema.key, {})[label] = None
    versions = {part.task.schema.key: part.task.version for part in batch.parts}
    return [Growth(key, versions[key], list(labels)) for key, labels in found.items()]


def with_schemas(batch: Batch, schemas: Mapping[str, TaskSchema]) -> Batch:
    """Return a batch to read targets against, whose tasks have other schemas; the tasks are as they were."""
    if not schemas:
        return batch
    parts = [
        replace(part, task=replace(part.task, schema=schemas.get(part.task.schema.key, part.task.schema)))
        for part in batch.parts
    ]
    return replace(batch, parts=tuple(parts))


_OPTIONAL = ("values", "weights")  # of targets, in a record


@dataclass(frozen=True, kw_only=True)
class PreparedUpdate(PreparedChange):
    """An update that was validated against the store's tasks."""

    rows: RowBatch  # the rows as the record holds them: contexts as text, numbers in arrays
    batch: Batch  # the rows as the store reads them
    targets: Targets  # classes or values of the rows
    steps: int

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
        if self.rows.are_records:
            row = np.frombuffer(orjson.dumps(self.rows.inputs[place]), dtype=np.uint8)
        if values is None or number[0] >= 0:
            return row, number
        part = self.batch.parts[int(self.batch.places()[place])]
        return row, values[place, : part.task.schema.outputs].numpy()


@dataclass(eq=False)
class Update(Change):
    """One online update: rows, and their targets."""

    kind = "update"

    rows: RowBatch
    targets: Sequence[Target] | Targets  # a class or values for each row
    steps: int
    # Marks of the schemas that the targets were read with; None for an update that is new
    schemas: Mapping[str, str] | None = None
    grow_labels: bool = False  # whether targets that are no labels yet become labels of their tasks
    growth: Sequence[Growth] = ()  # what the record says was added
    weights: Sequence[float] | None = None  # how much each row counts; None for 1 each
    standby: bool = False  # whether it may teach tasks that stand by

    def __post_init__(self) -> None:
        self.grouped, self.size = not (self.grow_labels or self.growth), len(self.rows) * self.steps

    def prepare(self, store: WeightStore) -> PreparedUpdate:
        """Read contexts, rows and targets as the tasks' schemas say."""
        rows = _plain(self.rows)
        batch = rows.batch(store, learning=True)
        targets, growth = self.targets, self.growth
        if self.grow_labels and not isinstance(targets, Targets):
            growth = growth_for(batch, targets)
        grown = {one.key: one.schema(store) for one in growth}
        read = with_schemas(batch, grown)
        if not isinstance(targets, Targets):
            targets = read_targets(read, targets, store.config.network.outputs)
        check_classes(read, targets)
        if self.weights is not None:
            targets = weighted(targets, self.weights)
        if self.schemas is None:
            check_records_fit(batch)
            self._check_standby(batch)
        keys = [part.task.schema.key for part in batch.parts]
        schemas = {part.task.schema.key: part.task.mark for part in batch.parts}
        if self.schemas not in (None, schemas):
            raise TaskExists("a task is registered with another schema than the update's")
        store.bindings(batch)  # the family may not have such a composition
        return PreparedUpdate(
            entry=partial(_entry, rows, targets, self.steps, schemas, growth),
            apply=partial(self._learn, rows=rows, batch=batch, targets=targets, grown=grown),
            task=keys[0],
            rows_by_task=Counter(keys[place] for place in batch.places().tolist()),
            rows=rows,
            batch=batch,
            targets=targets,
            steps=self.steps,
        )

    def _check_standby(self, batch: Batch) -> None:
        """Refuse updates of tasks that stand by, but those of the move itself: a task changes cells between two."""
        waiting = [part.task.schema.key for part in batch.parts if part.task.schema.standby]
        if waiting and not self.standby:
            raise NotReady("the task is being moved to another cell: send the update again", received=waiting[0])

    def _learn(
        self, store: WeightStore, *, rows: RowBatch, batch: Batch, targets: Targets, grown: Mapping[str, TaskSchema]
    ) -> JsonObject:
        """Learn from the rows and return the measurement before it; of a quarantined source, the rejection."""
        contexts = list(dict.fromkeys(rows.contexts or [rows.context]))
        for source in sources_of({"contexts": contexts, "author": self.author}):
            if source in store.tasks.quarantined:
                store.sequence += 1
                text = f"{source} is in quarantine: the update is recorded, and not learned from"
                wanted = "a source that was not quarantined, or was released"
                return rejection(Quarantined(text, expected=wanted, received=source))
        with store.growing(grown):
            result = apply(store, batch, targets, steps=self.steps)
        return {name: value for name, value in vars(result).items() if value is not None}

    def with_targets(self, store: WeightStore, corrected: Callable[[Batch, Targets], Sequence[Target]]) -> "Update":
        """Return an update of the same rows with other targets: `corrected` of the rows and the old targets."""
        if not isinstance(self.targets, Targets):
            raise TypeError("only an update that was read from its record has targets to correct")
        batch, weights = _plain(self.rows).batch(store, learning=True), self.targets.weights
        given = None if weights is None else weights.tolist()
        return Update(self.rows, corrected(batch, self.targets), self.steps, weights=given)

    def learn_schema(self, store: WeightStore) -> None:
        """Add the labels of the record, and learn the features of its records."""
        with store.growing({one.key: one.schema(store) for one in self.growth}):
            learn_features(_plain(self.rows).batch(store, learning=True))

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record."""
        if record.payload is None:
            text = f"the rows of record {record.sequence} were erased, and nothing is replayed past it"
            wanted = "a rollback to before that record, or of a range of records after the erasure"
            raise HistoryTruncated(text, expected=wanted)
        arrays = unpack(record.payload)
        if "records" in arrays:
            head, values = record.head, orjson.loads(arrays["records"].tobytes())
            rows = RowBatch(head.get("context"), head.get("contexts"), values)
        elif "context" in record.head:
            rows = RowBatch(record.head["context"], None, arrays["inputs"])
        else:
            contexts = [record.head["contexts"][place] for place in arrays["places"]]
            rows = RowBatch(None, contexts, np.split(arrays["inputs"], np.cumsum(arrays["widths"])[:-1]))
        values, weights = (torch.from_numpy(arrays[name].copy()) if name in arrays else None for name in _OPTIONAL)
        targets = Targets(torch.from_numpy(arrays["classes"].astype(np.int64)), values, weights=weights)
        growth = [Growth(**one) for one in record.head.get("growth", ())]
        return cls(rows, targets, record.head["steps"], record.head["schemas"], growth=growth)


def _entry(rows: RowBatch, targets: Targets, steps: int, schemas: Mapping[str, str], growth: Sequence[Growth]) -> Entry:
    """Return the record: contexts and steps in the head; rows and targets as bytes."""
    head: JsonObject = {"steps": steps, "rows": len(rows), "schemas": schemas}
    if growth:
        head["growth"] = [vars(one) for one in growth]
    arrays = {"classes": narrowed(targets.classes.numpy())}
    arrays |= {name: tensor.numpy() for name in _OPTIONAL if (tensor := getattr(targets, name)) is not None}
    if rows.originals is not None:
        items = [one.encode() if isinstance(one, str) else one for one in rows.originals.items]
        arrays["originals"] = np.frombuffer(b"".join(items), dtype=np.uint8)
        arrays["original_bytes"] = narrowed(np.asarray([len(one) for one in items]))
    if rows.are_records:
        arrays["records"] = np.frombuffer(orjson.dumps(rows.inputs), dtype=np.uint8)
        head |= {"context": rows.context} if rows.contexts is None else {"contexts": rows.contexts}
    elif rows.contexts is None:
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


@lru_cache(maxsize=4096)
def _bare(context: object) -> str | None:
    """Return the key of a context that is one task's and not a composition."""
    expression = as_expression(context)
    return expression.key if isinstance(expression, Task) else None


def _plain(rows: RowBatch) -> RowBatch:
    """Return rows with contexts in canonical text and numbers in arrays, as far as they can be read."""
    if rows.contexts is None:
        inputs = rows.inputs if rows.are_records else _array(rows.inputs)
        return replace(rows, context=str(as_expression(rows.context)), inputs=inputs)
    texts = [context if isinstance(context, str) else str(as_expression(context)) for context in rows.contexts]
    canonical = {text: str(as_expression(text)) for text in dict.fromkeys(texts)}  # each is read once
    contexts = [canonical[text] for text in texts]
    if rows.are_records or not isinstance(rows.inputs, list | tuple):
        return replace(rows, contexts=contexts)
    return replace(rows, contexts=contexts, inputs=_alike([_array(row) for row in rows.inputs]))


def _alike(rows: list[Any]) -> list[Any]:
    """Return rows of numbers in one dtype, as the record will hold them."""
    if not all(isinstance(row, np.ndarray) and row.dtype.kind in "biuf" for row in rows):
        return rows  # left for the check
    common = np.result_type(*{row.dtype for row in rows}) if rows else None
    return [row.astype(common, copy=False) for row in rows]


def _array(values: Any) -> Any:
    first = values[0] if isinstance(values, list) and values else None
    if isinstance(first, list) and first and type(first[0]) is float:  # most rows that come as JSON
        rows = join_lists([values], len(first))
        if rows is not None:
            return rows
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return values
    return array.astype(np.uint8) if array.dtype.kind == "b" else array
