"""A mixed batch through a convolutional store: one product for all rows, against a loop over their tasks.

    python -m benchmarks.convolution --results docs/results/benchmarks/convolution.json

Every row belongs to another task. The loop answers each row with its context folded into the kernels, as rows
of one context are; both, and the same network for one task's rows together, take turns within one run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.forward import pairs
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import TaskSchema, WeightStore, seeded_secret
from superposed.config import ConvNetConfig

NETWORK = ConvNetConfig(input_shape=(1, 28, 28), channels=(16, 32), hidden=(128,))


def compare(rows: int, seconds: float) -> dict[str, Any]:
    """Time a batch of `rows` rows of as many tasks, each way."""
    store = WeightStore(plain_config(network=NETWORK), secret=seeded_secret(1))
    keys = [f"t{number}" for number in range(rows)]
    for key in keys:
        store.register(TaskSchema(key=key, inputs=NETWORK.inputs, outputs=10))
    x = np.random.default_rng(0).normal(size=(rows, NETWORK.inputs)).astype(np.float32)
    mixed = store.batch_per_row(keys, list(x))
    alone = [store.batch(key, x[row : row + 1]) for row, key in enumerate(keys)]
    together = store.batch(keys[0], x)
    torch.testing.assert_close(
        store.logits(mixed), torch.cat([store.logits(one) for one in alone]), rtol=1e-4, atol=1e-4
    )
    looped, product = pairs(lambda: [store.logits(one) for one in alone], lambda: store.logits(mixed), seconds)
    product_again, one_task = pairs(lambda: store.logits(mixed), lambda: store.logits(together), seconds)
    return {
        "rows": rows,
        "mixed_ms": 1000 * float(np.median(product)),
        "loop_over_mixed": float(np.median(np.asarray(looped) / np.asarray(product))),
        "one_task_over_mixed": float(np.median(np.asarray(one_task) / np.asarray(product_again))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for rows in (8, 64, 256):
        found.append(compare(rows, asked.seconds))
        print(json.dumps(found[-1]), flush=True)
    write_json(asked.results, {"machine": machine(), "network": NETWORK.model_dump(mode="json"), "rows": found})


if __name__ == "__main__":
    main()
