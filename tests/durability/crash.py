"""Ends a server under load, again and again, and compares what it kept with what it had acknowledged.

Every request has an idempotency key and is sent again after the restart until it is answered, so at the end
each has exactly one sequence number. The reference is the plain library, given the same batches in that
order: the weights, the optimizer's state and the registry must be the same, bit for bit.

    python -m tests.durability.crash --rounds 1000 --signal KILL --results docs/results/durability
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from demo.server_process import free_port
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, learn, seeded_secret
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory, Snapshots

CONFIG = plain_config(
    network=MLPConfig(inputs=8, hidden=(16,), outputs=3), optimizer=OptimizerConfig(learning_rate=1e-3)
)
TASKS = "abcd"
# Snapshots and trimming happen within a round, so that crashes hit them too.
SETTINGS = {"snapshots_kept": 2, "history_records": 40}


def new_store() -> WeightStore:
    return WeightStore(CONFIG, secret=seeded_secret(1))


def batch(seed: int) -> tuple[str, list[list[float]], list[int]]:
    """The batch of a seed: task, rows, targets. Now and then one that the arithmetic refuses."""
    draw = np.random.default_rng(seed)
    rows = draw.normal(size=(4, 8)) * (1e30 if seed % 97 == 0 else 1)
    return TASKS[seed % len(TASKS)], rows.tolist(), draw.integers(0, 3, 4).tolist()


@dataclass
class Sent:
    """One update, until it is answered."""

    seed: int
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def body(self) -> dict[str, Any]:
        task, inputs, targets = batch(self.seed)
        return {"context": task, "inputs": inputs, "targets": targets}


class ForkServer:
    """See `tests.durability.forkserver`."""

    def __init__(self, *inside: str) -> None:
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.durability.forkserver"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def ask(self, **command: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def begin(self, path: Path, http: httpx.Client, settings: dict[str, Any]) -> int:
        """Start a server as `start` does, and do not wait for it."""
        at = http.base_url
        host = at.host if at.host == "127.0.0.1" else "0.0.0.0"  # in a namespace: the other servers' side too
        return self.ask(serve=str(path), host=host, port=at.port, settings=settings)

    def start(self, path: Path, http: httpx.Client, settings: dict[str, Any]) -> int:
        """Start a server on the port of a client, wait until it is ready, and return its process id."""
        pid = self.begin(path, http, settings)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if http.get("/health/ready").status_code == 200:
                    return pid
            except httpx.TransportError:
                time.sleep(0.01)
        raise AssertionError(path.with_suffix(".log").read_text()[-3000:])

    def close(self) -> None:
        assert self._process.stdin is not None
        with self._process:
            self._process.stdin.close()


@dataclass
class Outcome:
    """Findings of a run."""

    rounds: int = 0
    acknowledged: int = 0
    answered_after_restart: int = 0
    refused: int = 0
    inferences: int = 0
    stale: int = 0
    lost: int = 0
    applied_twice: int = 0
    identical_to_the_reference: bool = False
    longest_exit_s: float = 0.0


class Crashes:
    """Rounds of load, each ended by a signal."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory, self.random = directory, random.Random(seed)
        # Shared by all threads; without TLS, whose set-up would take longer than a round.
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", timeout=10, verify=False)
        self.seeds = iter(range(1, 10**9))
        self.acknowledged: dict[int, int] = {}  # sequence -> seed
        self.refused: list[Sent] = []
        self.pending: list[Sent] = []
        self.lock = threading.Lock()
        self.outcome = Outcome()
        self.seen = 0

    def send(self, sent: Sent) -> None:
        """Sends an update; what is not answered is pending."""
        try:
            answer = self.http.post("/v1/update", json=sent.body(), headers={"Idempotency-Key": sent.key})
        except httpx.TransportError:
            with self.lock:
                self.pending.append(sent)
            return
        with self.lock:
            if answer.status_code == 200:
                sequence = answer.json()["sequence"]
                if self.acknowledged.setdefault(sequence, sent.seed) != sent.seed:
                    self.outcome.applied_twice += 1
                self.outcome.acknowledged += 1
                self.seen = max(self.seen, sequence)
            elif answer.json()["type"].endswith("update-refused"):
                self.refused.append(sent)
            else:
                self.pending.append(sent)  # 503 while it stops

    def update(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self.lock:
                sent = Sent(next(self.seeds))
            self.send(sent)

    def infer(self, stop: threading.Event) -> None:
        while not stop.is_set():
            before = self.seen
            try:
                answer = self.http.post("/v1/infer", json={"context": "a", "inputs": [[1.0] * 8]})
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                self.outcome.inferences += 1
                self.outcome.stale += answer.json()["sequence"] < before

    def snapshot(self, stop: threading.Event) -> None:
        while not stop.wait(self.random.uniform(0, 0.1)):
            try:
                self.http.post("/v1/snapshots")
            except httpx.TransportError:
                return

    def round(self, forks: ForkServer, ending: signal.Signals) -> None:
        pid = forks.start(self.directory, self.http, SETTINGS)
        self.settle_pending()
        stop = threading.Event()
        work = [self.update] * 4 + [self.infer, self.snapshot]
        threads = [threading.Thread(target=one, args=(stop,)) for one in work]
        for thread in threads:
            thread.start()
        time.sleep(self.random.uniform(0.02, 0.3))
        os.kill(pid, ending)
        started = time.monotonic()
        status = forks.ask(wait=pid)
        self.outcome.longest_exit_s = max(self.outcome.longest_exit_s, time.monotonic() - started)
        stop.set()
        for thread in threads:
            thread.join()
        assert status == -ending, self.directory.with_suffix(".log").read_text()
        self.outcome.rounds += 1

    def settle_pending(self) -> None:
        """Send unanswered requests again after the crash, with their keys."""
        waiting, self.pending = self.pending, []
        for sent in waiting:
            self.send(sent)
            self.outcome.answered_after_restart += 1
        assert not self.pending

    def run(self, rounds: int, ending: signal.Signals) -> Outcome:
        store = new_store()
        for key in TASKS:
            store.register(TaskSchema(key=key, inputs=8, outputs=3))
        with DataDirectory(self.directory) as directory:
            begin(directory, store)
        forks = ForkServer()
        try:
            for _ in range(rounds):
                self.round(forks, ending)
            pid = forks.start(self.directory, self.http, SETTINGS)
            self.settle_pending()
            os.kill(pid, signal.SIGTERM)
            assert forks.ask(wait=pid) == -signal.SIGTERM  # uvicorn passes it on once all is done
        finally:
            forks.close()
            self.http.close()
        self.compare()
        return self.outcome

    def compare(self) -> None:
        """Against the library alone, given the acknowledged batches in their order."""
        newest = Snapshots(self.directory / "snapshots", kept=2).list()[-1]
        reference = new_store()
        for key in TASKS:
            reference.register(TaskSchema(key=key, inputs=8, outputs=3))
        for sequence in range(len(TASKS) + 1, newest.sequence + 1):
            if sequence in self.acknowledged:
                task, inputs, targets = batch(self.acknowledged[sequence])
                learn(reference, task, inputs, targets)
            reference.sequence = sequence
        # A refused update has two sequence numbers, its own and its refusal's; all others are accounted for.
        self.outcome.refused = len({sent.key for sent in self.refused})
        accounted = len(self.acknowledged) + 2 * self.outcome.refused + len(TASKS)
        self.outcome.lost = max(0, accounted - newest.sequence)
        self.outcome.applied_twice += max(0, newest.sequence - accounted)
        self.outcome.identical_to_the_reference = reference.digest() == newest.digest


def crash(rounds: int, ending: signal.Signals, seed: int = 0) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        return Crashes(Path(folder) / "store", seed).run(rounds, ending)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    found = crash(asked.rounds, signal.Signals[f"SIG{asked.signal}"])
    name = asked.results / f"{asked.signal.lower()}.json"
    write_json(name, {"machine": machine(), **vars(found)})
    print(name.read_text())
