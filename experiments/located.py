"""Task inference: the share of contexts found from rows without a key, by number of rows and by method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from experiments.images import load_images
from experiments.learners import plain_mlp
from experiments.report import machine, write_json
from superposed.config import Config, OptimizerConfig, RehearsalConfig, StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.online import apply
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets

__all__ = ["LocatedConfig", "run"]

_TEST_ROWS = 480
_GROUPS = (1, 4, 16)


class LocatedConfig(Config):
    """One run: permuting MNIST, one task after another, and then rows without a key.

    Args:
        tasks: K permutations.
        steps: Updates of 128 rows a task.
        kept_rows: Of each task, rehearsed.
        seed: Of everything drawn.
    """

    tasks: int = Field(50, ge=2)
    steps: int = Field(300, ge=1)
    kept_rows: int = Field(1000, ge=0)
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """Name of the result file."""
        return f"tasks{self.tasks}-seed{self.seed}"


def statistics(logits: Tensor) -> dict[str, Tensor]:
    """Return the statistics that may tell a context, (K, B) each, from logits (K, B, outputs)."""
    logits = logits.double()
    energy = torch.logsumexp(logits, dim=2)
    shares = logits.softmax(2)
    return {
        "energy above the mean": energy - logits.mean(2),
        "energy": energy,
        "entropy": (shares * shares.clamp(min=1e-300).log()).sum(2),
        "largest probability": shares.amax(2).log(),
    }


def run(config: LocatedConfig, results: Path, *, progress: bool = True) -> dict[str, Any]:
    """Teach a store, try rows of every task under every context, and write `results/<name>.json`.

    Returns:
        Configuration, machine, mean accuracy with the key given, and by statistic and number of rows how
        often (percent) the right one of all tasks is found.
    """
    images = load_images()
    store = WeightStore(
        StoreConfig(
            network=plain_mlp(inputs=images.features),
            optimizer=OptimizerConfig(name="adam", learning_rate=1e-4),
            rehearsal=RehearsalConfig(
                rows_per_task=config.kept_rows, own_ratio=0.0, least_rows=0, logit_share=0.0, max_bytes=2**40
            ),
        ),
        secret=seeded_secret(config.seed),
    )
    random = np.random.default_rng(config.seed)
    orders = [torch.from_numpy(random.permutation(images.features)) for _ in range(config.tasks)]
    for task in tqdm(range(config.tasks), desc=config.name, unit="task", disable=not progress):
        store.register(TaskSchema(key=f"task-{task}", inputs=images.features, outputs=10))
        part = store.resolve(f"task-{task}")
        for _ in range(config.steps):
            rows = torch.from_numpy(random.integers(0, len(images.train_x), 128))
            x = images.train_x[rows][:, orders[task]]
            apply(store, Batch((part,), None, x), Targets(images.train_y[rows], None))
    right: dict[str, dict[int, list[float]]] = {}
    keyed: list[float] = []
    for task, order in enumerate(orders):
        x = images.test_x[:_TEST_ROWS][:, order]
        logits = torch.stack(
            [store.logits(Batch((store.resolve(f"task-{other}"),), None, x)) for other in range(config.tasks)]
        )
        keyed.append(100.0 * float((logits[task].argmax(1) == images.test_y[:_TEST_ROWS]).double().mean()))
        for name, values in statistics(logits).items():
            for size in _GROUPS:
                found = values.view(config.tasks, -1, size).sum(2).argmax(0)
                share = 100.0 * float((found == task).double().mean())
                right.setdefault(name, {}).setdefault(size, []).append(share)
    result = {
        "config": config.model_dump(),
        "machine": machine(),
        "accuracy_with_key": float(np.mean(keyed)),
        "found": {
            name: {str(size): float(np.mean(shares)) for size, shares in sizes.items()} for name, sizes in right.items()
        },
    }
    write_json(results / f"{config.name}.json", result)
    return result
