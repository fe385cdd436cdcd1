"""Followers beside their leader: how fast one catches up, how far it is behind, what they bring and what they cost.

    python -m benchmarks.followers --results docs/results/benchmarks/followers.json

A leader learns 10,000 updates of 32 rows, sent by four clients. A follower that was seeded before the first of them is
started afterwards: its time until it has them all, start included, beside a recovery that replays the same records from
the same snapshot in one process. Then one client sends update after update, and the time is taken from the leader's
answer until the follower answers with it.

Then, in one run: single rows a second from a leader with no, one and two followers, each server driven by a client of
its own; updates a second, from eight connections, where a change waits for no, one and two of two followers, and how
many records the slower one is behind meanwhile. All on the same cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np

from benchmarks import load
from demo.server_process import Server, free_port
from experiments.report import machine, write_json
from superposed import StoreConfig, WeightStore, seeded_secret
from superposed_service.changes.replay import recover
from superposed_service.changes.snapshot import begin
from superposed_service.followers.follower import seed
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory

RECORDS, ROWS, INPUTS, TASKS, CLIENTS, LAGS, SECONDS = 10_000, 32, 64, 20, 4, 200, 8.0
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


def make(folder: Path) -> None:
    store = WeightStore(
        StoreConfig.of_preset("general", {"network": {"inputs": INPUTS, "outputs": 10}}), secret=seeded_secret(0)
    )
    with DataDirectory(folder / "leader") as directory:
        begin(directory, store)


def register(leader: Server) -> None:
    with leader.client() as client:
        for number in range(TASKS):
            client.register_task(f"t{number}", outputs=10)


@contextmanager
def environment(**settings: object) -> Iterator[None]:
    """Settings of the servers that are started meanwhile."""
    names = {f"SUPERPOSED_{name.upper()}": str(value) for name, value in settings.items()}
    os.environ.update(names)
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


def catching_up(folder: Path) -> dict[str, Any]:
    make(folder)
    with ExitStack() as stack:
        leader = stack.enter_context(Server(folder / "leader"))
        register(leader)
        with DataDirectory(folder / "follower") as directory:
            seed(directory, Settings(follow=leader.url))
        rate = teach(leader, RECORDS)
        with environment(follow=leader.url):
            follower, began = Server(folder / "follower", start_s=900.0), time.perf_counter()
            stack.enter_context(follower)
        caught_up = time.perf_counter() - began
        behind = lags(leader, follower)
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
    }


@contextmanager
def servers(folder: Path, followers: int, sync: int = 0) -> Iterator[list[Server]]:
    """A leader and its followers."""
    make(folder)
    ports = [free_port() for _ in range(1 + followers)]
    members = ",".join(f"http://127.0.0.1:{port}" for port in ports) if followers else ""
    with ExitStack() as stack, environment(members=members, sync_followers=sync):
        started = [stack.enter_context(Server(folder / "leader", ports[0]))]
        for number, port in enumerate(ports[1:]):
            with DataDirectory(folder / f"follower-{number}") as directory:
                seed(directory, Settings(follow=started[0].url, members="", sync_followers=0))
            with environment(follow=started[0].url):
                started.append(stack.enter_context(Server(folder / f"follower-{number}", port)))
        time.sleep(2)  # they look at each other once a second
        register(started[0])
        yield started


def drive(server: Server, kind: Literal["infer", "update"], rows: int) -> float:
    tasks = [(f"t{number}", INPUTS) for number in range(TASKS)]
    return load.run(load.Load(server.url, tasks, kind=kind, rows=rows, seconds=SECONDS)).requests_per_s


def reads(folder: Path, followers: int) -> float:
    with servers(folder, followers) as started, ThreadPoolExecutor(len(started)) as pool:
        teach(started[0], 200)
        return sum(pool.map(lambda server: drive(server, "infer", 1), started))


def updates(folder: Path, sync: int) -> dict[str, float]:
    with servers(folder, 2, sync) as started, ThreadPoolExecutor(1) as pool:
        sent, behind = pool.submit(drive, started[0], "update", ROWS), []
        while not sent.done():
            time.sleep(0.2)
            newest = sequence(started[0])
            behind.append(max(newest - sequence(one) for one in started[1:]))
        return {"per_s": sent.result(), "records_behind_median": statistics.median(behind)}


def run(folder: Path) -> dict[str, Any]:
    os.environ.update(_NEVER)
    found = catching_up(folder / "catching-up")
    found["reads_per_s"] = {str(count): reads(folder / f"reads-{count}", count) for count in (0, 1, 2)}
    found["updates"] = {str(sync): updates(folder / f"updates-{sync}", sync) for sync in (0, 1, 2)}
    return found


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
