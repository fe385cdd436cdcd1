"""Seconds that a start takes, and memory of a server with many tasks.

    python -m benchmarks.startup --results docs/results/benchmarks/startup.json

Times are of whole processes: the command's help, and from `superposed serve` until `/health/ready` answers,
in an empty directory and on a snapshot of a gigabyte that is in the system's cache, beside reading and
hashing that file. Memory is the resident set of a server on the CPU with the defaults: of 1,000 tasks, each
taught a batch and asked once, and of 100,000 that are registered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from demo.server_process import free_port
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import MLPConfig, StoreConfig, TaskSchema, WeightStore, learn, seeded_secret
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

COMMAND, INPUTS, ROWS = ".venv/bin/superposed", 784, 64


def seconds(command: list[str], times: int = 5) -> float:
    """Median seconds of a command, after one run that fills the system's cache."""
    taken = []
    for _ in range(times + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


@contextmanager
def server(path: Path) -> Iterator[tuple[httpx.Client, int, float]]:
    """A client of a server on a directory, the server's process id, and the seconds until it was ready."""
    port = free_port()
    started = time.perf_counter()
    process = subprocess.Popen(
        [COMMAND, "serve", str(path), "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            while process.poll() is None:
                try:
                    client.get("/health/ready").raise_for_status()
                    break
                except (httpx.TransportError, httpx.HTTPStatusError):
                    time.sleep(0.01)
            yield client, process.pid, time.perf_counter() - started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in line]
    return int(line.split()[1]) * 1024


def empty(folder: Path, times: int = 5) -> float:
    taken = []
    for number in range(times + 1):
        with server(folder / f"new-{number}") as (_, _, ready_s):
            taken.append(ready_s)
    return statistics.median(taken[1:])


def large_snapshot(folder: Path) -> dict[str, Any]:
    """A start on a gigabyte, beside reading and hashing the file, both from the system's cache."""
    path = folder / "large"
    store = WeightStore(plain_config(network=MLPConfig(inputs=4096, hidden=(8192, 8192), outputs=4096)))
    store.register(TaskSchema(key="t", inputs=4, outputs=2))
    learn(store, "t", [[1.0, 2, 3, 4]], [1])
    with DataDirectory(path) as directory:
        begin(directory, store)
    del store
    [file] = path.glob("snapshots/*.safetensors")
    reads, starts = [], []
    for _ in range(3):
        started = time.perf_counter()
        hashlib.sha256(file.read_bytes()).hexdigest()
        reads.append(time.perf_counter() - started)
        with server(path) as (_, _, ready_s):
            starts.append(ready_s)
        file = max(path.glob("snapshots/*.safetensors"))
    return {
        "bytes": file.stat().st_size,
        "read_and_hash_s": statistics.median(reads),
        "start_s": statistics.median(starts),
    }


def memory(folder: Path, tasks: int, taught: bool) -> dict[str, Any]:
    path, draw = folder / f"tasks-{tasks}", np.random.default_rng(0)
    store = WeightStore(StoreConfig.of_preset("general"), secret=seeded_secret(0))
    for number in range(tasks):
        store.register(TaskSchema(key=f"t{number}", inputs=INPUTS, outputs=10, scaling="running"))
        if taught:
            rows = draw.random((ROWS, INPUTS), dtype=np.float32)
            learn(store, f"t{number}", rows, draw.integers(0, 10, ROWS).tolist(), steps=1)
    with DataDirectory(path) as directory:
        begin(directory, store)
    kept = store.replay_buffer.bytes
    del store
    with server(path) as (client, pid, ready_s):
        before = resident(pid)
        for number in range(min(tasks, 1000)):
            row = draw.random(INPUTS).round(4).tolist()
            client.post("/v1/infer", json={"context": f"t{number}", "inputs": [row]}).raise_for_status()
        return {
            "tasks": tasks,
            "rows taught a task": ROWS if taught else 0,
            "kept_bytes": kept,
            "ready_s": ready_s,
            "resident_bytes_at_start": before,
            "resident_bytes": resident(pid),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as name:
        folder = Path(name)
        found = {
            "machine": machine(),
            "import_torch_s": seconds([".venv/bin/python", "-c", "import torch"]),
            "help_s": seconds([COMMAND, "--help"]),
            "ready_empty_s": empty(folder),
            "large_snapshot": large_snapshot(folder),
            "memory": [memory(folder, 1000, taught=True), memory(folder, 100_000, taught=False)],
        }
    write_json(asked.results, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
