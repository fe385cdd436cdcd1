"""A follower beside its leader: how fast it catches up, and how far it is behind under load.

    python -m benchmarks.followers --results docs/results/benchmarks/followers.json

A leader learns 3,000 updates of 32 rows, sent by four clients. A follower that was seeded before the first of them is
started afterwards: its time until it has them all, start included, beside a recovery that replays the same records from
the same snapshot in one process. Then one client sends update after update, and the time is taken from the leader's
answer until the follower answers with it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from demo.server_process import Server
from experiments.report import machine, write_json
from superposed import StoreConfig, WeightStore, seeded_secret
from superposed_service.changes.replay import recover
from superposed_service.changes.snapshot import begin
from superposed_service.cluster.follower import seed
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

RECORDS, ROWS, INPUTS, TASKS, CLIENTS, LAGS = 3000, 32, 64, 20, 4, 200
_NEVER = {"SUPERPOSED_SNAPSHOT_RECORDS": "1000000000", "SUPERPOSED_CANARY_ROWS": "0", "SUPERPOSED_THREADS": "1"}


def teach(leader: Server, updates: int) -> float:
    """Send updates from four clients; return the updates a second."""
    random = np.random.default_rng(0)
    x, numbers = random.normal(size=(CLIENTS, ROWS, INPUTS)), iter(range(updates))
    y, lock = x[:, :, :10].argmax(2), threading.Lock()

    def send(client_number: int) -> None:
        with leader.client() as client:
            while True:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                client.update(f"t{number % TASKS}", x[client_number], y[client_number])

    began = time.perf_counter()
    threads = [threading.Thread(target=send, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return updates / (time.perf_counter() - began)


def sequence(server: Server) -> int:
    return int(httpx.get(f"{server.url}/v1/store").json()["sequence"])


def lags(leader: Server, follower: Server) -> list[float]:
    """Milliseconds from an update's answer until the follower answers with it, one update after another."""
    found = []
    x = np.random.default_rng(1).normal(size=(ROWS, INPUTS))
    y = x[:, :10].argmax(1)
    with leader.client() as client, follower.client() as reader:
        for number in range(LAGS):
            newest = client.update(f"t{number % TASKS}", x, y).sequence
            began = time.perf_counter()
            while reader.infer("t0", x[:1]).sequence < newest:
                time.sleep(0.001)
            found.append(1000 * (time.perf_counter() - began))
    return found


def run(folder: Path) -> dict[str, Any]:
    os.environ.update(_NEVER)
    store = WeightStore(
        StoreConfig.of_preset("general", {"network": {"inputs": INPUTS, "outputs": 10}}), secret=seeded_secret(0)
    )
    with DataDirectory(folder / "leader") as directory:
        begin(directory, store)
    with ExitStack() as stack:
        leader = stack.enter_context(Server(folder / "leader"))
        with leader.client() as client:
            for number in range(TASKS):
                client.register_task(f"t{number}", outputs=10)
        with DataDirectory(folder / "follower") as directory:
            seed(directory, Settings(follow=leader.url))
        rate = teach(leader, RECORDS)
        os.environ["SUPERPOSED_FOLLOW"] = leader.url
        follower, began = Server(folder / "follower"), time.perf_counter()
        stack.enter_context(follower)
        caught_up = time.perf_counter() - began
        del os.environ["SUPERPOSED_FOLLOW"]
        behind = lags(leader, follower)
        last = sequence(leader)
    began = time.perf_counter()
    with DataDirectory(folder / "leader") as directory:
        recover(directory.snapshots, directory.transaction_log(), "cpu", through=RECORDS, from_oldest=True)
    replayed = time.perf_counter() - began
    return {
        "records": RECORDS,
        "rows": ROWS,
        "updates_per_s": rate,
        "follower_start_and_catch_up_s": caught_up,
        "replay_s": replayed,
        "lag_p50_ms": float(np.median(behind)),
        "lag_p99_ms": float(np.percentile(behind, 99)),
        "last": last,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder))
    write_json(asked.results, {"machine": machine(), **found})
    print(asked.results.read_text())


if __name__ == "__main__":
    main()
