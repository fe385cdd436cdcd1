"""Operations of a task handle with scikit-learn's method names, shared by `Task` and `AsyncTask`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from superposed_client import _operations as operations
from superposed_client._arrays import labels_of, rows_of, targets_of
from superposed_client._contexts import Context, ContextLike
from superposed_client._core import Operation
from superposed_client._errors import ApiError, LabelOutOfRange, UnknownTask
from superposed_client._models import Update
from superposed_client._operations import Inputs, Targets, chunks

__all__ = ["TaskCore", "TaskFields", "TaskSchema"]

Loss = Literal["cross_entropy", "mse"]

_KEY = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_POWER = re.compile(r".+\^-?[0-9.eE+-]+")
_NAME = re.compile(rf"(?:({_KEY})/)?({_KEY})")  # key, or group/key


class TaskFields(TypedDict, total=False):
    """Fields that a task can be registered with.

    Args:
        labels: The classes, in order: all bool, numbers, texts or times. They come back as they are given.
        outputs: Number of outputs, where there are no labels.
        inputs: Features; taken from the first rows where not given.
        loss: `cross_entropy` or `mse`.
        offset: Subtracted from each feature, (inputs,).
        scale: Each feature is divided by it, (inputs,).
        description: Free text.
        keep_rows: Whether the server may keep rows: a few to see how the task fares, and those that it is
            rehearsed with.
        group: The key of a task whose first layers it shares: its group.
        own_layers: How many of the last layers are its own; the later half where not given.
        composition: A mixture or power of registered tasks that it binds instead of a context of its own.
    """

    labels: Sequence[Any] | NDArray[Any] | None
    outputs: int | None
    inputs: int | None
    loss: Loss
    offset: Sequence[float] | None
    scale: Sequence[float] | None
    description: str | None
    keep_rows: bool
    group: str | None
    own_layers: int | None
    composition: ContextLike | None


@dataclass(frozen=True)
class TaskSchema:
    """Schema that a handle registers its task with; `inputs` is taken from the first rows where not given."""

    labels: Sequence[Any] | NDArray[Any] | None = None
    outputs: int | None = None
    inputs: int | None = None
    loss: Loss = "cross_entropy"
    offset: Sequence[float] | None = None
    scale: Sequence[float] | None = None
    description: str | None = None
    keep_rows: bool = True
    group: str | None = None
    own_layers: int | None = None
    composition: ContextLike | None = None

    @property
    def given(self) -> bool:
        """True if it says enough to register a task."""
        return self.labels is not None or self.outputs is not None

    def body(self, key: str, features: int) -> dict[str, Any]:
        """Return the registration's body."""
        return {
            "key": key,
            "labels": self.labels,
            "outputs": self.outputs,
            "inputs": self.inputs or features,
            "loss": self.loss,
            "offset": None if self.offset is None else [float(number) for number in self.offset],
            "scale": None if self.scale is None else [float(number) for number in self.scale],
            "description": self.description,
            "keep_rows": None if self.keep_rows else False,
            "group": self.group,
            "own_layers": self.own_layers,
            "composition": self.composition,
        }


@dataclass
class TaskCore:
    """A context and what is known about it; makes the operations that the handles run."""

    context: ContextLike
    schema: TaskSchema = field(default_factory=TaskSchema)
    last_update: Update | None = None
    _registered: bool = False

    def __post_init__(self) -> None:
        group, key = self._name
        if self.schema.given and key is None:
            raise ValueError(self._why_no_key())
        if group is None:
            return
        if self.schema.group not in {None, group}:
            raise ValueError(f"{self.context} is in the group {group}, not in {self.schema.group}")
        self.schema = replace(self.schema, group=group)

    def _why_no_key(self) -> str:
        text = self.context
        if not isinstance(text, str) or text.startswith("mix(") or _POWER.fullmatch(text):
            return f"labels and outputs register a task; {text} is a composed context"
        suggested = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "my-task"
        return (
            f"{text!r} is not a task key: letters, digits, dots, underscores and hyphens, no spaces;"
            f" for example {suggested!r}"
        )

    @property
    def _name(self) -> tuple[str | None, str | None]:
        """Group, if it has one, and key, where the context is just a task."""
        if not isinstance(self.context, str | Context):
            kind = type(self.context).__name__
            raise TypeError(f"a task key is text, not {kind}: client.task({str(self.context)!r})")
        text = self.context if isinstance(self.context, str) else self.context.form.get("task")
        found = _NAME.fullmatch(text) if isinstance(text, str) else None
        return (found[1], found[2]) if found else (None, None)

    @property
    def _key(self) -> str | None:
        return self._name[1]

    def _prepare(self, features: int) -> Operation[bool]:
        """Register the task; without a schema check once that it is there.

        Returns:
            Whether the task is new.
        """
        new = False
        if self._registered or self._key is None:
            return new
        if self.schema.given:
            _, new = yield from operations.register_new(self.schema.body(self._key, features))
        else:
            try:
                yield from operations.get_task(self._key)
            except UnknownTask as error:
                hint = f"register it with its first rows: client.task({self._key!r}, labels=[…]) or outputs=n"
                raise error.explained(hint) from None
        self._registered = True
        return new

    def _unregister(self) -> Operation[None]:
        """Undo a registration whose first rows were refused, unless the task was taught since."""
        self._registered = False
        with suppress(ApiError):
            yield from operations.delete_task(str(self._key), untaught=True)

    def partial_fit(self, inputs: Inputs, y: Targets, steps: int = 1) -> Operation[Update]:
        """Send one online update; the first registers the task, and a rejected one registers nothing."""
        rows, targets = _paired(inputs, y)
        new = yield from self._prepare(rows.shape[1])
        try:
            self.last_update = yield from operations.update(self.context, rows, targets, steps=steps)
        except UnknownTask:
            self._registered = False  # it was deleted: the next rows register it again
            raise
        except ApiError as error:
            if new:
                yield from self._unregister()
            if isinstance(error, LabelOutOfRange) and (found := self._first_unknown(targets)) is not None:
                raise error.explained(f"the first is {found[1]!r} at row {found[0]}") from None
            raise
        return self.last_update

    def _first_unknown(self, targets: NDArray[Any]) -> tuple[int, Any] | None:
        """Return the first target that is none of the task's labels, and its row."""
        known: Sequence[Any] = range(self.schema.outputs or 0)
        if self.schema.labels is not None:
            known, _ = labels_of(self.schema.labels)
        values = enumerate(targets.tolist())
        return next(((row, value) for row, value in values if known and value not in known), None)

    def fit(
        self, inputs: Inputs, y: Targets, batch_size: int, epochs: int, seed: int | None, progress: bool
    ) -> Operation[None]:
        """Return updates over shuffled rows, epoch after epoch."""
        rows, targets = _paired(inputs, y)
        random = np.random.default_rng(seed)
        orders = [random.permutation(len(rows)) for _ in range(epochs)]
        batches = [order[part] for order in orders for part in chunks(len(rows), batch_size)]
        for chosen in _progress(batches, str(self.context), progress):
            yield from self.partial_fit(rows[chosen], targets[chosen])

    def predict(self, inputs: Inputs) -> Operation[NDArray[Any]]:
        """Return labels of their own type (or class indexes) for cross-entropy, values for mse."""
        rows, found, form = rows_of(inputs), list[Any](), None
        for part in chunks(len(rows)):
            answer = yield from operations.infer(self.context, rows[part])
            found += (answer.labels if answer.labels is not None else answer.values) or []
            form = answer.label_form
        if found and isinstance(found[0], list):
            values = np.asarray(found)
            return values[:, 0] if values.shape[1] == 1 else values
        return np.asarray(found, dtype="M8[ns]" if form == "datetime" else None)

    def predict_proba(self, inputs: Inputs) -> Operation[NDArray[Any]]:
        """Return probabilities (rows, classes)."""
        rows, found = rows_of(inputs), list[Any]()
        for part in chunks(len(rows)):
            answer = yield from operations.infer(self.context, rows[part], fields=["probabilities"])
            found += answer.probabilities or []
        return np.asarray(found)

    def score(self, inputs: Inputs, y: Targets) -> Operation[float]:
        """Return accuracy for cross-entropy, the coefficient of determination R² for mse."""
        rows, targets = _paired(inputs, y)
        if not self.schema.given:
            yield from self._prepare(rows.shape[-1])
        correct = 0.0
        for part in chunks(len(rows)):
            measured = yield from operations.evaluate(self.context, rows[part], targets[part])
            if measured.accuracy is None:
                return _r2(targets, (yield from self.predict(rows)))
            correct += measured.accuracy * measured.rows
        return correct / len(rows)


def _paired(inputs: Inputs, y: Targets) -> tuple[NDArray[Any], NDArray[Any]]:
    rows, targets = rows_of(inputs), targets_of(y)
    if len(rows) != len(targets):
        raise ValueError(f"{len(rows)} rows, but {len(targets)} targets")
    return rows, targets


def _r2(targets: NDArray[Any], predicted: NDArray[Any]) -> float:
    """Return the coefficient of determination; a constant target gives 1 if it is met and 0 if not."""
    targets = targets.reshape(predicted.shape)
    residual = float(np.square(targets - predicted).sum())
    spread = float(np.square(targets - targets.mean(0)).sum())
    return 1.0 - residual / spread if spread else float(residual == 0)


def _progress(batches: list[NDArray[Any]], name: str, shown: bool) -> Iterator[NDArray[Any]]:
    if not shown:
        return iter(batches)
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a progress bar needs tqdm: pip install 'superposed[progress]'") from error
    return iter(tqdm(batches, desc=name, unit="update"))
