"""Cost of an update: the library's `apply` beside a plain torch step on as many rows, in turn.

    python -m benchmarks.learning --results docs/results/benchmarks/learning.json

128 rows of 784 numbers, three layers of 256, an update of one step of another task each time. A plain step
is what `benchmarks.plain_step` says. An update with rehearsal is compared with a plain step on the new and on
the kept rows together. Before anything is timed, the store has to have learned what it was taught.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.forward import pairs, summary
from benchmarks.plain_step import PlainStep
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import StoreConfig, TaskSchema, WeightStore, apply, evaluate, seeded_secret
from superposed.tasks.targets import read_targets

ROWS, TASKS = 128, 20


def _stores(tasks: int) -> dict[str, WeightStore]:
    """Stores by what they are, each with some rows of every task."""
    network = {"inputs": 784, "outputs": 10, "hidden": (256, 256, 256)}
    one_step = {"network": network, "optimizer": {"steps": 1}}
    alone = one_step | {"rehearsal": {"rows_per_task": 0}}
    found = {
        "plain settings, rows as they are": (plain_config(network=network), "none"),
        "plain settings, rows scaled": (plain_config(network=network), "running"),
        "defaults without rehearsal": (StoreConfig.of_preset("general", alone), "running"),
        "defaults": (StoreConfig.of_preset("general", one_step), "running"),
    }
    stores = {}
    for name, (config, scaling) in found.items():
        store = stores[name] = WeightStore(config.replace(context_table_bytes=2**30), secret=seeded_secret(0))
        for number in range(tasks):
            store.register(TaskSchema(key=f"t{number}", inputs=784, outputs=10, scaling=scaling))
    return stores


def _updates(store: WeightStore, tasks: int) -> Any:
    draw = np.random.default_rng(0)
    rows = draw.random((ROWS, 784), dtype=np.float32)
    classes = rows[:, :10].argmax(1).tolist()
    place = iter(range(10**9))

    def update() -> None:
        batch = store.batch(f"t{next(place) % tasks}", rows, learning=True)
        apply(store, batch, read_targets(batch, classes, store.config.network.outputs))

    for _ in range(3 * tasks):
        update()
    if tasks <= TASKS and (found := evaluate(store, "t0", rows, classes).accuracy or 0.0) < 0.2:
        raise RuntimeError(f"the store has not learned: {found}")
    return update


def measure(tasks: int, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Each store's update and a plain step in turn."""
    torch.set_num_threads(threads)
    found = []
    for name, store in _stores(tasks).items():
        rehearsal = store.config.rehearsal
        if tasks > TASKS and not rehearsal.rows_per_task:
            continue
        beside = (rehearsal.own_ratio, rehearsal.ratio) if rehearsal.rows_per_task else (0.0, 0.0)
        rows = ROWS + sum(max(round(share * ROWS), rehearsal.least_rows) for share in beside if share)
        timed = summary(*pairs(PlainStep(rows), _updates(store, tasks), seconds))
        timed["update_ms"] = timed.pop("mixed_ms")
        found.append({"store": name, "tasks": tasks, "threads": threads, "rows in all": rows, **timed})
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each pair")
    asked = parser.parse_args()
    found = [
        row for tasks, threads in ((TASKS, 1), (TASKS, 2), (1000, 1)) for row in measure(tasks, threads, asked.seconds)
    ]
    write_json(asked.results, {"machine": machine(), "rows": found})


if __name__ == "__main__":
    main()
