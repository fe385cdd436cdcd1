"""A simulation of large clusters, with service times that were measured: 10 to 1,000 nodes, a million tasks.

    python -m benchmarks.cluster_scale --results docs/results/benchmarks/cluster_scale.json

Each node has one leader and two followers of other cells; a million tasks belong to 100,000 tenants, whose requests
follow a Zipf law. Tenants are placed as by the hash. A cell answers what one server answered
(`results/benchmarks/service.json`), a process of the ingress what one passed on (`ingress.json`), a killed leader
costs what it did cost (`results/durability/cluster.json`). What the coordinator takes to look at a server, and the
bytes of a task in a store and in the ingress, are measured here. A year of failures is drawn, a node failing once in
30 days and coming back after what it took there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from demo.server_process import Server
from experiments.report import machine, write_json
from superposed import StoreConfig, TaskSchema, WeightStore, seeded_secret
from superposed_client.models import ServerState
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

TASKS, TENANTS, SERVERS, LOOKS_PER_S = 10**6, 10**5, 3, 4
MTBF_S, YEAR_S = 30 * 86_400.0, 365 * 86_400.0
RESULTS = Path("docs/results")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def look_s() -> float:
    """Seconds of the coordinator for the state of one server, of 24 at a time."""

    async def look(url: str) -> float:
        async with httpx.AsyncClient(timeout=10) as client:

            async def one() -> None:
                answer = await client.get(f"{url}/v1/replication")
                ServerState.model_validate_json(answer.content)

            await one()
            began = time.process_time()
            for _ in range(20):
                await asyncio.gather(*(one() for _ in range(24)))
            return (time.process_time() - began) / 480

    with tempfile.TemporaryDirectory() as name:
        with DataDirectory(Path(name) / "store") as directory:
            begin(directory, WeightStore(StoreConfig(), secret=seeded_secret(0)))
        with Server(Path(name) / "store") as server:
            return asyncio.run(look(server.url))


def bytes_a_task(count: int = 20_000) -> dict[str, float]:
    """Bytes of a task that is registered, in a store; and of one whose cell an ingress knows."""
    store = WeightStore(StoreConfig(), secret=seeded_secret(0))
    tracemalloc.start()
    for number in range(count):
        store.register(TaskSchema(key=f"tenant-{number}.task", inputs=784, outputs=10))
    in_store = tracemalloc.get_traced_memory()[0]
    known = {f"tenant-{number}.task": store for number in range(count)}
    in_both = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {"store": in_store / count, "ingress": (in_both - in_store) / len(known)}


def simulated(nodes: int, measured: dict[str, Any], draw: np.random.Generator) -> dict[str, Any]:
    cells = nodes
    popularity = 1 / np.arange(1, TENANTS + 1)
    popularity /= popularity.sum()
    placed = draw.integers(0, cells, TENANTS)
    share = np.bincount(placed, popularity, cells)
    tasks = np.bincount(placed, minlength=cells) * (TASKS / TENANTS)
    without_top = np.bincount(placed[100:], popularity[100:], cells) / popularity[100:].sum()
    looks_s = cells * SERVERS * measured["look_ms"] / 1000
    failures = draw.poisson(YEAR_S / MTBF_S, nodes)
    outages = draw.choice(measured["outages_s"], int(failures.sum()))
    delay = max(0.0, looks_s - 1 / LOOKS_PER_S)  # a look that takes longer finds a failure later
    # Two of a cell's three servers away at once: no follower is left that a change could wait for.
    gone = measured["back_s"] / MTBF_S
    unsafe_s = 3 * gone**2 * YEAR_S
    written = 1 - ((outages.sum() + delay * len(outages)) / cells + unsafe_s) / YEAR_S
    return {
        "nodes": nodes,
        "tasks a cell": int(tasks.mean()),
        "tasks of the fullest cell": int(tasks.max()),
        "inference/s, uniform": cells * measured["rows_per_s"],
        "inference/s, Zipf": measured["rows_per_s"] / share.max(),
        "inference/s, Zipf, 100 largest tenants in cells of their own": measured["rows_per_s"] / without_top.max(),
        "updates/s, uniform": cells * measured["updates_per_s"],
        "ingress processes for uniform inference": cells * measured["rows_per_s"] / measured["ingress_per_s"],
        "MB of tasks in a cell": tasks.mean() * measured["bytes"]["store"] / 2**20,
        "MB of an ingress that knows all tasks": TASKS * measured["bytes"]["ingress"] / 2**20,
        "requests for a task that is in no cell": cells,
        "seconds of a look of the coordinator": looks_s,
        "failures of leaders a year": int(failures.sum()),
        "share of time in which a cell takes changes": written,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    served, ingress, chaos = read("benchmarks/service"), read("benchmarks/ingress"), read("durability/cluster")
    one_row = [one for one in served["inference"] if (one["rows_a_request"], one["connections"]) == (1, 64)]
    measured = {
        "rows_per_s": max(one["served_rows_per_s"] for one in one_row),
        "updates_per_s": served["updates"][0]["updates_per_s"],
        "ingress_per_s": ingress["kinds"]["one row, JSON, 32 connections"]["through the ingress"]["requests_per_s"],
        "outages_s": chaos["every_time_without_writes_s"],
        "back_s": chaos["back_after_s"]["median"],
        "look_ms": 1000 * look_s(),
        "bytes": bytes_a_task(),
    }
    draw = np.random.default_rng(0)
    found = [simulated(nodes, measured, draw) for nodes in (10, 30, 100, 300, 1000)]
    for row in found:
        print(json.dumps(row))
    if asked.results:
        write_json(asked.results, {"machine": machine(), "measured": measured, "clusters": found})


if __name__ == "__main__":
    main()
