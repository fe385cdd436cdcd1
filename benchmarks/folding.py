"""Would folding pay? A batch of one task through the fused kernels, against its context folded into weights.

    python -m benchmarks.folding --results docs/results/benchmarks/folding.json

Both take turns within one run. The folded network is timed with its weights ready; folding them is timed
apart: after each update of any task it is to be done again.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.forward import INPUTS, pairs, store_of
from experiments.report import machine, write_json
from superposed import WeightStore
from superposed.nn import plain_forward


def fold(store: WeightStore, key: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Each layer's weight and bias with the task's context in them."""
    bindings = store.contexts.bind_all(store.resolve(key).context)
    found = {}
    for name, layer in store.network.superposed_layers().items():
        weight, bias = layer.retrieve(bindings[name].contexts)
        found[name] = (weight.contiguous(), bias.contiguous())
    return found


def compare(family: str, width: int, rows: int, seconds: float) -> dict[str, Any]:
    store = store_of(family, width, 10)
    batch = store.batch("t3", np.random.default_rng(0).normal(size=(rows, INPUTS)).astype(np.float32))
    with torch.inference_mode():
        taken = []
        for _ in range(50):
            started = time.perf_counter()
            folded = fold(store, "t3")
            taken.append(time.perf_counter() - started)
        fold_ms = 1000 * float(np.median(taken))
        between = store.network.activate_and_normalise
        retrieved = partial(plain_forward, batch.inputs, list(folded.values()), between)
        torch.testing.assert_close(retrieved(), store.logits(batch), rtol=1e-4, atol=1e-4)
        fused, ready = pairs(lambda: store.logits(batch), retrieved, seconds)
    saved_ms = 1000 * float(np.median(np.asarray(fused) - np.asarray(ready)))
    return {
        "family": family,
        "width": width,
        "rows": rows,
        "fused_ms": 1000 * float(np.median(fused)),
        "folded_ms": 1000 * float(np.median(ready)),
        "fused_over_folded": float(np.median(np.asarray(fused) / np.asarray(ready))),
        "folding_ms": fold_ms,
        "batches_that_pay_for_it": fold_ms / saved_ms if saved_ms > 0 else None,
        "bytes_of_a_folded_task": sum(
            tensor.numel() * tensor.element_size() for pair in folded.values() for tensor in pair
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3.0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for family, width in (("phase", 256), ("binary", 256), ("phase", 1024)):
        for rows in (1, 16, 64, 256):
            found.append(compare(family, width, rows, asked.seconds))
            print(json.dumps(found[-1]), flush=True)
    write_json(asked.results, {"machine": machine(), "rows": found})


if __name__ == "__main__":
    main()
