"""What changes a store: each change is checked, journalled, and applied from what was journalled.

A change and the record made of it hold the same numbers, so applying it now and replaying it later are
the same computation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from superposed.config import validated
from superposed.contexts import as_expression, flatten
from superposed.errors import SuperposedError, TaskInUse
from superposed.store.store import WeightStore
from superposed.tasks.registry import TaskState
from superposed.tasks.schema import TaskSchema
from superposed_service.errors import LimitReached
from superposed_service.storage import Entry, Record

__all__ = [
    "AUTHOR",
    "Change",
    "Delete",
    "JsonObject",
    "Quarantine",
    "Register",
    "Release",
    "keys_of",
    "refusal",
    "sources_of",
    "task_body",
]

JsonObject = dict[str, Any]

# Before an author's id, where a source may be a task key too.
AUTHOR = "key:"


def task_body(store: WeightStore, state: TaskState) -> JsonObject:
    """A task, as the service shows it."""
    schema, seen = state.schema, state.prequential
    return {
        **schema.model_dump(mode="json"),
        "rows_seen": seen.rows,
        "updates": state.updates,
        "prequential": {"accuracy": seen.accuracy(schema.loss), "loss": seen.loss},
        "last_sequence": state.last_sequence,
        "rows_kept": store.reservoir.rows_kept(schema.key),
        "quarantined": store.tasks.quarantined.get(schema.key),
    }


def refusal(error: SuperposedError) -> JsonObject:
    """The answer of a change that is recorded and was not applied."""
    return {
        "refused": {
            "error": type(error).__name__,
            "message": error.message,
            "expected": error.expected,
            "received": error.received,
        }
    }


class Change(ABC):
    """One change of a store. In this order: `check`, `entry`, and once that is on the disk, `apply`."""

    kind: ClassVar[str]
    # Who asked for it: an API key's id, where there are any.
    author: str | None = None
    # Whether several of it may be checked before the first is applied: it leaves the tasks as they are.
    grouped: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """What it costs, against other changes."""
        return 1

    @property
    def task(self) -> str:
        """The key of the task that a checked change is about; empty where it is about none."""
        return ""

    @abstractmethod
    def check(self, store: WeightStore) -> JsonObject | None:
        """Checks the change against the store; changes nothing.

        Returns:
            The answer, where the store is already as asked and nothing is to be recorded.

        Raises:
            SuperposedError: It cannot be applied.
        """

    @property
    def rows_by_task(self) -> Mapping[str, int]:
        """How many rows a checked change teaches which task; a composition's count for its heaviest part."""
        return {}

    @abstractmethod
    def entry(self) -> Entry:
        """What the journal keeps of it."""

    def signed_entry(self) -> Entry:
        """The entry, with who asked for it."""
        entry = self.entry()
        if self.author is None:
            return entry
        return Entry(entry.kind, {**entry.head, "author": self.author}, entry.payload)

    @abstractmethod
    def apply(self, store: WeightStore) -> JsonObject:
        """Applies the checked change: the store's sequence number goes up by one.

        Returns:
            The answer: JSON values.

        Raises:
            UpdateError: The arithmetic refuses it; the store is as it was, sequence number included.
        """


class Register(Change):
    """A task is registered.

    Args:
        schema: Gives the task's schema in a store.
        most: How many tasks one author may have registered; None for any number.
    """

    kind = "register"

    def __init__(self, schema: Callable[[WeightStore], TaskSchema], most: int | None = None) -> None:
        self._schema_for, self._most = schema, most

    @property
    def task(self) -> str:
        """Its key."""
        return self._schema.key

    def check(self, store: WeightStore) -> JsonObject | None:
        """A task that is registered the same already is answered as it is."""
        self._schema = store.completed(self._schema_for(store))
        existing = store.find_same(self._schema)
        self._generation = store.tasks.next_generation(self._schema.key)
        if existing is None:
            self._check_room(store)
        return None if existing is None else {"new": False, "task": task_body(store, existing)}

    def _check_room(self, store: WeightStore) -> None:
        if self._most is None or self.author is None:
            return
        if (count := store.tasks.registered_by(self.author)) >= self._most:
            raise LimitReached(
                "this API key has registered as many tasks and compositions as it may: delete some first",
                expected=f"{self._most} at most (SUPERPOSED_MAX_TASKS_PER_KEY)",
                received=count + 1,
            )

    def entry(self) -> Entry:
        """The schema, and how often the key was deleted before."""
        head = {"schema": self._schema.to_json(), "generation": self._generation}
        return Entry(self.kind, head)

    def apply(self, store: WeightStore) -> JsonObject:
        """Answers with the task."""
        state, new = store.register(self._schema, author=self.author or "", recorded=True)
        return {"new": new, "task": task_body(store, state)}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From the schema."""
        schema = validated(TaskSchema, record.head["schema"])
        return cls(lambda _: schema)


class Delete(Change):
    """A task is forgotten.

    Args:
        key: The task.
        untaught: Whether only a task that no update has taught is: the way back from a registration.
    """

    kind = "delete"

    def __init__(self, key: str, *, untaught: bool = False) -> None:
        self._key, self._untaught = key, untaught

    @property
    def task(self) -> str:
        """Its key."""
        return self._key

    def check(self, store: WeightStore) -> None:
        """The task must be there, and no other's group."""
        state = store.tasks.check_removable(self._key)
        if self._untaught and state.updates:
            raise TaskInUse(
                f"task {self._key} was taught since it was registered",
                expected="a task without updates",
                received=f"{state.updates} updates",
            )

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


class Quarantine(Change):
    """From here on a source's updates are recorded and not applied: a decision, which replay repeats.

    Args:
        source: A task key, or an author (see `sources_of`).
        reason: Who decided it and why: JSON values.
    """

    kind = "quarantine"

    def __init__(self, source: str, reason: JsonObject) -> None:
        self._source, self._reason = source, reason

    def check(self, store: WeightStore) -> None:
        """Always possible, also of a source that is in quarantine already: then nothing changes."""

    def entry(self) -> Entry:
        """Whom it meets, and why."""
        return Entry(self.kind, {"source": self._source, "reason": self._reason})

    def apply(self, store: WeightStore) -> JsonObject:
        """Answers since when the source is in quarantine."""
        store.sequence += 1
        since = store.tasks.quarantined.setdefault(self._source, store.sequence)
        return {"source": self._source, "since": since}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From the source."""
        return cls(record.head["source"], record.head["reason"])


class Release(Change):
    """A source's updates are applied again from here on."""

    kind = "release"

    def __init__(self, source: str) -> None:
        self._source = source

    def check(self, store: WeightStore) -> None:
        """Always possible; where there was no quarantine nothing changes."""

    def entry(self) -> Entry:
        """Whom it meets."""
        return Entry(self.kind, {"source": self._source})

    def apply(self, store: WeightStore) -> JsonObject:
        """Answers with the source."""
        store.sequence += 1
        store.tasks.quarantined.pop(self._source, None)
        return {"source": self._source}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """From the source."""
        return cls(record.head["source"])


def keys_of(head: Mapping[str, Any]) -> set[str]:
    """The task keys that a record's head names, those inside compositions too."""
    if "schema" in head:
        return {head["schema"]["key"]}
    if "key" in head:
        return {head["key"]}
    contexts = [head["context"]] if "context" in head else head.get("contexts", [])
    return {leaf.key for context in contexts for leaf in flatten(as_expression(context))}


def sources_of(head: Mapping[str, Any]) -> set[str]:
    """Whom an update comes from: the task keys that it names, and its author (`key:<id>`), where known."""
    author = head.get("author")
    return keys_of(head) | ({AUTHOR + author} if author is not None else set())
