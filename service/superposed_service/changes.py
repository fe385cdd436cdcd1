"""What changes a store: each change is checked, journalled, and applied from what was journalled.

A change and the record made of it hold the same numbers, so applying it now and replaying it later are
the same computation.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, Self

import numpy as np
import torch

from superposed.batch import Batch, Target, Targets, read_targets
from superposed.config import validated
from superposed.contexts import as_expression, flatten
from superposed.errors import TaskExists
from superposed.learning import apply
from superposed.store import WeightStore
from superposed.tasks import TaskSchema, TaskState
from superposed_service.arrays import narrowed, pack, unpack
from superposed_service.errors import BeyondHorizon, JournalCorrupt
from superposed_service.rows import Rows
from superposed_service.storage import Entry, Record

__all__ = ["Change", "Delete", "JsonObject", "Register", "Update", "change_of", "keys_of", "task_body"]

JsonObject = dict[str, Any]


def task_body(state: TaskState) -> JsonObject:
    """A task, as the service shows it."""
    schema, seen = state.schema, state.prequential
    return {
        **schema.model_dump(mode="json"),
        "rows_seen": seen.rows,
        "updates": state.updates,
        "prequential": {"accuracy": seen.accuracy(schema.loss), "loss": seen.loss},
        "last_sequence": state.last_sequence,
    }


class Change(ABC):
    """One change of a store. In this order: `check`, `entry`, and once that is on the disk, `apply`."""

    kind: ClassVar[str]
    # Whether several of it may be checked before the first is applied: it leaves the tasks as they are.
    grouped: ClassVar[bool] = False

    @abstractmethod
    def check(self, store: WeightStore) -> JsonObject | None:
        """Checks the change against the store; changes nothing.

        Returns:
            The answer, where the store is already as asked and nothing is to be recorded.

        Raises:
            SuperposedError: It cannot be applied.
        """

    @abstractmethod
    def entry(self) -> Entry:
        """What the journal keeps of it."""

    @abstractmethod
    def apply(self, store: WeightStore) -> JsonObject:
        """Applies the checked change: the store's sequence number goes up by one.

        Returns:
            The answer: JSON values.

        Raises:
            UpdateError: The arithmetic refuses it; the store is as it was, sequence number included.
        """


class Register(Change):
    """A task is registered."""

    kind = "register"

    def __init__(self, schema: Callable[[WeightStore], TaskSchema]) -> None:
        self._schema_for = schema

    def check(self, store: WeightStore) -> JsonObject | None:
        """A task that is registered the same already is answered as it is."""
        self._schema = self._schema_for(store)
        existing = store.find_same(self._schema)
        self._generation = store.tasks.next_generation(self._schema.key)
        return None if existing is None else {"new": False, "task": task_body(existing)}

    def entry(self) -> Entry:
        """The schema, and how often the key was deleted before."""
        head = {"schema": self._schema.model_dump(mode="json"), "generation": self._generation}
        return Entry(self.kind, head)

    def apply(self, store: WeightStore) -> JsonObject:
        """Answers with the task."""
        state, new = store.register(self._schema)
        return {"new": new, "task": task_body(state)}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From the schema."""
        schema = validated(TaskSchema, record.head["schema"])
        return cls(lambda _: schema)


class Delete(Change):
    """A task is forgotten."""

    kind = "delete"

    def __init__(self, key: str) -> None:
        self._key = key

    def check(self, store: WeightStore) -> None:
        """The task must be there."""
        store.tasks.get(self._key)

    def entry(self) -> Entry:
        """The key."""
        return Entry(self.kind, {"key": self._key})

    def apply(self, store: WeightStore) -> JsonObject:
        """Answers with nothing."""
        store.delete(self._key)
        return {}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From the key."""
        return cls(record.head["key"])


class Update(Change):
    """One online update: rows, and what they should have answered."""

    kind = "update"
    grouped = True

    def __init__(
        self,
        rows: Rows,
        targets: Sequence[Target] | Targets,
        steps: int,
        schemas: Mapping[str, str] | None = None,
    ) -> None:
        self._rows, self._given, self._steps = rows, targets, steps
        self._schemas = schemas  # that its targets were read with, where they were

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
        """Answers with what the model knew before."""
        result = apply(store, self._batch, self._targets, steps=self._steps)
        return {name: value for name, value in vars(result).items() if value is not None}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From contexts, rows and targets."""
        if record.payload is None:
            raise BeyondHorizon(f"the rows of record {record.sequence} were erased")
        arrays = unpack(record.payload)
        if "context" in record.head:
            rows = Rows(record.head["context"], None, arrays["inputs"])
        else:
            contexts = [record.head["contexts"][place] for place in arrays["places"]]
            rows = Rows(None, contexts, np.split(arrays["inputs"], np.cumsum(arrays["widths"])[:-1]))
        classes, values = arrays["classes"].astype(np.int64), arrays.get("values")
        targets = Targets(
            torch.from_numpy(classes), None if values is None else torch.from_numpy(values.copy())
        )
        return cls(rows, targets, record.head["steps"], record.head["schemas"])


@lru_cache(maxsize=4096)
def _mark(schema: TaskSchema) -> str:
    """Tells a schema from others: class numbers mean something only with the labels they were read with."""
    return hashlib.sha256(schema.model_dump_json().encode()).hexdigest()[:16]


def _plain(rows: Rows) -> Rows:
    """Contexts in their one text form, numbers in arrays; what cannot be read is left for the check."""
    if rows.contexts is None:
        return Rows(str(as_expression(rows.context)), None, _array(rows.inputs))
    text: dict[Any, str] = {}
    contexts = []
    for context in rows.contexts:
        known = context if isinstance(context, str) else str(as_expression(context))
        if known not in text:
            text[known] = str(as_expression(known))
        contexts.append(text[known])
    inputs = [_array(row) for row in rows.inputs] if isinstance(rows.inputs, list | tuple) else rows.inputs
    return Rows(None, contexts, inputs)


def _array(values: Any) -> Any:
    try:
        return np.asarray(values)
    except (ValueError, OverflowError):
        return values


_KINDS: Mapping[str, Callable[[Record], Change]] = {
    kind.kind: kind.from_record for kind in (Register, Delete, Update)
}


def change_of(record: Record) -> Change:
    """The change that a record was made of.

    Raises:
        JournalCorrupt: No release of this service made such a record.
        BeyondHorizon: Its rows were erased.
    """
    if record.kind not in _KINDS:
        raise JournalCorrupt(f"record {record.sequence} is of an unknown kind", received=record.kind)
    return _KINDS[record.kind](record)


def keys_of(head: Mapping[str, Any]) -> set[str]:
    """The task keys that a record's head names, those inside compositions too."""
    if "schema" in head:
        return {head["schema"]["key"]}
    if "key" in head:
        return {head["key"]}
    contexts = [head["context"]] if "context" in head else head.get("contexts", [])
    return {leaf.key for context in contexts for leaf in flatten(as_expression(context))}
