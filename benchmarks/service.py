"""Cost of the service around the store: inference and updates over HTTP, against the bare library.

    python -m benchmarks.service --results docs/results/benchmarks/service.json

Inference: rows a second over HTTP, against rows a second of the bare mixed forward at the batch sizes that
the engine formed meanwhile. Updates: acknowledged updates of 128 rows a second (binary, durable; then each
switched), against a plain torch step on as many rows (`benchmarks.plain_step`). Both sides take turns within
one run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn

from benchmarks.durability import Forgetful
from benchmarks.forward import mixed_batch
from benchmarks.load import Load, run
from benchmarks.plain_step import PlainStep
from demo.server_process import free_port
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import TaskSchema, WeightStore, seeded_secret
from superposed.tasks.batch import Batch
from superposed_service.api.app import create_api, guarded
from superposed_service.api.server.connections import bounded_protocol
from superposed_service.changes.snapshot import begin
from superposed_service.cli.server_process import SWITCH_S
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from superposed_service.storage import directory as directory_module

TASKS, INPUTS = 100, 784


def new_store() -> WeightStore:
    store = WeightStore(plain_config(), secret=seeded_secret(0))
    for number in range(TASKS):
        store.register(TaskSchema(key=f"t{number}", inputs=INPUTS, outputs=10))
    return store


def serve(path: Path, port: int, durable: bool, seen: Path) -> None:
    """A server that notes the sizes of the batches that it forms."""
    torch.set_num_threads(1)
    sys.setswitchinterval(SWITCH_S)
    sizes: Counter[int] = Counter()
    plain = WeightStore.logits

    def noted(self: WeightStore, batch: Batch) -> torch.Tensor:
        sizes[len(batch)] += 1
        return plain(self, batch)

    WeightStore.logits = noted  # type: ignore[method-assign]  # measured in place

    def end(*_: object) -> None:
        seen.write_text(json.dumps(sizes))
        os._exit(0)

    signal.signal(signal.SIGTERM, end)  # uvicorn hands the signal on once it has stopped
    if not durable:
        directory_module.TransactionLog = Forgetful  # type: ignore[misc]  # nothing written
    with DataDirectory(path) as directory:
        settings = Settings(threads=1, snapshot_records=10**9, snapshot_bytes=2**60)
        api = create_api(settings, directory)
        app = guarded(api, settings)
        uvicorn.run(app, port=port, log_level="error", http=bounded_protocol(settings, api.state.direct))


@contextmanager
def running(durable: bool) -> Iterator[tuple[str, dict[int, int]]]:
    """A server's URL, and how many batches of each size it formed, known once it has ended."""
    sizes: dict[int, int] = {}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as name:
        folder, port = Path(name), free_port()
        with DataDirectory(folder / "store") as directory:
            begin(directory, new_store())
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(folder / "store", port, durable, folder / "sizes.json")
        )
        process.start()
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                httpx.get(f"{url}/health/ready").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        try:
            yield url, sizes
        finally:
            if durable:
                process.terminate()
            else:
                process.kill()  # it could not write its snapshot
            process.join()
            if durable:
                noted = json.loads((folder / "sizes.json").read_text())
                sizes.update({int(size): count for size, count in noted.items()})


def bare_forward(store: WeightStore, rows: int, seconds: float) -> float:
    """Rows a second."""
    batch = mixed_batch(store, rows, TASKS, np.random.default_rng(0))
    store.logits(batch)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        store.logits(batch)
        count += 1
    return count * rows / (time.perf_counter() - started)


def inference(seconds: float) -> list[dict[str, Any]]:
    tasks, found = [(f"t{number}", INPUTS) for number in range(TASKS)], []
    for connections, rows, binary in ((1, 1, True), (8, 1, True), (64, 1, True), (64, 1, False), (8, 64, True)):
        with running(durable=True) as (url, sizes):
            load = Load(url, tasks, rows=rows, binary=binary, connections=connections, seconds=seconds)
            served = run(load)
        assert set(served.statuses) == {200}
        total = sum(size * count for size, count in sizes.items())
        mean = round(total / sum(sizes.values()))
        bare = bare_forward(new_store(), mean, seconds / 2)
        found.append(
            {
                "connections": connections,
                "rows_a_request": rows,
                "form": "binary" if binary else "json",
                "mean_batch_rows": mean,
                "served_rows_per_s": served.requests_per_s * rows,
                "bare_rows_per_s": bare,
                "ratio": served.requests_per_s * rows / bare,
                "p99_ms": served.percentile(99),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def updates(seconds: float, turns: int) -> list[dict[str, Any]]:
    tasks, found = [(f"t{number}", INPUTS) for number in range(TASKS)], []
    for durable, binary, rows in ((True, True, 128), (False, True, 128), (True, False, 128), (True, True, 32)):
        ratios, speeds, plain = [], [], PlainStep(rows)
        with running(durable) as (url, _):
            load = Load(url, tasks, kind="update", rows=rows, binary=binary, connections=8, seconds=seconds)
            for _ in range(turns):
                served = run(load)
                assert set(served.statuses) == {200}
                speeds.append((served.requests_per_s, plain.per_s(seconds)))
                ratios.append(speeds[-1][0] / speeds[-1][1])
        found.append(
            {
                "durable": durable,
                "form": "binary" if binary else "json",
                "rows": rows,
                "updates_per_s": statistics.median(served for served, _ in speeds),
                "plain_steps_per_s": statistics.median(bare for _, bare in speeds),
                "ratio": statistics.median(ratios),
            }
        )
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    values = {
        "machine": machine(),
        "updates": updates(asked.seconds, asked.turns),
        "inference": inference(asked.seconds),
    }
    write_json(asked.results, values)


if __name__ == "__main__":
    main()
