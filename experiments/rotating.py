"""Rotating MNIST: continuous drift, the paper's second experiment (its section 4.1.2).

The digits turn slowly, a whole turn in 1,000 steps, for several turns. What is a context then? Accuracy is
measured over the whole turn, also at angles that were never trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from experiments.images import Images, load_images, turned
from experiments.learners import NOTHING_KEPT, plain_mlp
from experiments.report import machine, write_json
from superposed.config import Config, FamilyName, OptimizerConfig, StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.online import apply
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["METHODS", "RotatingConfig", "run"]

Method: TypeAlias = Literal["none", "segments", "mixture", "power", "cyclic"]
METHODS: tuple[Method, ...] = ("none", "segments", "mixture", "power", "cyclic")

SEGMENTS = 10
# The exponent goes from 0 to this over a turn of `power`.
POWER_RANGE = 3.0
_ANGLES = 60
_TEST_ROWS = 1000


class RotatingConfig(Config):
    """One run.

    Args:
        method: What a context is: none, one for each tenth of a turn, a mixture of three neighbours of those,
            a real power of one, or a cyclic power.
        units: Of each of three hidden layers.
        turns: How many.
        steps: Of one turn.
        batch: Rows a step.
        gaps: Whether every second twentieth of a turn is left out of training, and measured apart.
        optimizer: The store's.
        seed: Of weights, contexts and the order of rows.
    """

    method: Method
    units: int = Field(128, ge=1)
    turns: int = Field(5, ge=1)
    steps: int = Field(1000, ge=1)
    batch: int = Field(128, ge=1)
    gaps: bool = False
    optimizer: OptimizerConfig = OptimizerConfig(name="rmsprop", learning_rate=3e-4)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        return f"{self.method}{'-gaps' if self.gaps else ''}-seed{self.seed}"

    @property
    def family(self) -> FamilyName:
        """Cyclic contexts are a family of their own."""
        return "cyclic" if self.method == "cyclic" else "phase"


def _segments(turn: float) -> str:
    return f"segment{int(turn * SEGMENTS) % SEGMENTS}"


def _mixture(turn: float) -> str:
    place = int(turn * SEGMENTS)
    return "mix(" + ",".join(f"segment{(place + step) % SEGMENTS}:1" for step in (-1, 0, 1)) + ")"


_CONTEXT: dict[Method, Callable[[float], str]] = {
    "none": lambda _: "segment0",
    "segments": _segments,
    "mixture": _mixture,
    "power": lambda turn: f"segment0^{POWER_RANGE * turn!r}",
    "cyclic": lambda turn: f"segment0^{turn!r}",
}


def in_gap(turn: float) -> bool:
    """Return True if a run with gaps never sees an angle in training."""
    return int(turn * 2 * SEGMENTS) % 2 == 1


def run(config: RotatingConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Run one method and write `results/<name>.json`.

    Returns:
        Configuration, machine, and after each turn the accuracy (percent) at 60 angles of the turn.
    """
    images = load_images()
    network = plain_mlp(inputs=images.features, hidden=(config.units,) * 3, outputs=10)
    store = WeightStore(
        StoreConfig(network=network, family=config.family, optimizer=config.optimizer, rehearsal=NOTHING_KEPT),
        secret=seeded_secret(config.seed),
    )
    for number in range(SEGMENTS):
        store.register(TaskSchema(key=f"segment{number}", inputs=images.features, outputs=10))
    random = np.random.default_rng(config.seed)
    angles = [(number + 0.5) / _ANGLES for number in range(_ANGLES)]
    accuracy: list[list[float]] = []
    with tqdm(total=config.turns * config.steps, desc=config.name, unit="step", disable=not progress) as bar:
        for _ in range(config.turns):
            for step in range(config.steps):
                turn = step / config.steps
                if not (config.gaps and in_gap(turn)):
                    rows = torch.from_numpy(random.integers(0, len(images.train_x), config.batch))
                    _learn(store, config, turn, turned(images.train_x[rows], turn, images.mean), images.train_y[rows])
                bar.update()
            accuracy.append([_accuracy(store, config, images, turn) for turn in angles])
            bar.set_postfix(mean=f"{np.mean(accuracy[-1]):.1f}")
    last = np.asarray(accuracy[-1])
    gap = np.asarray([in_gap(turn) for turn in angles])
    result = {
        "config": config.model_dump(),
        "machine": machine(),
        "angles": angles,
        "accuracy": accuracy,
        "mean": float(last.mean()),
        "worst": float(last.min()),
        "mean_in_gaps": float(last[gap].mean()),
        "mean_elsewhere": float(last[~gap].mean()),
    }
    write_json(results / f"{config.name}.json", result)
    return result


def _learn(store: WeightStore, config: RotatingConfig, turn: float, x: Tensor, y: Tensor) -> None:
    part = store.resolve(_CONTEXT[config.method](turn))
    apply(store, Batch((part,), None, x), Targets(y, None))


def _accuracy(store: WeightStore, config: RotatingConfig, images: Images, turn: float) -> float:
    x = turned(images.test_x[:_TEST_ROWS], turn, images.mean)
    part = store.resolve(_CONTEXT[config.method](turn))
    answers = store.logits(Batch((part,), None, x)).argmax(1)
    return 100.0 * float((answers == images.test_y[:_TEST_ROWS]).double().mean())
