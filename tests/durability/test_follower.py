"""Leader and follower killed under load: nothing acknowledged is lost, nothing applied twice, equal digests."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import httpx

from demo.server_process import free_port
from superposed import TaskSchema
from superposed_service.changes.replay import recover
from superposed_service.changes.snapshot import begin
from superposed_service.cluster.follower import seed
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.conftest import wait_for
from tests.durability.crash import SETTINGS, TASKS, ForkServer, Sent, new_store

ROUNDS, CLIENTS = 6, 3


class Pair:
    """A leader and its follower, in processes of their own."""

    def __init__(self, folder: Path, forks: ForkServer) -> None:
        self.forks, self.paths = forks, [folder / "leader", folder / "follower"]
        self.http = [httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", verify=False) for _ in self.paths]
        self.settings = [SETTINGS, SETTINGS | {"follow": str(self.http[0].base_url)}]
        self.pids = [0, 0]
        store = new_store()
        for key in TASKS:
            store.register(TaskSchema(key=key, inputs=8, outputs=3))
        with DataDirectory(self.paths[0]) as directory:
            begin(directory, store)
        self.start(0)
        with DataDirectory(self.paths[1]) as directory:
            seed(directory, Settings(follow=str(self.http[0].base_url)))
        self.start(1)
        self.acknowledged: dict[int, Sent] = {}
        self.unanswered: list[Sent] = []
        self.seeds = iter(range(1, 10**9))
        self.lock = threading.Lock()

    def start(self, number: int) -> None:
        self.pids[number] = self.forks.start(self.paths[number], self.http[number], self.settings[number])

    def end(self, number: int, how: signal.Signals) -> None:
        os.kill(self.pids[number], how)
        assert self.forks.ask(wait=self.pids[number]) == -how

    def send(self, sent: Sent) -> None:
        try:
            answer = self.http[0].post("/v1/update", json=sent.body(), headers={"Idempotency-Key": sent.key})
        except httpx.TransportError:
            with self.lock:
                self.unanswered.append(sent)
            return
        with self.lock:
            if answer.status_code == 200:
                earlier = self.acknowledged.setdefault(answer.json()["sequence"], sent)
                assert earlier.key == sent.key, "two updates have one sequence number"
            elif answer.status_code >= 500:
                self.unanswered.append(sent)

    def load(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self.lock:
                sent = Sent(next(self.seeds))
            self.send(sent)

    def round(self, victim: int, seconds: float) -> None:
        stop = threading.Event()
        threads = [threading.Thread(target=self.load, args=(stop,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.end(victim, signal.SIGKILL)
        stop.set()
        for thread in threads:
            thread.join()
        self.start(victim)
        waiting, self.unanswered = self.unanswered, []
        for sent in waiting:
            self.send(sent)
        assert not self.unanswered

    def sequences(self) -> list[int]:
        return [http.get("/v1/store").json()["sequence"] for http in self.http]


def test_kills_of_either_lose_nothing(tmp_path: Path) -> None:
    draw, forks = random.Random(0), ForkServer()
    try:
        pair = Pair(tmp_path, forks)
        for number in range(ROUNDS):
            pair.round(number % 2, draw.uniform(0.1, 0.6))
        wait_for(lambda: len(set(pair.sequences())) == 1)
        [sequence] = set(pair.sequences())
        assert len(pair.acknowledged) > ROUNDS
        assert max(pair.acknowledged) <= sequence
        for number in (1, 0):
            pair.end(number, signal.SIGTERM)
        for http in pair.http:
            http.close()
    finally:
        forks.close()
    stores = []
    for path in pair.paths:
        with DataDirectory(path) as directory:
            log = directory.transaction_log()
            stores.append((recover(directory.snapshots, log, "cpu")[0].digest(), log.journal.chain))
    assert stores[0] == stores[1]
