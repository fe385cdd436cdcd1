"""The task registry: what each key means, and what its stream has shown so far."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superposed.config import validated
from superposed.contexts import TaskId
from superposed.encoders.records import FeatureTable
from superposed.errors import CompositionNotSupported, TaskExists, TaskInUse, UnknownTask, redacted
from superposed.tasks.calibration import Calibration
from superposed.tasks.scaling import RunningStatistics
from superposed.tasks.schema import Loss, TaskSchema

# Fields of a task's state that are their own JSON values, the later ones with what they are in a new task.
_LATER: dict[str, Any] = {"author": "", "version": 1, "registered_mark": "", "started": False}
_PLAIN = ("generation", "group_generation", "updates", "last_sequence", *_LATER)
# JSON values that are left out.
_UNTOUCHED = _LATER | {
    "statistics": [0, 0, 0],
    "features": FeatureTable().to_json(),
    "calibration": Calibration().to_json(),
}


@dataclass(frozen=True)
class CrosstalkSample:
    """One measurement of crosstalk at a task's own rows (see `superposed.analysis.crosstalk`).

    Each layer's ratio as `measured`, and as `predicted` by the law, once `tasks` tasks had been taught.
    """

    sequence: int
    tasks: int
    measured: dict[str, float]
    predicted: dict[str, float]


@dataclass
class Prequential:
    """Test-then-train over a stream: means of what the model answered to each row before it learned from it."""

    rows: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    @property
    def loss(self) -> float | None:
        """Mean loss over the stream; None before the first row."""
        return self.loss_sum / self.rows if self.rows else None

    def accuracy(self, loss: Loss) -> float | None:
        """Return share of rows answered right, for a cross-entropy task that has seen rows."""
        return self.correct / self.rows if self.rows and loss == "cross_entropy" else None


@dataclass
class TaskState:
    """A registered task: its schema and the version of that, its generation, its counters, its author.

    `started` is True for a member of a group that started from what other members had learned.
    """

    schema: TaskSchema
    generation: int = 0
    updates: int = 0
    last_sequence: int = 0
    prequential: Prequential = field(default_factory=Prequential)
    crosstalk: CrosstalkSample | None = None
    group_generation: int = 0
    author: str = ""
    version: int = 1
    registered_mark: str = ""
    statistics: RunningStatistics = field(default_factory=RunningStatistics)
    target_statistics: RunningStatistics = field(default_factory=RunningStatistics)
    features: FeatureTable = field(default_factory=FeatureTable)
    calibration: Calibration = field(default_factory=Calibration)
    started: bool = False

    def __post_init__(self) -> None:
        """Take over features that the schema declares."""
        if self.schema.features is not None and not self.features.known:
            self.features = FeatureTable.declared(self.schema.features)

    @property
    def mark(self) -> str:
        """The mark of the schema that it was registered with: later changes add to that."""
        return self.registered_mark or self.schema.mark

    def arrays(self) -> tuple[NDArray[np.float64], ...]:
        """Return the numbers that the task has learned beside the weights, each (n,)."""
        several = (self.statistics.values, self.target_statistics.values, self.calibration.seen)
        return tuple(one.ravel() for one in several)

    def alter(self, schema: TaskSchema) -> None:
        """Replace the schema by a later version of it."""
        self.registered_mark, self.version = self.mark, self.version + 1
        self.schema = schema

    @property
    def knows(self) -> bool:
        """True if the task answers by a model of its own: it was taught, or started from its group's."""
        return self.started or self.updates > 0

    @property
    def id(self) -> TaskId:
        """Identity that the task's contexts are derived from."""
        schema, own_layers = self.schema, self.schema.own_layers or 0
        return TaskId(schema.key, self.generation, schema.group or "", self.group_generation, own_layers)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values; those of `_UNTOUCHED` are left out."""
        values = {name: getattr(self, name) for name in _PLAIN} | {
            "schema": self.schema.to_json(),
            "own_layers": self.schema.own_layers,
            "prequential": vars(self.prequential).copy(),
            "crosstalk": vars(self.crosstalk).copy() if self.crosstalk else None,
            "statistics": [array.size for array in self.arrays()],
            "features": self.features.to_json(),
            "calibration": self.calibration.to_json(),
        }
        left_out = {name for name, value in _UNTOUCHED.items() if values[name] == value}
        left_out |= set() if self.schema.group else {"group_generation", "own_layers"}
        return {name: value for name, value in values.items() if name not in left_out}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TaskState":
        """Return the inverse of `to_json`."""
        # The first release resolved the default of `own_layers` beside the schema, and not in it.
        own_layers = {"own_layers": values["own_layers"]} if "own_layers" in values else {}
        values = {"group_generation": 0} | _UNTOUCHED | values
        sample = values["crosstalk"]
        return cls(
            schema=validated(TaskSchema, values["schema"] | own_layers),
            prequential=Prequential(**values["prequential"]),
            crosstalk=CrosstalkSample(**sample) if sample else None,
            features=FeatureTable.from_json(values["features"]),
            calibration=Calibration(**values["calibration"]),
            **{name: values[name] for name in _PLAIN},
        )


class TaskRegistry:
    """The tasks of one store, by key, and the generation that each deleted key would get next.

    `quarantined` says whose updates are not applied: names of sources (task keys among them), and since which record.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, TaskState] = {}
        self._next_generation: dict[str, int] = {}
        self.quarantined: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: object) -> bool:
        return key in self._tasks

    def get(self, key: str, name: str = "") -> TaskState:
        """Return the task of that key; raise `UnknownTask`, which shows `name` if given, where there is none."""
        if key not in self._tasks:
            raise UnknownTask("no task has this key", expected="a registered task", received=name or key)
        return self._tasks[key]

    def member(self, key: str, group: str | None) -> TaskState:
        """Return the task of that key, in the group where one is named; raise `UnknownTask` where there is none."""
        state = self.get(key, f"{group}/{key}" if group else key)
        if group not in (None, state.schema.group):
            expected = f"{state.schema.group}/{key}" if state.schema.group else key
            raise UnknownTask("no task has this key in this group", expected=expected, received=f"{group}/{key}")
        return state

    def all(self) -> list[TaskState]:
        """Return every task, in the order of registration."""
        return list(self._tasks.values())

    def page(
        self, prefix: str, after: str, limit: int, wanted: Callable[[str], bool] = lambda _: True
    ) -> tuple[list[TaskState], str | None]:
        """Return up to `limit` tasks in the order of their keys, for listing, and the last key where more follow.

        Only keys that start with `prefix`, come after `after`, and are `wanted`.
        """
        keys = sorted(key for key in self._tasks if key.startswith(prefix) and key > after and wanted(key))
        shown = keys[:limit]
        return [self._tasks[key] for key in shown], shown[-1] if len(keys) > limit else None

    def find_same(self, schema: TaskSchema) -> TaskState | None:
        """Return the task that is registered with this schema, or None where the key is free.

        Labels that were added since the registration make no other schema. Raise `TaskExists` where the key is
        registered with another schema; `CompositionNotSupported` where its group is in a group itself, or is a
        composition.
        """
        existing = self._tasks.get(schema.key)
        group = self._tasks[schema.group].schema if schema.group in self._tasks else None
        if existing is None and group is not None and (group.group is not None or group.composition is not None):
            # It has no context of its own to share.
            problem = "a group is a task of its own, not one of another group and no composition"
            expected = "a task without a group and a composition"
            received = f"{group.key}, which is {group.composition or f'in {group.group}'}"
            raise CompositionNotSupported(problem, expected=expected, received=received)
        if existing is None or schema.is_met_by(existing.schema):
            return existing
        there, wanted = existing.schema.model_dump(), schema.model_dump()
        fields = [name for name in there if there[name] != wanted[name]]
        raise TaskExists(
            f"task {schema.key} is registered with another schema: take that one, delete the task, or take another key",
            expected={name: _shown(name, there[name]) for name in fields},
            received={name: _shown(name, wanted[name], there[name]) for name in fields},
        )

    def check_growable(self, key: str) -> None:
        """Raise `TaskInUse` where tasks are composed of a task, which have its number of outputs."""
        if composed := sum(key in one.schema.composed_of for one in self._tasks.values()):
            problem = f"task {key} is part of compositions, which have its number of outputs: delete those first"
            expected = "a task that no declared composition needs"
            raise TaskInUse(problem, expected=expected, received=f"{composed} compositions")

    def next_generation(self, key: str) -> int:
        """Return the generation that a key would be registered with: the number of its deletions."""
        return self._next_generation.get(key, 0)

    def add(self, schema: TaskSchema, author: str = "") -> TaskState:
        """Register a free key; a key that was deleted before gets a new generation."""
        state = TaskState(schema, self._next_generation.pop(schema.key, 0), author=author)
        if schema.group is not None:
            state.group_generation = self.get(schema.group).generation
        self._tasks[schema.key] = state
        return state

    def check_removable(self, key: str) -> TaskState:
        """Return the task of a key, if nothing else depends on it.

        Raise `UnknownTask` where there is none; `TaskInUse` where it is the group of other tasks, or they are composed
        of it.
        """
        state, schemas = self.get(key), [one.schema for one in self._tasks.values()]
        if dependents := sum(key == one.group or key in one.composed_of for one in schemas):
            problem = f"task {key} is the group of others, or others are composed of it: delete those first"
            received = f"{dependents} tasks that need it"
            raise TaskInUse(problem, expected="a task that no other needs", received=received)
        return state

    def remove(self, key: str) -> None:
        """Forget a task; its key's next generation is remembered. Raises as `check_removable`."""
        state = self.check_removable(key)
        self._next_generation[key] = state.generation + 1
        del self._tasks[key]

    def statistics(self) -> NDArray[np.float64]:
        """Return the running statistics of all tasks, in the order of registration, as one array."""
        several = [array for state in self._tasks.values() for array in state.arrays()]
        return np.concatenate([np.zeros(0), *several])

    @property
    def statistics_bytes(self) -> int:
        """Bytes of all running statistics."""
        return sum(array.nbytes for state in self._tasks.values() for array in state.arrays())

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, which `statistics` completes."""
        tasks = [state.to_json() for state in self._tasks.values()]
        values: dict[str, Any] = {"tasks": tasks, "next_generation": self._next_generation.copy()}
        return values | ({"quarantined": self.quarantined.copy()} if self.quarantined else {})

    @classmethod
    def from_json(cls, values: dict[str, Any], statistics: NDArray[np.float64] | None = None) -> "TaskRegistry":
        """Return the inverse of `to_json` and `statistics`."""
        registry = cls()
        for entry in values["tasks"]:
            state = TaskState.from_json(entry)
            registry._tasks[state.schema.key] = state
            if statistics is not None:
                *own, statistics = np.split(statistics, np.cumsum(entry.get("statistics", (0, 0, 0))))
                state.statistics.values = own[0].copy().reshape(3, -1)
                state.target_statistics.values = own[1].copy().reshape(3, -1)
                state.calibration.seen = own[2].copy()
        registry._next_generation = dict(values["next_generation"])
        registry.quarantined = dict(values.get("quarantined", {}))
        return registry


def _shown(name: str, value: object, other: object = None) -> object:
    """Describe a field in an error: data of a user is not shown, only where it differs from another value."""
    if name not in {"labels", "offset", "scale", "description"}:
        return value
    if redacted(value) != redacted(other) or not isinstance(value, Sequence) or not isinstance(other, Sequence):
        return redacted(value)
    place = next((place for place, pair in enumerate(zip(value, other, strict=False)) if pair[0] != pair[1]), 0)
    return f"{redacted(value)}, another {type(value[place]).__name__} at place {place}"
