"""What a task handle does, in scikit-learn's habit: the operations behind `Task` and `AsyncTask`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from superposed_client import _operations as operations
from superposed_client._contexts import ContextLike
from superposed_client._core import Operation
from superposed_client._models import TaskInfo, Update
from superposed_client._operations import CHUNK_ROWS, Inputs, Targets, chunks

__all__ = ["TaskCore", "TaskSchema"]

Loss = Literal["cross_entropy", "mse"]


@dataclass(frozen=True)
class TaskSchema:
    """What a handle registers its task with; `inputs` is taken from the first rows where not given."""

    labels: Sequence[str | int] | None = None
    outputs: int | None = None
    inputs: int | None = None
    loss: Loss = "cross_entropy"
    offset: Sequence[float] | None = None
    scale: Sequence[float] | None = None
    description: str | None = None

    @property
    def given(self) -> bool:
        """Whether it says enough to register a task."""
        return self.labels is not None or self.outputs is not None

    def body(self, key: str, features: int) -> dict[str, Any]:
        """The registration's body."""
        return {
            "key": key,
            "labels": None if self.labels is None else [str(label) for label in self.labels],
            "outputs": self.outputs,
            "inputs": self.inputs or features,
            "loss": self.loss,
            "offset": None if self.offset is None else [float(number) for number in self.offset],
            "scale": None if self.scale is None else [float(number) for number in self.scale],
            "description": self.description,
        }


@dataclass
class TaskCore:
    """A context and what is known about it; makes the operations that the handles run."""

    context: ContextLike
    schema: TaskSchema = field(default_factory=TaskSchema)
    registered: bool = False
    last_update: Update | None = None

    def _numbers(self) -> dict[str, int | str]:
        """Labels as the caller wrote them, by their text."""
        return {str(label): label for label in self.schema.labels or ()}

    def _targets(self, y: Targets) -> list[Any]:
        """Whole numbers that were given as labels are sent as labels, not as class indexes."""
        values: list[Any] = np.asarray(y).tolist()
        labels = self.schema.labels
        if labels is not None and all(isinstance(label, int | np.integer) for label in labels):
            return [str(value) for value in values]
        return values

    def register(self, features: int) -> Operation[TaskInfo | None]:
        """Registers the task once, if the handle was made with a schema."""
        if self.registered or not isinstance(self.context, str) or not self.schema.given:
            return None
        info = yield from operations.register(self.schema.body(self.context, features))
        self.registered = True
        return info

    def partial_fit(self, inputs: Inputs, y: Targets, steps: int = 1) -> Operation[Update]:
        """One online update."""
        rows = np.asarray(inputs)
        yield from self.register(rows.shape[-1])
        self.last_update = yield from operations.update(self.context, rows, self._targets(y), steps=steps)
        return self.last_update

    def fit(
        self, inputs: Inputs, y: Targets, batch_size: int, epochs: int, seed: int | None, progress: bool
    ) -> Operation[None]:
        """Updates over shuffled rows, epoch after epoch."""
        rows, targets = np.asarray(inputs), np.asarray(y)
        random = np.random.default_rng(seed)
        orders = [random.permutation(len(rows)) for _ in range(epochs)]
        batches = [order[part] for order in orders for part in chunks(len(rows), batch_size)]
        for chosen in _progress(batches, str(self.context), progress):
            yield from self.partial_fit(rows[chosen], targets[chosen])

    def predict(self, inputs: Inputs) -> Operation[NDArray[Any]]:
        """Labels (or class indexes) for cross-entropy, values for mse."""
        if self.schema.loss == "mse":
            values = yield from operations.predict_values(self.context, inputs, "values")
            return values[:, 0] if values.shape[1] == 1 else values
        labels = yield from operations.predict_values(self.context, inputs, "labels")
        written = self._numbers()
        return np.asarray([written.get(str(label), label) for label in labels.tolist()])

    def predict_proba(self, inputs: Inputs) -> Operation[NDArray[Any]]:
        """Probabilities (rows, classes)."""
        return (yield from operations.predict_values(self.context, inputs, "probabilities"))

    def score(self, inputs: Inputs, y: Targets) -> Operation[float]:
        """Accuracy for cross-entropy, the coefficient of determination R² for mse."""
        targets = np.asarray(y)
        if self.schema.loss == "mse":
            predicted = yield from self.predict(inputs)
            residual = float(np.square(targets - predicted).sum())
            return 1.0 - residual / float(np.square(targets - targets.mean(0)).sum())
        rows = np.asarray(inputs)
        correct = 0.0
        for part in chunks(len(rows), CHUNK_ROWS):
            measured = yield from operations.evaluate(self.context, rows[part], self._targets(targets[part]))
            correct += (measured.accuracy or 0.0) * measured.rows
        return correct / len(rows)


def _progress(batches: list[NDArray[Any]], name: str, shown: bool) -> Iterator[NDArray[Any]]:
    if not shown:
        return iter(batches)
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("a progress bar needs tqdm: pip install 'superposed[progress]'") from error
    return iter(tqdm(batches, desc=name, unit="update"))
