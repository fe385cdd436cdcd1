"""Fill level of a store, from its own measurements: crosstalk, accuracy, and room for more tasks."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from superposed.store.store import WeightStore
from superposed.tasks.registry import TaskState

_FOR_DROP = 0.01
_MOST = 1_000_000


@dataclass(frozen=True)
class LayerCrosstalk:
    """Crosstalk of one layer at the newest measured rows: the law's value and the measured one."""

    name: str
    crosstalk_predicted: float
    crosstalk_measured: float


@dataclass(frozen=True)
class TasksLeft:
    """Number of further tasks like these that fit before the mean accuracy falls by `accuracy_drop`.

    `low` and `high` are for a fall that is measured two standard deviations too large or too small, and a
    slope that is two standard errors steeper or gentler.
    """

    estimate: int
    low: int
    high: int
    accuracy_drop: float


@dataclass(frozen=True)
class Capacity:
    """A store's own measurements of its fill level.

    Args:
        tasks: Registered tasks.
        layers: Crosstalk by layer; empty before the first update.
        mean_accuracy: Mean over tasks of the newest evaluation of each; None without evaluations.
        tasks_left: None until evaluations at three or more different numbers of tasks show a fall.
    """

    tasks: int
    layers: tuple[LayerCrosstalk, ...]
    mean_accuracy: float | None
    tasks_left: TasksLeft | None


def capacity(store: WeightStore, wanted: Callable[[str], bool] | None = None) -> Capacity:
    """Summarise the store's own measurements; measures nothing anew and changes nothing.

    Where `wanted` is given, only of the tasks whose keys it accepts; how many more fit is then not said.
    """
    tasks = [state for state in store.tasks.all() if wanted is None or wanted(state.schema.key)]
    seen = [store.evaluations.of(state.schema.key) for state in tasks]
    newest = [evaluations[-1].accuracy for evaluations in seen if evaluations]
    mean_accuracy = float(np.mean(newest)) if newest else None
    return Capacity(len(tasks), layer_crosstalk(tasks), mean_accuracy, _tasks_left(store) if wanted is None else None)


def layer_crosstalk(tasks: Iterable[TaskState]) -> tuple[LayerCrosstalk, ...]:
    """Return the crosstalk of each layer: a mean over the tasks' newest samples. Any thread."""
    samples = [state.crosstalk for state in tasks if state.crosstalk is not None]
    if not samples:
        return ()
    # Crosstalk grows with every task, so what holds now is what the tasks taught last were measured at.
    most = max(sample.tasks for sample in samples)
    current = [sample for sample in samples if sample.tasks == most]
    return tuple(
        LayerCrosstalk(
            name,
            float(np.mean([sample.predicted[name] for sample in current])),
            float(np.mean([sample.measured[name] for sample in current])),
        )
        for name in current[0].measured
    )


def _tasks_left(store: WeightStore) -> TasksLeft | None:
    """Fit a line through mean accuracy against number of tasks, over the newer half of the points."""
    by_tasks: dict[int, list[float]] = {}
    for evaluation in store.evaluations.all():
        by_tasks.setdefault(evaluation.tasks, []).append(evaluation.accuracy)
    # A mean over one task says how hard that task is, not how full the store is.
    points = sorted((tasks, float(np.mean(seen))) for tasks, seen in by_tasks.items() if len(seen) > 1)
    points = points[-max(3, (len(points) + 1) // 2) :]
    if len(points) < 3:
        return None
    count, mean = np.array(points).T
    centred = count - count.mean()
    slope = float(centred @ mean / (centred @ centred))
    if slope >= 0:
        return None
    residual = mean - mean.mean() - slope * centred
    deviation = float(np.sqrt(residual @ residual / (len(points) - 2)))
    error = deviation / float(np.sqrt(centred @ centred))
    # Both the mean of now and the one that will have fallen are measured, each with that deviation.
    noise = 2 * math.sqrt(2) * deviation
    low = max(0.0, _FOR_DROP - noise) / (2 * error - slope)
    high = (_FOR_DROP + noise) / -min(-1e-12, slope + 2 * error)
    estimate = _FOR_DROP / -slope
    return TasksLeft(int(min(_MOST, estimate)), int(min(_MOST, low)), math.ceil(min(_MOST, high)), _FOR_DROP)
