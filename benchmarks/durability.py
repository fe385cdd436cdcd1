"""Cost of durability: acknowledged updates with the journal and without, side by side in one run.

    python -m benchmarks.durability --results docs/results/benchmarks/durability.json

Servers run in processes of their own, with the store's defaults; requests are made beforehand and sent over
plain sockets, so that the client is not what is measured. The modes take turns, and what is reported is the
median of each and the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
import uvicorn

from benchmarks.plain_step import PlainStep
from demo.server_process import free_port
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import TaskSchema, WeightStore, learn
from superposed_service.api.app import create_app, open_store
from superposed_service.changes.registration import Register
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.snapshot import begin
from superposed_service.changes.update import Update
from superposed_service.engine.work import PendingWrite
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Record, TransactionLog
from superposed_service.storage import directory as directory_module

ROWS, TASKS = 32, 16


class Forgetful(TransactionLog):
    """The baseline of the journal's cost: it gives sequence numbers and writes nothing."""

    def write(self, changes: Any, beside: Any = None, *, digest: Any = None) -> list[Record]:
        first = self.journal.sequence + 1
        self.journal.sequence += len(changes)
        return [Record(first + n, entry.kind, entry.head, b"") for n, (entry, _) in enumerate(changes)]


def serve(path: Path, port: int, durable: bool) -> None:
    torch.set_num_threads(1)
    if not durable:
        directory_module.TransactionLog = Forgetful  # type: ignore[misc]  # nothing written
    with DataDirectory(path) as directory:
        settings = Settings(threads=1, snapshot_records=10**9, snapshot_bytes=2**60, queue_delay_ms=10_000)
        uvicorn.run(create_app(settings, directory), port=port, log_level="error")


class Running:
    """A server over a new store of plain settings and a few tasks."""

    def __init__(self, durable: bool) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-")
        self.path = Path(self.folder.name) / "store"
        with DataDirectory(self.path) as directory:
            begin(directory, WeightStore(plain_config()))
        self.port = free_port()
        self.process = multiprocessing.get_context("spawn").Process(target=serve, args=(self.path, self.port, durable))
        self.process.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.get(f"http://127.0.0.1:{self.port}/health/ready", verify=False)
                break
            except httpx.TransportError:
                time.sleep(0.05)
        for number in range(TASKS):
            body = {"key": f"t{number}", "outputs": 10, "scale": [255.0] * 784}
            answer = httpx.post(f"http://127.0.0.1:{self.port}/v1/tasks", json=body, verify=False)
            assert answer.status_code == 201, answer.text

    def journal_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.path.glob("journal.db*"))

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.folder.cleanup()


def request(path: str, body: Any) -> bytes:
    content = json.dumps(body, separators=(",", ":")).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    return f"{head}\r\n\r\n".encode() + content


def images(seed: int) -> tuple[list[list[int]], list[int]]:
    """Rows like MNIST's: a fifth of the pixels is not 0."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (ROWS, 784)) * (draw.random((ROWS, 784)) < 0.2)
    return pixels.tolist(), draw.integers(0, 10, ROWS).tolist()


def updates() -> list[bytes]:
    made = []
    for seed in range(TASKS):
        inputs, targets = images(seed)
        made.append(request("/v1/update", {"context": f"t{seed}", "inputs": inputs, "targets": targets}))
    return made


async def _client(port: int, requests: list[bytes], until: float, taken: list[float]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = 0
    while time.perf_counter() < until:
        started = time.perf_counter()
        writer.write(requests[number % len(requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        taken.append(time.perf_counter() - started)
        number += 1
    writer.close()


def load(port: int, requests: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Closed loop: each client sends its next request when the last one is answered."""

    async def run() -> list[float]:
        taken: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(*(_client(port, requests[n:] + requests[:n], until, taken) for n in range(clients)))
        return taken

    taken = asyncio.run(run())
    p50, p99 = np.percentile(taken, [50, 99])
    return {
        "per_s": len(taken) / seconds,
        "p50_ms": 1000 * float(p50),
        "p99_ms": 1000 * float(p99),
        "requests": len(taken),
    }


def throughput(seconds: float, turns: int) -> dict[str, Any]:
    requests = updates()
    servers = {"durable": Running(True), "without": Running(False)}
    found: dict[str, Any] = {}
    try:
        for server in servers.values():
            load(server.port, requests, 1, 1.0)
        for clients in (1, 8, 64):
            runs: dict[str, list[dict[str, float]]] = {mode: [] for mode in servers}
            for _ in range(turns):
                for mode, server in servers.items():
                    runs[mode].append(load(server.port, requests, clients, seconds))
            medians = {
                mode: {name: statistics.median(run[name] for run in several) for name in several[0]}
                for mode, several in runs.items()
            }
            ratio = medians["durable"]["per_s"] / medians["without"]["per_s"]
            found[f"{clients} clients"] = {**medians, "ratio_per_s": ratio}
        before, records = servers["durable"].journal_bytes(), 0
        for _ in range(3):
            records += int(load(servers["durable"].port, requests, 8, seconds)["requests"])
        grown = servers["durable"].journal_bytes() - before
        found["bytes per update"] = {"disk": grown / records, "http": len(requests[0]), "pixels": ROWS * 784}
    finally:
        for server in servers.values():
            server.close()
    return found


def snapshot_pause(seconds: float) -> dict[str, Any]:
    """p99 of inference while snapshots are taken one after another, and while none is."""
    server = Running(True)
    inputs, _ = images(0)
    reads = [request("/v1/infer", {"context": "t0", "inputs": inputs, "return": ["labels"]})]
    plain, during = [], []

    async def both() -> list[float]:
        taken: list[float] = []
        until = time.perf_counter() + seconds
        snapshots = [request("/v1/snapshots", {}), updates()[0]]
        await asyncio.gather(_client(server.port, reads, until, taken), _client(server.port, snapshots, until, []))
        return taken

    async def one() -> list[float]:
        taken: list[float] = []
        until = time.perf_counter() + seconds
        await asyncio.gather(_client(server.port, reads, until, taken), _client(server.port, updates()[:1], until, []))
        return taken

    try:
        load(server.port, reads, 1, 1.0)
        for _ in range(3):
            plain.append(np.percentile(asyncio.run(one()), 99))
            during.append(np.percentile(asyncio.run(both()), 99))
    finally:
        server.close()
    without, with_snapshots = (1000 * float(statistics.median(several)) for several in (plain, during))
    return {"p99_ms": without, "p99_ms_during": with_snapshots, "ratio": with_snapshots / without}


def replay(records: int) -> dict[str, Any]:
    """A start with records behind a snapshot, against as many plain torch steps."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    batches = [(draw.normal(size=(ROWS, 784)).astype(np.float32), draw.integers(0, 10, ROWS)) for _ in range(64)]
    schema = TaskSchema(key="t", inputs=784, outputs=10)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as folder:
        path = Path(folder) / "store"
        bare = WeightStore(plain_config())
        with DataDirectory(path) as directory:
            begin(directory, bare)
            writer, _ = open_store(directory, Settings(device="cpu"))
            updates = (Update(RowBatch("t", None, rows), targets.tolist(), 1) for rows, targets in cycle(batches))
            with ThreadPoolExecutor(1) as journalling:
                for change in (Register(lambda _: schema), *islice(updates, records)):
                    writer.begin([PendingWrite(change)], journalling)
                    writer.finish()
                    writer.apply_next()
        bare.register(schema)
        for number in range(records):
            inputs, targets = batches[number % len(batches)]
            learn(bare, "t", inputs, targets.tolist())
        plain, turns = PlainStep(ROWS), []
        for _ in range(3):
            started = time.perf_counter()
            for _ in range(records):
                plain()
            plain_s = time.perf_counter() - started
            with DataDirectory(path) as directory:
                started = time.perf_counter()
                writer, recovery = open_store(directory, Settings(device="cpu"))
                turns.append({"plain_s": plain_s, "start_s": time.perf_counter() - started})
                assert recovery.replayed == records + 1
                assert writer.store.digest() == bare.digest()
    ratio = statistics.median(turn["plain_s"] / turn["start_s"] for turn in turns)
    return {"records": records, "rows": ROWS, "turns": turns, "speed_ratio": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--records", type=int, default=10_000)
    asked = parser.parse_args()
    found = {
        "machine": machine(),
        "rows_a_request": ROWS,
        "updates": throughput(asked.seconds, asked.turns),
        "inference_during_snapshots": snapshot_pause(asked.seconds),
        "replay": replay(asked.records),
    }
    write_json(asked.results, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
