"""A handle on one context: the synchronous shell over its core."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import NDArray

from superposed_client._operations import Inputs, Targets
from superposed_client._task import ClassWeight, FitOptions, TaskHandle


class Task(TaskHandle):
    """A handle on one context, in scikit-learn's habit. Made by `Client.task`."""

    def partial_fit(
        self,
        X: Inputs,  # noqa: N803 - as scikit-learn
        y: Targets,
        *,
        steps: int | None = None,
        sample_weight: Any = None,
    ) -> Self:
        """Send one online update of rows (B, features), or B rows by name, and B targets.

        Args:
            X: Numbers, a data frame, or a list of dicts.
            y: Labels, or values.
            steps: Optimizer steps; default: the store's.
            sample_weight: (B,) how much each row counts, from 0.
        """
        self._run(self._core.partial_fit(X, y, steps, sample_weight))
        return self

    def fit(
        self,
        X: Inputs,  # noqa: N803
        y: Targets,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        seed: int | None = None,
        progress: bool = False,
        sample_weight: Any = None,
        class_weight: ClassWeight | None = None,
    ) -> Self:
        """Send updates over shuffled rows, `epochs` times; continue from the task's present state.

        `class_weight` is a weight a label, or "balanced" for the same sum of weights in each class.
        """
        options = FitOptions(batch_size, epochs, seed, progress, sample_weight, class_weight)
        self._run(self._core.fit(X, y, options))
        return self

    def learn_model(
        self,
        model: Any,
        X: Inputs,  # noqa: N803
        *,
        epochs: int = 10,
        batch_size: int = 32,
        seed: int = 0,
    ) -> float:
        """Learn a trained model from its answers to unlabelled rows; the model itself is not sent.

        Args:
            model: An object with `predict`, or a function: rows to labels, or to values of an mse task.
            X: Rows as it takes them, 5 or more; on a fifth of them nothing is learned.
            epochs: How often the other rows are gone through.
            batch_size: Rows of one update.
            seed: Of the order.

        Returns:
            Agreement on the rows held out: accuracy, or R² of an mse task.
        """
        options = FitOptions(batch_size, epochs, seed)
        found: float = self._run(self._core.learn_model(model, X, options))
        return found

    def predict(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Return labels (rows,) for cross-entropy; values (rows,) or (rows, outputs) for mse."""
        found: NDArray[Any] = self._run(self._core.predict(X))
        return found

    def predict_proba(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Return probabilities (rows, classes)."""
        found: NDArray[Any] = self._run(self._core.predict_proba(X))
        return found

    def score(self, X: Inputs, y: Targets) -> float:  # noqa: N803
        """Return accuracy for cross-entropy, R² for mse."""
        found: float = self._run(self._core.score(X, y))
        return found
