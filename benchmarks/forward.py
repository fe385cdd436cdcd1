"""The price of a mixed batch: every row another task, against one plain network of the same shape.

    python -m benchmarks.forward --results docs/results/benchmarks/forward.json

Pairs of both are timed in turn within one run, so that whatever else the machine does meets both alike. The
ratio (plain time / mixed time: 1 is free, below 1 costs) is the median over the pairs, with the 95 % interval
of a bootstrap. Before anything is timed, each row of the mixed batch is compared with the same row alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.report import machine, write_json
from superposed import MLPConfig, StoreConfig, TaskSchema, WeightStore, seeded_secret
from superposed.tasks.batch import Batch

INPUTS, OUTPUTS = 784, 10


def plain_network(width: int) -> nn.Sequential:
    """The plain network: the same layers, activation and normalisation, and a bias."""
    layers: list[nn.Module] = []
    for before in (INPUTS, width, width):
        layers += [nn.Linear(before, width), nn.ReLU(), nn.LayerNorm(width, elementwise_affine=False)]
    return nn.Sequential(*layers, nn.Linear(width, OUTPUTS)).eval()


def store_of(
    family: str, width: int, tasks: int, device: torch.device | str = "cpu", expansion: int = 1
) -> WeightStore:
    network = MLPConfig(hidden=(width,) * 3, activation="relu", expansion=expansion)
    config = StoreConfig(family=family, network=network, context_table_bytes=4 * 2**30)
    store = WeightStore(config, secret=seeded_secret(0), device=device)
    for number in range(tasks):
        store.register(TaskSchema(key=f"t{number}", inputs=INPUTS, outputs=OUTPUTS))
    return store


def mixed_batch(store: WeightStore, rows: int, tasks: int, draw: np.random.Generator) -> Batch:
    """Rows of tasks drawn at random: as many different ones as there are, or as there are rows."""
    chosen = draw.permutation(tasks)[:rows] if rows <= tasks else draw.integers(0, tasks, rows)
    inputs = draw.normal(size=(rows, INPUTS)).astype(np.float32)
    return store.batch_per_row([f"t{number}" for number in chosen], list(inputs))


def check(store: WeightStore, batch: Batch) -> None:
    """Each row's answer is its own task's, as it is alone."""
    together = store.logits(batch)
    for row in (0, len(batch) // 2, len(batch) - 1):
        part = batch.parts[int(batch.places()[row])]
        alone = store.logits(Batch((part,), None, batch.inputs[row : row + 1]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def pairs(one: Callable[[], object], other: Callable[[], object], seconds: float) -> tuple[list[float], list[float]]:
    """Times of both in turn, at least 15 of each, for about `seconds` seconds."""
    for _ in range(3):
        one(), other()
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times[0]) < 15:
        for work, taken in zip((one, other), times, strict=True):
            started = time.perf_counter()
            work()
            taken.append(time.perf_counter() - started)
    return times


def summary(plain: list[float], mixed: list[float]) -> dict[str, Any]:
    ratios = np.asarray(plain) / np.asarray(mixed)
    draw = np.random.default_rng(0)
    medians = np.median(draw.choice(ratios, size=(1000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    return {
        "pairs": len(plain),
        "plain_ms": 1000 * float(np.median(plain)),
        "mixed_ms": 1000 * float(np.median(mixed)),
        "ratio": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
    }


def forward(
    family: str, width: int, tasks: int, batches: list[int], seconds: float, expansion: int = 1
) -> list[dict[str, Any]]:
    store, network = store_of(family, width, tasks, expansion=expansion), plain_network(width)
    draw = np.random.default_rng(0)
    found = []
    with torch.inference_mode():
        for rows in batches:
            batch = mixed_batch(store, rows, tasks, draw)
            check(store, batch)
            inputs: Tensor = batch.inputs
            plain, mixed = pairs(
                lambda inputs=inputs: network(inputs),  # type: ignore[misc]  # of default arguments
                lambda batch=batch: store.logits(batch),  # type: ignore[misc]  # of default arguments
                seconds,
            )
            facts = {"family": family, "width": width, "tasks": tasks, "rows": rows, "expansion": expansion}
            row = facts | summary(plain, mixed)
            print(json.dumps(row), flush=True)
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each pair")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    many, few = [1, 16, 64, 256, 1024, 4096], [256]
    found = []
    for family in ("phase", "cyclic", "binary", "complex"):
        found += forward(family, 256, 1000, many, asked.seconds)
    found += forward("phase", 1024, 1000, many, asked.seconds)
    found += forward("binary", 1024, 1000, [64, 256, 1024], asked.seconds)
    for tasks in (1, 10, 100, 10_000):
        found += forward("phase", 256, tasks, few, 2 * asked.seconds)
    expanded = []
    for family, expansion in (("phase", 4), ("phase", 16), ("phase", 50), ("binary", 16), ("binary", 50)):
        expanded += forward(family, 256, 1000, [64, 256, 1024], asked.seconds, expansion)
    write_json(asked.results, {"machine": machine(), "threads": asked.threads, "rows": found, "expanded": expanded})


if __name__ == "__main__":
    main()
