"""Share of a GPU that a mixed batch uses: products beside the measured peak, binding beside bandwidth.

    python -m pytest -m gpu tests/models/test_gpu.py && \\
    python -m benchmarks.device --results docs/results/benchmarks/device.json

Updates come first: replayed they make equal bits, and answers close to the CPU's.

Everything stays on the device: a store's network with bfloat16 products (autocast), and one plain
`nn.Sequential` of the same layers and precision on as many rows. Peak is the faster of two bfloat16 products,
bandwidth that of a copy, both measured in this run. Each figure is a median over turns of all, in one loop.
Before anything is timed, the answers are compared with those in the weights' own precision.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.forward import mixed_batch, plain_network, store_of
from benchmarks.load import Load, run
from benchmarks.service import INPUTS, running
from benchmarks.service import TASKS as SERVED_TASKS
from experiments.report import machine, write_json
from superposed import StoreConfig, TaskSchema, WeightStore, learn, seeded_secret
from superposed.contexts import Binding
from superposed.nn.layers import SuperposedLinear

Work = Callable[[], Any]
PRECISION = torch.bfloat16
TASKS = 1000


class Timer:
    """Times work on a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._on_gpu = device.type == "cuda"
        # What bandwidth and peak are measured with: large on a GPU.
        self.copied_bytes, self.side = (2**28, 8192) if self._on_gpu else (2**20, 64)

    def seconds(self, work: Work, repeats: int) -> float:
        """Seconds of one call, of several in a row."""
        self._wait()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        self._wait()
        return (time.perf_counter() - started) / repeats

    def _wait(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()


def products(shape: tuple[int, int, int], device: torch.device) -> Work:
    """One product of (n, m) and (k, m) matrices in the precision of products."""
    rows, inner, outer = shape
    x = torch.randn(rows, inner, device=device).to(PRECISION)
    weight = torch.randn(outer, inner, device=device).to(PRECISION)
    found = torch.empty(rows, outer, device=device, dtype=PRECISION)
    return lambda: torch.mm(x, weight.T, out=found)


def store_work(store: WeightStore, rows: int, how: Timer) -> Work:
    """Return the work for rows of random tasks, compared with the weights' own precision first."""
    batch = mixed_batch(store, rows, TASKS, np.random.default_rng(0))
    inputs, bindings = batch.inputs.to(how.device), store.bindings(batch)

    def work() -> Tensor:
        with torch.autocast(how.device.type, PRECISION):
            answers: Tensor = store.network(inputs, bindings)
        return answers

    exact = store.network(inputs, bindings)
    distance = float((work() - exact).abs().max() / exact.abs().max())
    if not distance <= 0.05:
        raise SystemExit(f"bfloat16 answers differ by {distance:.2g}")
    return work


def plain_work(width: int, rows: int, how: Timer) -> Work:
    """One ordinary network for all rows."""
    network = plain_network(width).to(how.device, PRECISION)
    inputs = torch.randn(rows, 784, device=how.device).to(PRECISION)
    return partial(network, inputs)


def binding_work(store: WeightStore, rows: int, how: Timer) -> tuple[Work, int]:
    """Binding a hidden layer's signal alone, and the bytes that it has to read and write at least."""
    draw = np.random.default_rng(0)
    name, layer = list(store.network.superposed_layers().items())[1]
    assert isinstance(layer, SuperposedLinear)
    batch = mixed_batch(store, rows, TASKS, draw)
    binding = store.bindings(batch)[name]
    signal = torch.randn(rows, layer.in_features, device=how.device).to(PRECISION)
    distinct = len(batch.parts) * binding.contexts[0].numel() * binding.contexts.element_size()
    moved = signal.element_size() * (signal.numel() + rows * layer.width) + distinct
    return lambda: _bound(layer, signal, binding), moved


def _bound(layer: SuperposedLinear, signal: Tensor, binding: Binding) -> Tensor:
    extended = layer.extend(signal.to(layer.weight.dtype))
    return layer.family.bind(extended, binding.contexts, binding.slots).to(signal.dtype)


def measure(family: str, width: int, rows: int, how: Timer, turns: int, repeats: int) -> dict[str, Any]:
    """One row of the table: each part in turn, repeated."""
    store = store_of(family, width, TASKS, how.device)
    with torch.inference_mode():
        bind, bound_bytes = binding_work(store, rows, how)
        copied = torch.empty(how.copied_bytes, dtype=torch.uint8, device=how.device)
        into = torch.empty_like(copied)
        square = (how.side,) * 3
        works: dict[str, Work] = {
            "mixed": store_work(store, rows, how),
            "plain": plain_work(width, rows, how),
            "bind": bind,
            "copy": lambda: into.copy_(copied),
            "product": products((rows, width, width), how.device),
            "square": products(square, how.device),
        }
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(turns):
            for name, work in works.items():
                taken[name].append(how.seconds(work, repeats))
    median = {name: float(np.median(times)) for name, times in taken.items()}
    layers = [layer for layer in plain_network(width) if isinstance(layer, nn.Linear)]
    operations = 2 * rows * sum(layer.weight.numel() for layer in layers)
    peak = max(2 * rows * width * width / median["product"], 2 * np.prod(square) / median["square"])
    bandwidth = 2 * len(copied) / median["copy"]
    return {
        "family": family,
        "width": width,
        "rows": rows,
        "tasks": TASKS,
        "ms": {name: 1000 * seconds for name, seconds in median.items()},
        "peak_tflops": float(peak) / 1e12,
        "mixed_of_peak": operations / median["mixed"] / float(peak),
        "plain_over_mixed": median["plain"] / median["mixed"],
        "bandwidth_gb_per_s": bandwidth / 1e9,
        "bind_of_bandwidth": bound_bytes / median["bind"] / bandwidth,
    }


def learning(device: str, updates: int) -> dict[str, Any]:
    """Updates with rehearsal: equal bits when they are replayed, close to the CPU's, and how many a second."""
    draw = np.random.default_rng(0)
    rows = draw.random((128, 784), dtype=np.float32)
    classes = rows[:, :10].argmax(1).tolist()

    def taught(where: str, count: int) -> tuple[WeightStore, float]:
        store = WeightStore(StoreConfig(), secret=seeded_secret(0), device=where)
        for number in range(20):
            store.register(TaskSchema(key=f"t{number}", inputs=784, outputs=10, scaling="running"))
        started = time.perf_counter()
        for number in range(count):
            learn(store, f"t{number % 20}", rows, classes, steps=1)
        return store, count / (time.perf_counter() - started)

    first, per_s = taught(device, updates)
    again, _ = taught(device, updates)
    if first.digest() != again.digest():
        raise SystemExit("the same updates made another store")
    near, far = (taught(where, 40)[0] for where in (device, "cpu"))
    answers = [one.logits(one.batch("t0", rows)) for one in (near, far)]
    distance = float((answers[0] - answers[1]).abs().max() / answers[1].abs().max())
    if not distance <= 0.05:
        raise SystemExit(f"updates on the device differ from the CPU's by {distance:.2g}")
    plain = plain_network(256).to(device).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, fused=True)
    x, y = torch.randn(288, 784, device=device), torch.randint(0, 10, (288,), device=device)
    started = time.perf_counter()
    for _ in range(updates):
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain(x), y).backward()  # type: ignore[no-untyped-call]  # torch has no annotation there
        optimizer.step()
    float(next(plain.parameters()).detach().sum())  # waits for the device
    steps_per_s = updates / (time.perf_counter() - started)
    return {"updates_per_s": per_s, "plain_steps_per_s": steps_per_s, "distance_from_cpu": distance, "replay": "equal"}


def served(seconds: float) -> dict[str, float]:
    """Requests and updates a second over HTTP; a server takes a GPU where there is one."""
    tasks = [(f"t{number}", INPUTS) for number in range(SERVED_TASKS)]
    with running(durable=True) as (url, _):
        one, many, update = (
            run(Load(url, tasks, kind=kind, rows=rows, binary=True, connections=connections, seconds=seconds))
            for kind, rows, connections in (("infer", 1, 64), ("infer", 64, 8), ("update", 128, 8))
        )
    return {
        "one-row requests/s": one.requests_per_s,
        "64-row requests/s": many.requests_per_s,
        "updates/s of 128 rows": update.requests_per_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--updates", type=int, default=400)
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this measures a CUDA device, and torch finds none here")
    how = Timer(torch.device("cuda"))
    beside = {"learning": learning("cuda", asked.updates), "served": served(5.0)}
    print(json.dumps(beside), flush=True)
    found = []
    for family in ("phase", "binary"):
        for width in (1024, 2048, 4096):
            for rows in (64, 256, 1024, 4096, 8192):
                found.append(measure(family, width, rows, how, asked.turns, asked.repeats))
                print(json.dumps(found[-1]), flush=True)
    write_json(asked.results, {"machine": machine(), **beside, "rows": found})


if __name__ == "__main__":
    main()
