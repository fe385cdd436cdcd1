"""The task registry: what each key means, and what its stream has shown so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from superposed.config import Config, validated
from superposed.contexts import TaskId, check_key
from superposed.errors import ShapeError, TaskExists, UnknownTask

__all__ = ["CrosstalkSample", "Prequential", "TaskRegistry", "TaskSchema", "TaskState"]

Loss = Literal["cross_entropy", "mse"]

SMALLEST_SCALE = 1e-30


class TaskSchema(Config):
    """What a task's rows and targets look like.

    Args:
        key: The task key.
        inputs: Features of a row, at most the store's.
        outputs: Number of outputs, at most the store's; the number of labels where there are labels.
        labels: Names of the classes, in output order (cross-entropy only).
        loss: What updates reduce.
        offset: Subtracted from each feature, (inputs,).
        scale: Each feature is divided by it after the offset, (inputs,), none of them nearer to 0 than 1e-30.
        description: Free text.
        keep_rows: Whether a few of its rows may be kept, to see how it fares while others learn.
    """

    key: str
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)
    labels: tuple[Annotated[str, Field(max_length=256)], ...] | None = None
    loss: Loss = "cross_entropy"
    offset: tuple[Annotated[float, Field(strict=True)], ...] | None = None
    scale: tuple[Annotated[float, Field(strict=True)], ...] | None = None
    description: str = Field("", max_length=4096)
    keep_rows: bool = Field(True, strict=True)

    @field_validator("key")
    @classmethod
    def _key_is_valid(cls, key: str) -> str:
        return check_key(key)

    @field_validator("scale")
    @classmethod
    def _scale_is_not_zero(cls, scale: tuple[float, ...] | None) -> tuple[float, ...] | None:
        for place, number in enumerate(scale or ()):
            if abs(number) < SMALLEST_SCALE:
                raise ValueError(f"scale {place} is too near to 0: a feature is divided by it")
        return scale

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for name, values in (("offset", self.offset), ("scale", self.scale)):
            if values is not None and len(values) != self.inputs:
                raise ValueError(f"{name} has {len(values)} numbers, the task has {self.inputs} inputs")
        if self.labels is None:
            return self
        if self.loss != "cross_entropy":
            raise ValueError("labels name the classes of a cross_entropy task; an mse task has none")
        if len(self.labels) != self.outputs:
            raise ValueError(f"{len(self.labels)} labels, but {self.outputs} outputs")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("two labels are the same")
        return self

    def check_fits(self, inputs: int, outputs: int) -> None:
        """Checks the task against a store's numbers of inputs and outputs.

        Raises:
            ShapeError: It has more of either.
        """
        for name, wanted, limit in (("inputs", self.inputs, inputs), ("outputs", self.outputs, outputs)):
            if wanted > limit:
                raise ShapeError(
                    f"task {self.key} has more {name} than the store",
                    expected=f"{limit} at most",
                    received=wanted,
                )


@dataclass(frozen=True)
class CrosstalkSample:
    """One measurement of crosstalk at a task's own rows (see `superposed.crosstalk`).

    Args:
        sequence: When it was taken.
        tasks: How many tasks had been taught by then.
        measured: Each layer's ratio, measured.
        predicted: Each layer's ratio, from the law.
    """

    sequence: int
    tasks: int
    measured: dict[str, float]
    predicted: dict[str, float]


@dataclass
class Prequential:
    """Test-then-train: what the model answered to each row before it learned from it.

    `accuracy` and `loss` are means over all rows of the stream so far.
    """

    rows: int = 0
    loss_sum: float = 0.0
    correct: int = 0

    @property
    def loss(self) -> float | None:
        """Mean loss over the stream; None before the first row."""
        return self.loss_sum / self.rows if self.rows else None

    def accuracy(self, loss: Loss) -> float | None:
        """Share of rows answered right, for a cross-entropy task that has seen rows."""
        return self.correct / self.rows if self.rows and loss == "cross_entropy" else None


@dataclass
class TaskState:
    """A registered task: its schema, its generation, and its counters."""

    schema: TaskSchema
    generation: int = 0
    updates: int = 0
    last_sequence: int = 0
    prequential: Prequential = field(default_factory=Prequential)
    crosstalk: CrosstalkSample | None = None

    @property
    def id(self) -> TaskId:
        """What the task's contexts are derived from."""
        return TaskId(self.schema.key, self.generation)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        # What is as it was before a field existed is written as it was then: digests stay the same.
        unsaid = {"keep_rows"} if self.schema.keep_rows else None
        return {
            "schema": self.schema.model_dump(mode="json", exclude=unsaid),
            "generation": self.generation,
            "updates": self.updates,
            "last_sequence": self.last_sequence,
            "prequential": vars(self.prequential).copy(),
            "crosstalk": vars(self.crosstalk).copy() if self.crosstalk else None,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TaskState:
        """The inverse of `to_json`."""
        sample = values["crosstalk"]
        return cls(
            schema=validated(TaskSchema, values["schema"]),
            generation=values["generation"],
            updates=values["updates"],
            last_sequence=values["last_sequence"],
            prequential=Prequential(**values["prequential"]),
            crosstalk=CrosstalkSample(**sample) if sample else None,
        )


class TaskRegistry:
    """The tasks of one store, by key, and the generation that each deleted key would get next.

    Attributes:
        quarantined: Whose updates are not applied: names of sources (task keys among them), and the
            sequence number since when.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, TaskState] = {}
        self._next_generation: dict[str, int] = {}
        self.quarantined: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: object) -> bool:
        return key in self._tasks

    def get(self, key: str) -> TaskState:
        """The task of that key.

        Raises:
            UnknownTask: There is none.
        """
        if key not in self._tasks:
            raise UnknownTask("no task has this key", expected="a registered task", received=key)
        return self._tasks[key]

    def all(self) -> list[TaskState]:
        """Every task, in the order of registration."""
        return list(self._tasks.values())

    def page(
        self, prefix: str, after: str, limit: int, wanted: Callable[[str], bool] = lambda _: True
    ) -> tuple[list[TaskState], str | None]:
        """Tasks in the order of their keys, for listing.

        Args:
            prefix: Only keys that start with it.
            after: Only keys that come after it.
            limit: At most so many.
            wanted: Only keys of which that is so.

        Returns:
            The tasks, and the last key where more follow.
        """
        keys = sorted(key for key in self._tasks if key.startswith(prefix) and key > after and wanted(key))
        shown = keys[:limit]
        return [self._tasks[key] for key in shown], shown[-1] if len(keys) > limit else None

    def find_same(self, schema: TaskSchema) -> TaskState | None:
        """The task that is registered with exactly this schema, or None where the key is free.

        Raises:
            TaskExists: The key is registered with another schema.
        """
        existing = self._tasks.get(schema.key)
        if existing is None or existing.schema == schema:
            return existing
        there, wanted = existing.schema.model_dump(), schema.model_dump()
        fields = [name for name in there if there[name] != wanted[name]]
        raise TaskExists(
            f"task {schema.key} is registered with another schema",
            expected={name: _short(there[name]) for name in fields},
            received={name: _short(wanted[name]) for name in fields},
        )

    def next_generation(self, key: str) -> int:
        """How often a key was deleted, and so the generation that it would be registered with now."""
        return self._next_generation.get(key, 0)

    def add(self, schema: TaskSchema) -> TaskState:
        """Registers a free key; a key that was deleted before gets a new generation."""
        generation = self._next_generation.pop(schema.key, 0)
        state = self._tasks[schema.key] = TaskState(schema, generation)
        return state

    def remove(self, key: str) -> None:
        """Forgets a task; its key's next generation is remembered.

        Raises:
            UnknownTask: There is none.
        """
        state = self.get(key)
        self._next_generation[key] = state.generation + 1
        del self._tasks[key]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        values = {
            "tasks": [state.to_json() for state in self._tasks.values()],
            "next_generation": self._next_generation.copy(),
        }
        return values | ({"quarantined": self.quarantined.copy()} if self.quarantined else {})

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TaskRegistry:
        """The inverse of `to_json`."""
        registry = cls()
        for entry in values["tasks"]:
            state = TaskState.from_json(entry)
            registry._tasks[state.schema.key] = state
        registry._next_generation = dict(values["next_generation"])
        registry.quarantined = dict(values.get("quarantined", {}))
        return registry


def _short(value: object) -> object:
    text = repr(value)
    return value if len(text) <= 100 else text[:100] + "…"
