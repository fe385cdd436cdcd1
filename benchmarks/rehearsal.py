"""Cost of an update with rehearsal: `apply` beside a plain torch step on as many rows, in turn.

The plain step is what a training loop does on rows that are there: forward, loss, backward, optimizer.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.forward import pairs, plain_network, summary
from experiments.report import machine, write_json
from superposed.config import StoreConfig
from superposed.contexts import seeded_secret
from superposed.learning.online import learn
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema

ROWS_A_TASK = 40


def taught(tasks: int, draw: np.random.Generator) -> WeightStore:
    """A store of the defaults that has kept rows of every task."""
    store = WeightStore(StoreConfig(context_table_bytes=2**30), secret=seeded_secret(0))
    for number in range(tasks):
        store.register(TaskSchema(key=f"t{number}", inputs=784, outputs=10))
        rows = draw.normal(size=(ROWS_A_TASK, 784)).astype(np.float32)
        learn(store, f"t{number}", rows, draw.integers(0, 10, ROWS_A_TASK).tolist(), steps=1)
    return store


def measure(tasks: int, rows: int, seconds: float) -> dict[str, Any]:
    """Both in turn; an update of one step, of another task each time."""
    draw = np.random.default_rng(0)
    store = taught(tasks, draw)
    x, y = draw.normal(size=(rows, 784)).astype(np.float32), draw.integers(0, 10, rows).tolist()
    config = store.config.rehearsal
    own, others = (max(round(ratio * rows), config.least_rows) for ratio in (config.own_ratio, config.ratio))
    plain = plain_network(256).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    inputs = torch.randn(rows + own + others, 784)
    targets = torch.randint(0, 10, (len(inputs),))
    place = iter(range(10**9))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(plain(inputs), targets).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        optimizer.step()

    def update() -> None:
        learn(store, f"t{next(place) % tasks}", x, y, steps=1)

    row = {"tasks": tasks, "rows": rows, "rows in all": len(inputs)}
    return row | summary(*pairs(step, update, seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each pair")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = [measure(tasks, rows, asked.seconds) for tasks in (10, 1000) for rows in (10, 128)]
    write_json(asked.results, {"machine": machine(), "rows": found})


if __name__ == "__main__":
    main()
