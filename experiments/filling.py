"""Capacity: how accuracy falls as a store fills, and whether the store's own forecast of it holds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from tqdm import tqdm

from experiments.images import Images, load_images
from experiments.learners import NOTHING_KEPT, plain_mlp
from experiments.report import machine, write_json
from superposed.analysis.capacity import capacity
from superposed.config import Config, OptimizerConfig, StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.online import apply, measure_batch
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["CapacityConfig", "run"]

_TEST_ROWS = 500
_TASKS, _STEPS = 100, 200


class CapacityConfig(Config):
    """One run: permuting MNIST, strictly one task after another.

    Args:
        units: Of each of three hidden layers.
        tasks: K permutations.
        steps: Updates of 128 rows a task.
        evaluate_every: Number of tasks between two evaluations of all tasks so far.
        seed: Of everything drawn.
    """

    units: int = Field(256, ge=1)
    tasks: int = Field(_TASKS, ge=10)
    steps: int = Field(_STEPS, ge=1)
    evaluate_every: int = Field(5, ge=1)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        length = "" if (self.tasks, self.steps) == (_TASKS, _STEPS) else f"-tasks{self.tasks}-steps{self.steps}"
        return f"units{self.units}{length}-seed{self.seed}"


class _Stream:
    """Every task's rows: the images in the task's own order of pixels."""

    def __init__(self, images: Images, config: CapacityConfig) -> None:
        self._images = images
        self._random = np.random.default_rng(config.seed)
        self._orders = [torch.from_numpy(self._random.permutation(images.features)) for _ in range(config.tasks)]

    def batch(self, store: WeightStore, task: int) -> tuple[Batch, Targets]:
        rows = torch.from_numpy(self._random.integers(0, len(self._images.train_x), 128))
        x = self._images.train_x[rows][:, self._orders[task]]
        return Batch((store.resolve(f"task-{task}"),), None, x), Targets(self._images.train_y[rows], None)

    def test(self, store: WeightStore, task: int) -> tuple[Batch, Targets]:
        x = self._images.test_x[:_TEST_ROWS][:, self._orders[task]]
        part = store.resolve(f"task-{task}")
        return Batch((part,), None, x), Targets(self._images.test_y[:_TEST_ROWS], None)


def run(config: CapacityConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Fill a store and write `results/<name>.json`.

    Returns:
        Configuration, machine, and at each number of tasks the mean accuracy (percent) over all of them, the
        measured and the predicted crosstalk, and the store's forecast of how many more fit before the mean
        falls by a point, beside how many did.
    """
    images = load_images()
    store = WeightStore(
        StoreConfig(
            network=plain_mlp(inputs=images.features, hidden=(config.units,) * 3),
            optimizer=OptimizerConfig(name="rmsprop", learning_rate=1e-4),
            rehearsal=NOTHING_KEPT,
        ),
        secret=seeded_secret(config.seed),
    )
    stream = _Stream(images, config)
    points: list[dict[str, Any]] = []
    for task in tqdm(range(config.tasks), desc=config.name, unit="task", disable=not progress):
        store.register(TaskSchema(key=f"task-{task}", inputs=images.features, outputs=10))
        for _ in range(config.steps):
            apply(store, *stream.batch(store, task))
        if (task + 1) % config.evaluate_every == 0:
            points.append(_point(store, stream, task + 1))
    for place, point in enumerate(points):
        point["fitted"] = _fitted(points[place:])
    made_of = {"config": config.model_dump(), "optimizer": store.config.optimizer.model_dump(mode="json")}
    result = made_of | {"machine": machine(), "points": points}
    result["forecasts"] = _summary(points)
    write_json(results / f"{config.name}.json", result)
    return result


def _point(store: WeightStore, stream: _Stream, tasks: int) -> dict[str, Any]:
    measured = [measure_batch(store, *stream.test(store, task)).accuracy for task in range(tasks)]
    known = capacity(store)
    forecast = None if known.tasks_left is None else vars(known.tasks_left).copy()
    return {
        "tasks": tasks,
        "mean": 100.0 * float(np.mean([one for one in measured if one is not None])),
        "crosstalk_predicted": float(np.mean([layer.crosstalk_predicted for layer in known.layers])),
        "crosstalk_measured": float(np.mean([layer.crosstalk_measured for layer in known.layers])),
        "forecast": forecast,
    }


def _fitted(points: list[dict[str, Any]]) -> float | None:
    """Return the number of further tasks until the mean had fallen by a point, linearly interpolated."""
    start = points[0]
    goal = start["mean"] - 1.0
    for before, after in pairwise(points):
        if after["mean"] <= goal:
            share = (before["mean"] - goal) / (before["mean"] - after["mean"])
            return float(before["tasks"] + share * (after["tasks"] - before["tasks"]) - start["tasks"])
    return None


def _summary(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the errors of the forecasts with a known outcome."""
    judged = [point for point in points if point["forecast"] and point["fitted"] is not None]
    if not judged:
        return {"judged": 0}
    ratios = [point["forecast"]["estimate"] / max(1.0, point["fitted"]) for point in judged]
    inside = [point["forecast"]["low"] <= point["fitted"] <= point["forecast"]["high"] for point in judged]
    return {
        "judged": len(judged),
        "median_ratio": float(np.median(ratios)),
        "within_a_factor_of_two": float(np.mean([0.5 <= ratio <= 2.0 for ratio in ratios])),
        "inside_the_interval": float(np.mean(inside)),
    }
