"""Tasks of the demo: permuted images beside entirely different tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.datasets import Dataset, idx_dataset, sklearn_dataset
from superposed.errors import ConfigError

_MNIST_ROWS = 6_000
_TEST_ROWS = 1_000


@dataclass(frozen=True)
class DemoTask:
    """One task: its data, and how it is taught.

    Args:
        key: The task key.
        data: Its rows.
        batch_size: Rows an update.
        epochs: Passes over its rows.
    """

    key: str
    data: Dataset
    batch_size: int
    epochs: int

    @property
    def offset(self) -> NDArray[np.float64]:
        """Mean of every feature, (features,)."""
        mean: NDArray[np.float64] = self.data.train_x.mean(0, dtype=np.float64)
        return mean

    @property
    def scale(self) -> NDArray[np.float64]:
        """Divisors of the features, (features,): one number for images, one for each feature of a table."""
        deviation = self.data.train_x.std(0, dtype=np.float64)
        if self.data.features > 32:
            return np.full_like(deviation, float(np.sqrt(np.square(deviation).mean())))
        return np.where(deviation == 0, 1.0, deviation)

    def batches(self, seed: int) -> list[NDArray[Any]]:
        """Return the rows of every update, in order: each epoch shuffled anew."""
        random = np.random.default_rng(seed)
        rows = len(self.data.train_y)
        orders = [random.permutation(rows) for _ in range(self.epochs)]
        return [order[start : start + self.batch_size] for order in orders for start in range(0, rows, self.batch_size)]

    def scaled(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return rows as the server scales them, for the baselines."""
        return ((rows - self.offset) / self.scale).astype(np.float32)


def _whole(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return pixels as 0 ... 255 again: whole numbers are short in JSON, and the server scales them."""
    return np.rint(pixels * 255)


def demo_tasks(data: str) -> list[DemoTask]:
    """Return the tasks, in the order in which they are taught.

    Raises:
        ConfigError: Neither digits nor mnist.
        DataUnavailable: MNIST's files are not here.
    """
    if data == "digits":
        images, epochs, batch_size, count = sklearn_dataset("digits"), 5, 32, 7
    elif data == "mnist":
        full = idx_dataset("mnist")
        images = Dataset(
            "mnist",
            _whole(full.train_x[:_MNIST_ROWS]),
            full.train_y[:_MNIST_ROWS],
            _whole(full.test_x[:_TEST_ROWS]),
            full.test_y[:_TEST_ROWS],
            full.labels,
        )
        epochs, batch_size, count = 1, 128, 6
    else:
        raise ConfigError("no such data for the demo", expected="digits or mnist", received=data)
    small = [
        DemoTask(name.replace("_", "-"), sklearn_dataset(name), 16, epochs)
        for name, epochs in (("breast_cancer", 5), ("wine", 15), ("iris", 15))
    ]
    permuted = [
        DemoTask(f"{data}-permuted-{seed}", images.permuted(seed), batch_size, epochs) for seed in range(1, count)
    ]
    return [DemoTask(data, images, batch_size, epochs), *small, *permuted]
