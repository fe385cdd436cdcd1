"""A Ray cluster of three nodes and a head, each in a network namespace, under load: nodes are killed, again and again.

Clients send updates through the ingress, each with an idempotency key and until it is answered, and read. At the end
every task must have been taught exactly what was acknowledged, and the servers of a cell must be the same store.

    python -m tests.cluster.nodes --rounds 30 --results docs/results/durability/cluster.json

Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from experiments.report import machine, write_json
from superposed_service.changes.verify import verify
from superposed_service.storage import DataDirectory

NODES, CELLS, HEAD, PORT = 3, ("a", "b"), "10.77.0.10", 8200
BRIDGE = f"sc{os.getpid() % 100_000}"
CONFIG = """
name = "chaos"
cells = {cells}
servers = 3
sync_followers = 1
directory = "$NODE_DIR"
cpus = 1
port = {port}
[settings]
canary_rows = 0
history_records = 1000000
snapshot_records = 500
threads = 1
"""


# So that Ray misses a node in seconds: with its defaults in half a minute, until when nothing is started elsewhere.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_worker_niceness": "0",  # what else runs on this machine is to be the nicer
}


def sh(*words: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, check=True, capture_output=True, text=True, **more)


class Machines:
    """A head and nodes, in namespaces on one bridge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [f"{BRIDGE}-{number}" for number in range(NODES + 1)]  # the first is the head
        sh("ip", "link", "add", BRIDGE, "type", "bridge")
        sh("ip", "addr", "add", "10.77.0.1/24", "dev", BRIDGE)
        sh("ip", "link", "set", BRIDGE, "up")
        for number, name in enumerate(self.names):
            sh("ip", "netns", "add", name)
            sh("ip", "link", "add", f"{BRIDGE}v{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            sh("ip", "link", "set", f"{BRIDGE}v{number}", "master", BRIDGE, "up")
            for words in (f"addr add {self.address(number)}/24 dev eth0", "link set eth0 up", "link set lo up"):
                sh("ip", "-n", name, *words.split())

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.0.{10 + number}"

    def inside(self, number: int, *words: str, timeout: float = 240) -> str:
        own = {
            "NODE_DIR": str(self.folder / f"node-{number}"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        own |= {"PYTHONPATH": os.environ.get("PYTHONPATH", "")} | HEALTH
        command = ("ip", "netns", "exec", self.names[number], *words)
        done = subprocess.run(
            command, env=os.environ | own, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout

    def start(self, number: int) -> None:
        common = (
            "--node-ip-address",
            self.address(number),
            "--disable-usage-stats",
            "--object-store-memory",
            "100000000",
        )
        if number:
            self.inside(number, "ray", "start", "--address", f"{HEAD}:6380", "--num-cpus", "2", *common)
        else:
            more = ("--num-cpus", "0", "--include-dashboard=false")  # no server is placed there
            self.inside(0, "ray", "start", "--head", "--port", "6380", *more, *common)

    def kill(self, number: int) -> None:
        """End every process of a node at once."""
        for pid in sh("ip", "netns", "pids", self.names[number]).stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), 9)

    def close(self) -> None:
        for number, name in enumerate(self.names):
            self.kill(number)
            sh("ip", "netns", "del", name)
        sh("ip", "link", "del", BRIDGE)


class Load:
    """Clients that teach tasks of every cell, and read them."""

    def __init__(self, url: str, tasks: dict[str, str]) -> None:
        self.url, self.tasks, self.stopping = url, tasks, threading.Event()
        self.acknowledged: dict[str, int] = defaultdict(int)
        self.answers: dict[str, int] = defaultdict(int)  # by status
        self.writes: dict[str, list[float]] = defaultdict(list)  # by cell: when
        self.reads: dict[str, list[float]] = defaultdict(list)
        self.wrong: list[str] = []
        self.threads = [threading.Thread(target=self.teach, args=(key,)) for key in tasks]
        self.threads += [threading.Thread(target=self.read, args=(cell,)) for cell in CELLS]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in self.threads:
                thread.join()

    def teach(self, key: str) -> None:
        draw = np.random.default_rng(hash(key) % 2**32)
        with httpx.Client(base_url=self.url, timeout=30) as http:
            while not self.stopping.is_set():
                rows, targets = draw.normal(size=(4, 8)), draw.integers(0, 3, 4)
                body = {"context": key, "inputs": rows.tolist(), "targets": targets.tolist(), "steps": 1}
                once = {"Idempotency-Key": uuid.uuid4().hex}
                while not self.sent(http, "/v1/update", body, once):
                    time.sleep(0.1)
                self.acknowledged[key] += 1
                self.writes[self.tasks[key]].append(time.monotonic())
                time.sleep(0.4)  # two cores are to start nodes beside it

    def read(self, cell: str) -> None:
        key = next(key for key, one in self.tasks.items() if one == cell)
        with httpx.Client(base_url=self.url, timeout=30) as http:
            while not self.stopping.is_set():
                if self.sent(http, "/v1/infer", {"context": key, "inputs": [[0.5] * 8]}, {}):
                    self.reads[cell].append(time.monotonic())
                time.sleep(0.1)

    def sent(self, http: httpx.Client, path: str, body: dict[str, Any], headers: dict[str, str]) -> bool:
        try:
            answer = http.post(path, json=body, headers=headers)
        except httpx.TransportError as error:
            self.answers[type(error).__name__] += 1
            return False
        self.answers[str(answer.status_code)] += 1
        if answer.status_code < 500 and answer.status_code != 429 and not answer.is_success:
            self.wrong.append(answer.text[:300])
        return answer.is_success


def longest(times: list[float], since: float, until: float) -> float:
    """The longest time between two of some moments, within a time."""
    inside = [since, *(one for one in times if since <= one <= until), until]
    return max(b - a for a, b in itertools.pairwise(inside))


def table(machines: Machines) -> list[dict[str, Any]]:
    """The servers that say what they are, by URL."""
    found = []
    for place, cell in enumerate(CELLS):
        for number in range(3):
            for node in range(1, NODES + 1):
                url = f"http://{machines.address(node)}:{8100 + 3 * place + number}"
                with contextlib.suppress(httpx.TransportError):
                    answer = httpx.get(f"{url}/v1/replication", timeout=2)
                    if answer.is_success:
                        found.append({"cell": cell, "server": number, "node": node, **answer.json()})
    return found


def whole(machines: Machines) -> bool:
    """Return True if every cell has three servers, one of which leads while the others follow it."""
    states = table(machines)
    return all(
        sorted(one["role"] for one in states if one["cell"] == cell) == ["follower", "follower", "leader"]
        for cell in CELLS
    )


def wait(condition: Any, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(1.5)


def run(rounds: int, folder: Path, seed: int, minutes: float) -> dict[str, Any]:
    machines, draw, until = Machines(folder), random.Random(seed), time.monotonic() + 60 * minutes
    found: dict[str, Any] = {"rounds": 0, "nodes": NODES, "cells": len(CELLS)}
    try:
        for number in range(NODES + 1):
            machines.start(number)
        (folder / "cluster.toml").write_text(CONFIG.format(cells=list(CELLS), port=PORT))
        print(machines.inside(0, "superposed", "cluster", "up", str(folder / "cluster.toml")), flush=True)
        wait(lambda: whole(machines))
        url = f"http://{HEAD}:{PORT}"
        tasks: dict[str, str] = {}
        for number in range(8):
            answer = httpx.post(f"{url}/v1/tasks", json={"key": f"t{number}", "inputs": 8, "outputs": 3}, timeout=60)
            tasks[f"t{number}"] = answer.raise_for_status().headers["x-cell"]
        load = Load(url, tasks)
        without: list[float] = []
        others: list[float] = []
        led, back = 0, list[float]()
        with load.running():
            for number in range(1, rounds + 1):
                if time.monotonic() > until:
                    break
                time.sleep(draw.uniform(1, 4))
                node = draw.randrange(1, NODES + 1)
                leading = {one["cell"] for one in table(machines) if one["role"] == "leader" and one["node"] == node}
                began = time.monotonic()
                machines.kill(node)
                time.sleep(6)
                machines.start(node)
                wait(lambda: whole(machines), 600)
                ended = time.monotonic()
                for cell in CELLS:
                    gap = longest(load.writes[cell], began, ended)
                    if cell in leading:
                        without.append(gap)
                    else:
                        others.append(longest(load.reads[cell], began, ended))
                led += len(leading)
                back.append(ended - began)
                known = {"rounds": number, "leaders_killed": led, "took_s": ended - began}
                known |= {
                    "without_writes_s": [round(one, 2) for one in without],
                    "other_reads_s": [round(one, 2) for one in others],
                }
                print(known, dict(load.answers), load.wrong[:2], flush=True)
        found |= {"rounds": len(back), "leaders_killed": led, "answers": dict(load.answers), "wrong": load.wrong[:10]}
        taught = {key: httpx.get(f"{url}/v1/tasks/{key}", timeout=60).json()["updates"] for key in tasks}
        found["acknowledged"] = sum(load.acknowledged.values())
        found["lost"] = sum(max(0, load.acknowledged[key] - taught[key]) for key in tasks)
        found["twice"] = sum(max(0, taught[key] - load.acknowledged[key]) for key in tasks)
        wait(lambda: whole(machines))
        time.sleep(3)
        machines.inside(0, "superposed", "cluster", "down", "--config", str(folder / "cluster.toml"))
        found |= spread("without_writes_s", without) | spread("reads_of_other_cells_stop_s", others)
        found |= spread("back_after_s", back) | {"every_time_without_writes_s": [round(one, 3) for one in without]}
        found["digests_equal"] = all(same(folder, cell) for cell in CELLS)
    finally:
        machines.close()
    return found


def spread(name: str, seconds: list[float]) -> dict[str, Any]:
    chosen = {"median": float(np.median(seconds)), "p99": float(np.quantile(seconds, 0.99)), "most": max(seconds)}
    return {name: {one: round(value, 3) for one, value in chosen.items()}} if seconds else {}


def same(folder: Path, cell: str) -> bool:
    """Return True if the servers of a cell hold the same store, and their directories are sound."""
    digests = set()
    for path in folder.glob(f"node-*/{cell}/?"):
        with DataDirectory(path) as directory:
            assert not [one for one in verify(directory) if one.remedy is not None], path
            digests.add(directory.snapshots.list()[-1].digest)
    return len(digests) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=240.0, help="after which no further round begins")
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="superposed-cluster-"))
    try:
        found = run(asked.rounds, folder, asked.seed, asked.minutes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(found, asked.results)


def finish(found: dict[str, Any], results: Path | None) -> None:
    """Print and write what was found; end with an error where an update was lost or learned twice, or stores differ."""
    print(found)
    if results:
        write_json(results, {"machine": machine(), **found})
    raise SystemExit(bool(found["lost"] or found["twice"] or not found["digests_equal"]))


if __name__ == "__main__":
    main()
