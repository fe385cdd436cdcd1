"""Changes of the task registry: register and delete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from superposed.config import validated
from superposed.errors import TaskInUse
from superposed.store.store import WeightStore
from superposed.tasks.registry import TaskState
from superposed.tasks.schema import TaskSchema
from superposed_service.changes.base import Change, JsonObject, PreparedChange
from superposed_service.errors import LimitReached
from superposed_service.storage import Entry, Record


def task_body(store: WeightStore, state: TaskState) -> JsonObject:
    """Return a task, as the service shows it."""
    schema, seen = state.schema, state.prequential
    return {
        **schema.model_dump(mode="json"),
        "rows_seen": seen.rows,
        "updates": state.updates,
        "prequential": {"accuracy": seen.accuracy(schema.loss), "loss": seen.loss},
        "last_sequence": state.last_sequence,
        "rows_kept": store.replay_buffer.rows_kept(schema.key),
        "quarantined": store.tasks.quarantined.get(schema.key),
    }


class Register(Change):
    """A task is registered.

    Args:
        schema: Gives the task's schema in a store.
        most: How many tasks one author may have registered; None for any number.
    """

    kind = "register"

    def __init__(self, schema: Callable[[WeightStore], TaskSchema], most: int | None = None) -> None:
        self._schema_for, self._most = schema, most

    def prepare(self, store: WeightStore) -> PreparedChange | JsonObject:
        """Complete the schema; a task with the same schema is answered as it is."""
        schema = store.completed(self._schema_for(store))
        if (existing := store.find_same(schema)) is not None:
            return {"new": False, "task": task_body(store, existing)}
        self._check_room(store)
        head = {"schema": schema.to_json(), "generation": store.tasks.next_generation(schema.key)}

        def apply(store: WeightStore) -> JsonObject:
            state, new = store.register(schema, author=self.author or "", recorded=True)
            return {"new": new, "task": task_body(store, state)}

        return PreparedChange(lambda: Entry(self.kind, head), apply, schema.key)

    def _check_room(self, store: WeightStore) -> None:
        if self._most is None or self.author is None:
            return
        if (count := store.tasks.registered_by(self.author)) >= self._most:
            raise LimitReached(
                "this API key has registered as many tasks and compositions as it may: delete some first",
                expected=f"{self._most} at most (SUPERPOSED_MAX_TASKS_PER_KEY)",
                received=count + 1,
            )

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record."""
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

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Reject a task that is not there, or is the group of other tasks."""
        state = store.tasks.check_removable(self._key)
        if self._untaught and state.updates:
            raise TaskInUse(
                f"task {self._key} was taught since it was registered",
                expected="a task without updates",
                received=f"{state.updates} updates",
            )

        def apply(store: WeightStore) -> JsonObject:
            store.delete(self._key)
            return {}

        return PreparedChange(lambda: Entry(self.kind, {"key": self._key}), apply, self._key)

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record."""
        return cls(record.head["key"])
