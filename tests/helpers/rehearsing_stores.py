"""Stores that rehearse, and rows for them."""

from __future__ import annotations

import numpy as np

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, seeded_secret
from superposed.config import RehearsalConfig

__all__ = ["NETWORK", "new_store", "rows"]


NETWORK = MLPConfig(inputs=6, hidden=(16,), outputs=3)


def new_store(
    rows: int = 20,
    *,
    seed: int = 1,
    tasks: int = 3,
    rows_in_all: int = 1000,
    ratio: float = 1.0,
    logit_share: float = 0.0,
) -> WeightStore:
    rehearsal = RehearsalConfig(
        rows_per_task=rows, ratio=ratio, max_bytes=rows_in_all * BYTES_PER_ROW, logit_share=logit_share
    )
    config = plain_config(network=NETWORK, optimizer=OptimizerConfig(learning_rate=1e-3), rehearsal=rehearsal)
    store = WeightStore(config, secret=seeded_secret(seed))
    for number in range(tasks):
        store.register(TaskSchema(key=f"t{number}", inputs=6, outputs=3))
    return store


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    random = np.random.default_rng(seed)
    return random.normal(size=(count, 6)).astype(np.float32), random.integers(0, 3, count).tolist()


BYTES_PER_ROW = 6 + 1 + 4 + 4 + 4 + 4 + 3 * 8 + 8
