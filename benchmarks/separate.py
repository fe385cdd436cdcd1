"""One store against K separate networks of the same shape: rows a second, and bytes.

    python -m benchmarks.separate --results docs/results/benchmarks/separate.json

A batch of 256 rows whose tasks are drawn at random is answered by the store (one mixed batch), by K networks
in a dict (the rows of each grouped, then looped), and by stacked networks (`torch.bmm` over the weights of
each row's network; `torch.func` for those that vmap fits). All three are timed in turn within one run.
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
from torch.func import functional_call, stack_module_state

from benchmarks.forward import INPUTS, OUTPUTS, check, mixed_batch, plain_network, store_of
from experiments.report import machine, write_json

ROWS, WIDTH = 256, 256


def size(networks: list[nn.Sequential]) -> int:
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def looped(networks: list[nn.Sequential], inputs: Tensor, tasks: Tensor) -> Tensor:
    """The rows of each network together, one network after another."""
    answers = inputs.new_empty(len(inputs), OUTPUTS)
    order = tasks.argsort(stable=True)
    names, counts = tasks[order].unique_consecutive(return_counts=True)
    start = 0
    for name, count in zip(names.tolist(), counts.tolist(), strict=True):
        rows = order[start : start + count]
        answers[rows] = networks[name](inputs[rows])
        start += count
    return answers


def stacked(networks: list[nn.Sequential]) -> Callable[[Tensor, Tensor], Tensor]:
    """vmap over stacked parameters, of which each row takes its own network's (a gather, then bmm)."""
    parameters, buffers = stack_module_state(networks)
    base = plain_network(WIDTH)

    def one(mine: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(base, (mine, buffers), (row[None],))[0]

    every = torch.vmap(one)

    def run(inputs: Tensor, tasks: Tensor) -> Tensor:
        return every({name: value[tasks] for name, value in parameters.items()}, inputs)

    return run


def turns(works: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(times["mixed"]) < 5:
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    return times


def compare(count: int, seconds: float) -> dict[str, Any]:
    store = store_of("phase", WIDTH, count)
    networks = [plain_network(WIDTH) for _ in range(count)]
    draw = np.random.default_rng(0)
    batch = mixed_batch(store, ROWS, count, draw)
    names = {f"t{number}": number for number in range(count)}
    tasks = torch.tensor([names[part.task.schema.key] for part in batch.parts])[batch.places()]
    with torch.inference_mode():
        check(store, batch)
        vmapped = stacked(networks)
        torch.testing.assert_close(
            looped(networks, batch.inputs, tasks), vmapped(batch.inputs, tasks), rtol=1e-4, atol=1e-4
        )
        times = turns(
            {
                "mixed": lambda: store.logits(batch),
                "loop": lambda: looped(networks, batch.inputs, tasks),
                "stacked": lambda: vmapped(batch.inputs, tasks),
            },
            seconds,
        )
    medians = {name: float(np.median(taken)) for name, taken in times.items()}
    return {
        "tasks": count,
        "distinct_in_batch": len(batch.parts),
        "rows_per_s": {name: ROWS / median for name, median in medians.items()},
        "mixed_over_loop": medians["loop"] / medians["mixed"],
        "mixed_over_stacked": medians["stacked"] / medians["mixed"],
        "weight_bytes": {"store": store.weight_bytes, "separate": size(networks)},
        "context_bytes": {
            "each": store.contexts.bytes_per_context,
            "materialised": store.contexts.cached_bytes,
            "setting": store.config.context_table_bytes,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = [compare(count, asked.seconds) for count in (10, 100, 1000)]
    values = {"machine": machine(), "threads": asked.threads, "batch": ROWS, "inputs": INPUTS, "rows": found}
    write_json(asked.results, values)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
