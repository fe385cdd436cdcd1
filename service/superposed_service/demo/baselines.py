"""What the demo compares with, on the same rows in the same order: one plain network, and separate ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from superposed.config import MLPConfig, OptimizerConfig
from superposed.experiments.learners import Learner, Separate, Standard
from superposed_service.demo.tasks import DemoTask

__all__ = ["Curves", "plain_network", "separate_networks"]

# Accuracy of each task after each number of tasks learned, (K, K), NaN before a task was learned.
Curves = NDArray[np.float64]
Progress = Callable[[int], None]


def _padded(rows: NDArray[np.float32], width: int) -> Tensor:
    return torch.from_numpy(np.pad(rows, ((0, 0), (0, width - rows.shape[1]))))


def _curves(learner: Learner, tasks: Sequence[DemoTask], width: int | None) -> Curves:
    def rows(task: DemoTask, values: NDArray[np.float32]) -> Tensor:
        scaled = task.scaled(values)
        return _padded(scaled, width or scaled.shape[1])

    curves = np.full((len(tasks), len(tasks)), np.nan)
    for now, task in enumerate(tasks):
        learner.begin(now)
        inputs, targets = rows(task, task.data.train_x), torch.from_numpy(task.data.train_y)
        for chosen in task.batches(seed=now):
            learner.step(now, inputs[chosen], targets[chosen])
        for before, known in enumerate(tasks[: now + 1]):
            logits = learner.logits(before, rows(known, known.data.test_x))[:, : len(known.data.labels)]
            curves[before, now] = float((logits.argmax(1).numpy() == known.data.test_y).mean())
    return curves


class _Plain(Standard):
    """The standard network; as in a store, a task's rows teach its own outputs only."""

    def __init__(self, network: MLPConfig, optimizer: OptimizerConfig, outputs: Sequence[int]) -> None:
        super().__init__(network, optimizer, seed=0)
        self._outputs = outputs

    def loss(self, task: int, x: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of a batch over the task's outputs."""
        return F.cross_entropy(self.answers(task, x)[:, : self._outputs[task]], y)


def plain_network(network: MLPConfig, optimizer: OptimizerConfig, tasks: Sequence[DemoTask]) -> Curves:
    """One network of the store's own size and optimizer, without contexts: what forgets."""
    outputs = [len(task.data.labels) for task in tasks]
    return _curves(_Plain(network, optimizer, outputs), tasks, network.inputs)


def separate_networks(budget: int, tasks: Sequence[DemoTask]) -> Curves:
    """One small network a task; together they have `budget` weights. Adam on a cosine schedule."""
    shapes = [(task.data.features, len(task.data.labels)) for task in tasks]
    steps = [len(task.batches(seed=0)) for task in tasks]
    return _curves(Separate(shapes, budget, steps, learning_rate=1e-2, seed=0), tasks, None)
