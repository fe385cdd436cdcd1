"""A handle on one context: the synchronous shell over its core."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from numpy.typing import NDArray

from superposed_client._contexts import ContextLike
from superposed_client._models import Update
from superposed_client._operations import Inputs, Targets
from superposed_client._task import ClassWeight, FitOptions, TaskCore

if TYPE_CHECKING:
    from superposed_client._client import Client

__all__ = ["Task"]


class Task:
    """A handle on one context, in scikit-learn's habit. Made by `Client.task`.

    Attributes:
        last_update: What the newest update found, or None.
    """

    def __init__(self, client: Client, core: TaskCore) -> None:
        self._client = client
        self._core = core

    @property
    def context(self) -> ContextLike:
        """The context that rows are bound with."""
        return self._core.context

    @property
    def last_update(self) -> Update | None:
        """Result of the newest update, or None."""
        return self._core.last_update

    def partial_fit(
        self,
        X: Inputs,  # noqa: N803 - as scikit-learn
        y: Targets,
        *,
        steps: int = 1,
        sample_weight: Any = None,
    ) -> Self:
        """Send one online update of rows (B, features), or B rows by name, and B targets.

        Args:
            X: Numbers, a data frame, or a list of dicts.
            y: Labels, or values.
            steps: Optimizer steps.
            sample_weight: (B,) how much each row counts, from 0.
        """
        self._client._run(self._core.partial_fit(X, y, steps, sample_weight))
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
        self._client._run(self._core.fit(X, y, options))
        return self

    def predict(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Return labels (rows,) for cross-entropy; values (rows,) or (rows, outputs) for mse."""
        return self._client._run(self._core.predict(X))

    def predict_proba(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Return probabilities (rows, classes)."""
        return self._client._run(self._core.predict_proba(X))

    def score(self, X: Inputs, y: Targets) -> float:  # noqa: N803
        """Return accuracy for cross-entropy, R² for mse."""
        return self._client._run(self._core.score(X, y))
