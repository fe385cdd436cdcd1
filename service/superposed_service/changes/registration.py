"""Changes of the task registry: register and delete."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from superposed.config import validated
from superposed.errors import TaskInUse
from superposed.learning.groups import register
from superposed.store.store import WeightStore
from superposed.tasks.labels import Label
from superposed.tasks.registry import TaskState
from superposed.tasks.schema import TaskSchema
from superposed_service.changes.base import Change, JsonObject, PreparedChange
from superposed_service.changes.update import check_version
from superposed_service.errors import LimitReached
from superposed_service.storage import Entry, Record


def task_body(store: WeightStore, state: TaskState) -> JsonObject:
    """Return a task, as the service shows it."""
    schema, seen = state.schema, state.prequential
    features = store.resolve(schema.key).features if schema.kind == "records" else state.features  # or its group's
    named = [{"name": name, "kind": kind or "unknown"} for name, kind in features.features.items()]
    return {
        **schema.model_dump(mode="json"),
        "rows_seen": seen.rows,
        "updates": state.updates,
        "prequential": {"accuracy": seen.accuracy(schema.loss), "loss": seen.loss},
        "last_sequence": state.last_sequence,
        "rows_kept": store.replay_buffer.rows_kept(schema.key),
        "quarantined": store.tasks.quarantined.get(schema.key),
        "schema_version": state.version,
        "features": named if features.known else None,
        "temperature": state.calibration.temperature,
    }


def task_page(
    store: WeightStore, prefix: str, after: str, most: int, may_name: Callable[[str], bool]
) -> tuple[list[JsonObject], str | None]:
    """Return one page of the tasks that may be named, by key; and the last key where more follow."""
    states, last = store.tasks.page(prefix, after, most, may_name)
    return [task_body(store, state) for state in states], last


class Register(Change):
    """A task is registered, with the `schema` of a store; one author may have `most` tasks, None for any number."""

    kind = "register"

    def __init__(self, schema: Callable[[WeightStore], TaskSchema], most: int | None = None) -> None:
        self._schema_for, self._most = schema, most

    def prepare(self, store: WeightStore) -> PreparedChange | JsonObject:
        """Complete the schema; a task with the same schema is answered as it is."""
        schema = store.completed(self._schema_for(store))
        if (refitted := _refitted(store, schema)) is not None:
            alter = Alter(schema.key, scaling=refitted)
            alter.author = self.author
            return alter.prepare(store)
        if (existing := store.find_same(schema)) is not None:
            return {"new": False, "task": task_body(store, existing)}
        self._check_room(store, schema)
        head = {"schema": schema.to_json(), "generation": store.tasks.next_generation(schema.key)}

        def apply(store: WeightStore) -> JsonObject:
            state, new = register(store, schema, author=self.author or "", recorded=True)
            return {"new": new, "task": task_body(store, state)}

        return PreparedChange(lambda: Entry(self.kind, head), apply, schema.key)

    def _check_room(self, store: WeightStore, schema: TaskSchema) -> None:
        if self._most is None or self.author is None:
            return
        registered = sum(state.author == self.author for state in store.tasks.all())
        count = registered + (store.group_to_make(schema) is not None)
        if count >= self._most:
            text = "this API key has registered as many tasks and compositions as it may: delete some first"
            most = f"{self._most} at most (SUPERPOSED_MAX_TASKS_PER_KEY)"
            raise LimitReached(text, expected=most, received=count + 1)

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Make the change of its record."""
        schema = validated(TaskSchema, record.head["schema"])
        return cls(lambda _: schema)


def _refitted(store: WeightStore, schema: TaskSchema) -> Mapping[str, Sequence[float] | None] | None:
    """Return a registered task's new offset and scale, where a registration differs in nothing else."""
    if schema.key not in store.tasks:
        return None
    there = store.tasks.get(schema.key).schema
    wanted = {"offset": schema.offset, "scale": schema.scale}
    if schema.scaling != there.scaling or wanted == {"offset": there.offset, "scale": there.scale}:
        return None
    return wanted if schema.is_met_by(there.replace(**wanted)) else None


@dataclass(eq=False)
class Alter(Change):
    """The schema of a task is changed: labels are added, or its rows are scaled otherwise."""

    kind = "alter"

    key: str
    add_labels: Sequence[Label] = ()  # those that it has already are passed over
    # New `offset`, `scale` or `standby`; called scaling since a release that had only the first two
    scaling: Mapping[str, Sequence[float] | bool | None] | None = None
    version: int | None = None  # version of the schema that is changed; None for any

    def prepare(self, store: WeightStore) -> PreparedChange | JsonObject:
        """Make the new schema; a task that is so already is answered as it is."""
        state = store.tasks.get(self.key)
        if self.version is not None:
            check_version(store, self.key, self.version)
        schema = store.altered(self.key, add_labels=self.add_labels, scaling=self.scaling)
        if schema == state.schema:
            return {"new": False, "task": task_body(store, state)}
        head = {"key": self.key, "version": state.version, "add_labels": list(self.add_labels), "scaling": self.scaling}

        def apply(store: WeightStore) -> JsonObject:
            return {"new": False, "task": task_body(store, store.alter(self.key, schema))}

        return PreparedChange(lambda: Entry(self.kind, head), apply, self.key)


@dataclass(eq=False)
class Delete(Change):
    """A task is forgotten."""

    kind = "delete"

    key: str
    updates: int | None = None  # only a task that this number of updates has taught; None for any

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Reject a task that is not there, is the group of other tasks, or was taught meanwhile."""
        state = store.tasks.check_removable(self.key)
        if self.updates not in {None, state.updates}:
            text, wanted = f"task {self.key} was taught meanwhile", f"a task with {self.updates} updates"
            raise TaskInUse(text, expected=wanted, received=f"{state.updates} updates")

        def apply(store: WeightStore) -> JsonObject:
            store.delete(self.key)
            return {}

        return PreparedChange(lambda: Entry(self.kind, {"key": self.key}), apply, self.key)
