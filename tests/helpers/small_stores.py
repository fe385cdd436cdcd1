"""A store of a few units, in any family, that the tests of its networks share."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, seeded_secret

__all__ = ["store_of"]


def store_of(family: str = "phase", dtype: str = "float32", *, tasks: int = 5, **network: Any) -> WeightStore:
    """A store with the tasks t0, t1 ...; 7 inputs, two hidden layers, 3 outputs where not said otherwise."""
    config = plain_config(
        network=MLPConfig(**{"inputs": 7, "hidden": (6, 5), "outputs": 3} | network),
        family=family,
        dtype=dtype,
        optimizer=OptimizerConfig(learning_rate=0.01),
    )
    store = WeightStore(config, secret=seeded_secret(1))
    for number in range(tasks):
        store.register(TaskSchema(key=f"t{number}", inputs=config.network.inputs, outputs=3))
    return store


def data(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))
