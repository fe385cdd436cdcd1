"""river models: a task of a store in this process that learns a stream, one record after another.

Needs river: `pip install 'superposed[river]'`.

Example:
    >>> from river import datasets, evaluate, metrics
    >>> from superposed.river import SuperposedClassifier
    >>> stream, model = datasets.Phishing().take(300), SuperposedClassifier()
    >>> evaluate.progressive_val_score(stream, model, metrics.Accuracy()).get() > 0.8
    True
"""

from collections.abc import Hashable, Sequence
from typing import Any

from river import base

from superposed.config import StoreConfig
from superposed.learning.own_task import OwnTask
from superposed.tasks.schema import TaskSchema

Record = dict[Hashable, Any]


class _Stream(base.Estimator):
    """A task that learns records.

    Args:
        preset: Preset of the store's settings.
        inputs: Numbers that a record is made into: one a number or date, and room for the hashes of categories.
        hidden: Widths of the hidden layers.
        most_labels: Labels, or targets, that there may be.
        seed: Seed of the store's secret.
    """

    def __init__(
        self,
        preset: str = "general",
        inputs: int = 128,
        hidden: Sequence[int] = (64, 64),
        most_labels: int = 64,
        seed: int = 0,
    ) -> None:
        self.preset, self.inputs, self.hidden = preset, inputs, hidden
        self.most_labels, self.seed = most_labels, seed
        self._task: OwnTask | None = None

    def _learn(self, x: Record, target: Any, **outputs: Any) -> None:
        if self._task is None:
            network = {"inputs": self.inputs, "hidden": tuple(self.hidden), "outputs": self.most_labels}
            config = StoreConfig.of_preset(self.preset, {"network": network})
            records: dict[str, Any] = {"kind": "records", "scaling": "running", "extra_features": "ignore"}
            self._task = OwnTask(config, TaskSchema(key="stream", inputs=self.inputs, **records, **outputs), self.seed)
        self._task.teach([_record(x)], [target])


class SuperposedClassifier(_Stream, base.Classifier):
    """A classifier that learns a stream of records; its parameters are those of `_Stream`."""

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: Record, y: Any) -> None:
        """Learn a record and its label, which may be a new one."""
        label = _plain(y)
        if self._task is not None and label not in (self._task.schema.labels or ()):
            self._task.add_label(label)
        self._learn(x, label, labels=(label,), outputs=1)

    def predict_proba_one(self, x: Record, **kwargs: Any) -> dict[Any, float]:
        """Return the probability of each label that there was; none before the first."""
        if self._task is None:
            return {}
        return dict(zip(self._task.schema.labels or (), self._task.answer([_record(x)])[0].tolist(), strict=True))


class SuperposedRegressor(_Stream, base.Regressor):
    """A regressor that learns a stream of records; its parameters are those of `_Stream`."""

    def learn_one(self, x: Record, y: float) -> None:
        """Learn a record and its value."""
        self._learn(x, float(y), outputs=1, loss="mse")

    def predict_one(self, x: Record) -> float:
        """Return the value of a record; 0 before the first."""
        return 0.0 if self._task is None else float(self._task.answer([_record(x)])[0, 0])


def _record(x: Record) -> dict[str, Any]:
    return {str(name): _plain(x[name]) for name in sorted(x, key=str)}  # in any order the same


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
