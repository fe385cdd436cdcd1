"""A handle on one context: the asynchronous shell over its core."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import NDArray

from superposed_client._operations import Inputs, Targets
from superposed_client._task import ClassWeight, FitOptions, TaskHandle


class AsyncTask(TaskHandle):
    """A handle on one context, in scikit-learn's habit. Made by `AsyncClient.task`."""

    async def partial_fit(
        self,
        X: Inputs,  # noqa: N803 - as scikit-learn
        y: Targets,
        *,
        steps: int | None = None,
        sample_weight: Any = None,
    ) -> Self:
        """Send one online update; see `Task.partial_fit`."""
        await self._run(self._core.partial_fit(X, y, steps, sample_weight))
        return self

    async def fit(
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
        """Send updates over shuffled rows; see `Task.fit`."""
        options = FitOptions(batch_size, epochs, seed, progress, sample_weight, class_weight)
        await self._run(self._core.fit(X, y, options))
        return self

    async def learn_model(
        self,
        model: Any,
        X: Inputs,  # noqa: N803
        *,
        epochs: int = 10,
        batch_size: int = 32,
        seed: int = 0,
    ) -> float:
        """Learn a trained model from its answers to unlabelled rows; see `Task.learn_model`."""
        options = FitOptions(batch_size, epochs, seed)
        found: float = await self._run(self._core.learn_model(model, X, options))
        return found

    async def predict(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Return labels (rows,) for cross-entropy; values (rows,) or (rows, outputs) for mse."""
        found: NDArray[Any] = await self._run(self._core.predict(X))
        return found

    async def predict_proba(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Return probabilities (rows, classes)."""
        found: NDArray[Any] = await self._run(self._core.predict_proba(X))
        return found

    async def score(self, X: Inputs, y: Targets) -> float:  # noqa: N803
        """Return accuracy for cross-entropy, R² for mse."""
        found: float = await self._run(self._core.score(X, y))
        return found
