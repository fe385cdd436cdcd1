"""Three servers of one store under load: killed, cut off from each other, and promoted, again and again.

Eight clients send changes with idempotency keys (updates; now and then a task is registered, taught and deleted, an
update is rolled back, the store is consolidated, and with `--erase` rows are erased), each until it is answered, and
read through any server what they have seen. At the end every answer must be in the one history, once; the three stores
and an unkilled server that is sent the same changes in the same order must have the same digest; and a partitioned
leader must not have answered a change after its successor was promoted.

    python -m tests.durability.failover --rounds 300 --results docs/results/durability/failover.json
    python -m tests.durability.failover --rounds 20 --sync-followers 0      must lose some
    python -m tests.durability.failover --rounds 20 --any-read              reads without X-Min-Sequence: must go back

With `--cut` (needs root and iproute2) the servers run in network namespaces, and cables between them are pulled; the
clients reach every server throughout.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from demo.server_process import free_port
from experiments.report import machine, write_json
from superposed import MLPConfig, OptimizerConfig, TaskSchema, WeightStore, seeded_secret
from superposed.config import RehearsalConfig, StoreConfig
from superposed_service.changes.replay import recover
from superposed_service.changes.snapshot import begin
from superposed_service.changes.verify import verify
from superposed_service.followers.follower import seed
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Record, Shipment
from superposed_service.storage.shipping import unframed
from tests.durability.crash import ForkServer

CONFIG = StoreConfig(
    network=MLPConfig(inputs=8, hidden=(16,), outputs=3),
    optimizer=OptimizerConfig(learning_rate=1e-3),
    rehearsal=RehearsalConfig(rows_per_task=20),
)
SERVERS, TASKS = 3, "abcd"
SETTINGS = {"snapshots_kept": 3, "snapshot_records": 400, "history_records": 10_000_000, "canary_rows": 0}


class Loopback:
    """The servers on ports of this machine: they can be killed, and not be cut off."""

    def __init__(self) -> None:
        self.urls = self.peers = [f"http://127.0.0.1:{free_port()}" for _ in range(SERVERS)]
        self.inside: list[list[str]] = [[] for _ in self.urls]

    def cut(self, number: int, *, up: bool) -> None:
        raise NotImplementedError("pulling a cable needs --cut")

    def close(self) -> None:
        pass


class Namespaces(Loopback):
    """A network namespace a server, with one cable to the clients and one to the other servers."""

    def __init__(self) -> None:
        self.name = f"sp{os.getpid() % 10_000}"
        self.urls, self.peers = (
            [f"http://10.{net}.0.{number + 1}:8000" for number in range(SERVERS)] for net in (77, 78)
        )
        self.inside = [["ip", "netns", "exec", f"{self.name}-{number}"] for number in range(SERVERS)]
        for net in (77, 78):
            self.ip(f"link add {self.name}b{net} type bridge")
            self.ip(f"link set {self.name}b{net} up")
        self.ip(f"address add 10.77.0.254/24 dev {self.name}b77")
        for number in range(SERVERS):
            space = f"{self.name}-{number}"
            self.ip(f"netns add {space}")
            self.ip(f"-n {space} link set lo up")
            for net in (77, 78):
                cable = self.cable(number, net)
                self.ip(f"link add {cable} type veth peer name eth{net} netns {space}")
                self.ip(f"link set {cable} master {self.name}b{net} up")
                self.ip(f"-n {space} address add 10.{net}.0.{number + 1}/24 dev eth{net}")
                self.ip(f"-n {space} link set eth{net} up")

    def cable(self, number: int, net: int) -> str:
        return f"{self.name}v{net}{number}"

    @staticmethod
    def ip(command: str) -> None:
        subprocess.run(["ip", *command.split()], check=True)

    def cut(self, number: int, *, up: bool) -> None:
        self.ip(f"link set {self.cable(number, 78)} {'up' if up else 'down'}")

    def close(self) -> None:
        for number in range(SERVERS):
            self.ip(f"netns del {self.name}-{number}")
        for net in (77, 78):
            self.ip(f"link del {self.name}b{net}")


@dataclass
class Found:
    """Findings of a run."""

    rounds: int = 0
    kills: int = 0
    cuts: int = 0
    promotions: int = 0
    hand_overs: int = 0
    acknowledged: int = 0
    records: int = 0
    checked: int = 0
    reads: int = 0
    lost: int = 0
    twice: int = 0
    after_its_successor: int = 0
    reads_that_went_back: int = 0
    kept_aside: int = 0
    missed_by_the_shadow: int = 0
    digests_equal: bool = False
    reference_equal: bool = False
    without_writes_s: list[float] = field(default_factory=list)


@dataclass
class Asked:
    """A change that is sent until it is answered."""

    method: str
    path: str
    body: dict[str, Any] | None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


class Cluster:
    """The servers, each in a process of its own."""

    def __init__(self, folder: Path, network: Loopback, sync: int) -> None:
        self.network, self.sync = network, sync
        self.paths = [folder / f"server-{number}" for number in range(SERVERS)]
        self.http = [httpx.Client(base_url=url, verify=False, timeout=10) for url in network.urls]
        self.forks = [ForkServer(*inside) for inside in network.inside]
        self.pids = [0] * SERVERS
        store = WeightStore(CONFIG, secret=seeded_secret(1))
        for key in TASKS:
            store.register(TaskSchema(key=key, inputs=8, outputs=3))
        with DataDirectory(self.paths[0]) as directory:
            begin(directory, store)
            journal = directory.transaction_log().journal
            self.begins = (journal.sequence, journal.chain.hex())
        self.first = folder / "reference"
        shutil.copytree(self.paths[0], self.first)
        for number in range(SERVERS):
            if number:  # a namespace's servers see each other, and this process sees their other side
                with DataDirectory(self.paths[number]) as directory:
                    seed(directory, Settings(follow=network.urls[0]))
            self.start(number)

    def start(self, number: int) -> None:
        members = {"members": ",".join(self.network.peers), "sync_followers": self.sync}
        settings = SETTINGS | members | ({"follow": self.network.peers[0]} if number else {})
        self.pids[number] = self.forks[number].begin(self.paths[number], self.http[number], settings)
        wait(lambda: self.state(number) is not None, self.paths[number])

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(self.pids[number], how)
        self.forks[number].ask(wait=self.pids[number])

    def state(self, number: int) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.http[number].get("/v1/replication", timeout=5).raise_for_status().json()
        except httpx.HTTPError:
            return None
        return found

    def leader(self) -> int:
        """The leader of the newest epoch."""
        states = {number: state for number in range(SERVERS) if (state := self.state(number)) is not None}
        leading = [number for number, state in states.items() if state["role"] == "leader"]
        return max(leading, key=lambda number: states[number]["epoch"], default=-1)

    def close(self) -> None:
        for http in self.http:
            http.close()
        for forks in self.forks:
            forks.close()


def wait(condition: Any, path: Path) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, path.with_suffix(".log").read_text()[-3000:]
        time.sleep(0.02)


class Load:
    """Clients that send changes, and read what they have seen."""

    def __init__(self, cluster: Cluster, found: Found, *, fresh: bool, erases: bool) -> None:
        self.cluster, self.found, self.fresh, self.erases = cluster, found, fresh, erases
        self.answers: dict[int, Asked] = {}  # updates, by their records
        self.records: dict[int, Record] = {}
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.over: dict[int, float] = {}  # since when a server's successor leads
        self.count = itertools.count(1)
        self.threads: list[threading.Thread] = []
        self.newest = time.monotonic()

    def wait_for_the_shadow(self, taught: Asked) -> None:
        """Wait, at most a second, until `shadow` has an update whose rows are to be erased: it needs what it taught."""
        number = next(number for number, asked in reversed(self.answers.items()) if asked is taught)
        deadline = time.monotonic() + 1
        while number not in self.records and time.monotonic() < deadline:
            time.sleep(0.01)

    def collect(self, path: Path) -> None:
        """Read the journal of a server that is down."""
        with DataDirectory(path) as directory:
            journal = directory.transaction_log().journal
            self.records |= {record.sequence: record for record in journal.replay(journal.horizon)}

    def shadow(self, start: tuple[int, str]) -> None:
        """Take the records from the leader as a follower would, before rows are erased; one that counts for nothing."""
        places = [start]
        with contextlib.ExitStack() as stack:
            urls = self.cluster.network.urls
            http = [stack.enter_context(httpx.Client(base_url=url, verify=False, timeout=2)) for url in urls]
            for at in itertools.cycle(range(SERVERS)):
                if self.stopping.is_set():
                    return
                time.sleep(0.01)
                sequence, chain = places[-1]
                asked: dict[str, str | int] = {"sequence": sequence, "chain": chain, "epoch": 2**31}
                with contextlib.suppress(httpx.TransportError):
                    answer = http[at].get("/v1/replication/records", params=asked)
                    if answer.is_success:
                        shipment = Shipment.from_bytes(answer.content)
                        for number, (entry, _) in enumerate(shipment.changes, sequence + 1):
                            self.records[number] = Record(number, entry.kind, entry.head, entry.payload)
                        if shipment.changes:
                            places.append((sequence + len(shipment.changes), shipment.chain))
                    elif "erased" in answer.text:  # rows that it has, from before it went back
                        head, _ = unframed(http[at].get("/v1/replication/snapshot").content)
                        places.append((head["sequence"], head["chain"]))
                    elif answer.status_code in {409, 422} and len(places) > 1:
                        places.pop()  # of a leader whose last records its successor has not

    @contextlib.contextmanager
    def running(self, clients: int) -> Iterator[None]:
        self.stopping.clear()
        self.threads = [threading.Thread(target=self.client, args=(number,)) for number in range(clients)]
        self.threads.append(threading.Thread(target=self.shadow, args=(self.cluster.begins,)))
        for thread in self.threads:
            thread.start()
        try:
            yield
        finally:
            self.stopping.set()
            for thread in self.threads:
                thread.join()

    def client(self, number: int) -> None:
        draw, token, seen = random.Random(next(self.count)), "", 0
        with contextlib.ExitStack() as stack:
            http = [
                stack.enter_context(httpx.Client(base_url=url, verify=False, timeout=8))
                for url in self.cluster.network.urls
            ]
            while not self.stopping.is_set():
                for asked in self.changes(draw):
                    token, seen = self.send(http, asked, draw, token, seen)
                token, seen = self.read(draw.choice(http), draw, token, seen)

    def changes(self, draw: random.Random) -> Iterator[Asked]:
        """One update, or now and then the life of a task."""
        kind = draw.random()
        if kind > 0.03:
            yield self.update(draw, draw.choice(TASKS))
        elif kind > 0.02:
            yield Asked("POST", "/v1/consolidate", {"steps": 2})
        else:
            key = f"t{draw.randrange(10**9)}"
            yield Asked("POST", "/v1/tasks", {"key": key, "inputs": 8, "outputs": 3})
            yield (taught := self.update(draw, key))
            if kind > 0.01 or not self.erases:
                number = next(number for number, asked in reversed(self.answers.items()) if asked is taught)
                yield Asked("POST", "/v1/rollback", {"without": {"sequences": [number, number]}})
            else:
                self.wait_for_the_shadow(taught)
                yield Asked("DELETE", f"/v1/tasks/{key}/data", None)
            yield Asked("DELETE", f"/v1/tasks/{key}", None)

    @staticmethod
    def update(draw: random.Random, key: str) -> Asked:
        numbers = np.random.default_rng(draw.randrange(2**32))
        rows, targets = numbers.normal(size=(4, 8)), numbers.integers(0, 3, 4)
        return Asked("POST", "/v1/update", {"context": key, "inputs": rows.tolist(), "targets": targets.tolist()})

    def send(
        self, http: list[httpx.Client], asked: Asked, draw: random.Random, token: str, seen: int
    ) -> tuple[str, int]:
        """Send a change to one server after another until it is answered."""
        sent, at = 0, draw.randrange(SERVERS)
        while True:
            began, headers = time.monotonic(), {"Idempotency-Key": asked.key} | newer_than(token)
            try:
                answer = http[at].request(asked.method, asked.path, json=asked.body, headers=headers)
            except httpx.TransportError:
                answer = None
            if answer is not None and not again(answer):
                return self.answered(asked, answer, at, began, sent, token, seen)
            if answer is not None and is_lost(answer):
                token, seen = "", 0
            sent, at = sent + 1, (at + 1) % SERVERS
            if at == 0:
                time.sleep(0.05)

    def answered(
        self, asked: Asked, answer: httpx.Response, at: int, began: float, sent: int, token: str, seen: int
    ) -> tuple[str, int]:
        # Sent again, a deletion may find that it was done; rows may be erased, or older than a server's journal.
        rollback = asked.path == "/v1/rollback" and answer.status_code == 409
        assert answer.is_success or rollback or (sent and answer.status_code == 404), answer.text
        with self.lock:
            self.found.acknowledged += 1
            self.newest = time.monotonic()
            if answer.is_success and began > self.over.get(at, float("inf")):
                self.found.after_its_successor += 1
            if asked.path == "/v1/update":
                sequence = answer.json()["sequence"]
                if self.answers.setdefault(sequence, asked) is not asked:
                    self.found.twice += 1
                seen = max(seen, sequence)
        return answer.headers["x-sequence"] if answer.is_success else token, seen

    def read(self, http: httpx.Client, draw: random.Random, token: str, seen: int) -> tuple[str, int]:
        """Read through a server: what is answered must not be older than what this client has seen."""
        asked = {"context": draw.choice(TASKS), "inputs": [[0.0] * 8]}
        try:
            answer = http.post("/v1/infer", json=asked, headers=newer_than(token if self.fresh else ""))
        except httpx.TransportError:
            return token, seen
        if not answer.is_success:
            return ("", 0) if is_lost(answer) else (token, seen)
        sequence = answer.json()["sequence"]
        with self.lock:
            self.found.reads += 1
            self.found.reads_that_went_back += sequence < seen
        return answer.headers["x-sequence"], sequence


def newer_than(token: str) -> dict[str, str]:
    return {"X-Min-Sequence": token} if token else {}


def is_lost(answer: httpx.Response) -> bool:
    """True if a record that the client has seen is on no server any more: no follower had it."""
    return answer.status_code == 409 and "was lost" in answer.text


def again(answer: httpx.Response) -> bool:
    """True if a change is to be sent again: of the other answers those of a leader that is cut off are not fresh."""
    soon = answer.status_code == 409 and ("idempotency-in-flight" in answer.text or ":not-fresh" in answer.text)
    return soon or answer.status_code >= 500 or answer.status_code in {421, 429}


class Rounds:
    """Rounds of load; in each a server is killed or cut off, another promoted, and everything mended."""

    def __init__(self, cluster: Cluster, load: Load, draw: random.Random, *, cut: bool) -> None:
        self.cluster, self.load, self.draw, self.cut = cluster, load, draw, cut
        self.found = load.found

    def round(self) -> None:
        cluster, draw = self.cluster, self.draw
        wait(lambda: cluster.leader() >= 0, cluster.paths[0])
        leader = cluster.leader()
        victim = leader if draw.random() < 0.7 else draw.choice([n for n in range(SERVERS) if n != leader])
        how = draw.choice(["kill", "cut", "cut"]) if self.cut else draw.choice(["kill", "kill", "nothing"])
        time.sleep(draw.uniform(0.1, 0.6))
        if how == "kill":
            self.found.kills += 1
            cluster.kill(victim)
            self.load.collect(cluster.paths[victim])
        elif how == "cut":
            self.found.cuts += 1
            cluster.network.cut(victim, up=False)
        if victim == leader or draw.random() < 0.3:
            self.promote(leader, victim if how != "nothing" else -1)
        time.sleep(draw.uniform(0.0, 0.3))
        if how == "kill":
            cluster.start(victim)
        elif how == "cut":
            cluster.network.cut(victim, up=True)
        wait(self.settled, cluster.paths[victim])
        self.load.over.clear()
        self.found.rounds += 1

    def promote(self, leader: int, gone: int) -> None:
        before = self.load.newest
        reached = [number for number in range(SERVERS) if number not in (leader, gone)]
        body = {"allow_loss": self.cluster.sync == 0}
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self.cluster.http[self.draw.choice(reached)].post(
                    "/v1/replication/promote", json=body, timeout=30
                )
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                break
            assert time.monotonic() < deadline, answer and answer.text
            time.sleep(0.1)
        if self.cluster.leader() != leader:
            self.load.over[leader] = time.monotonic()
        self.found.promotions += 1
        self.found.hand_overs += gone != leader
        wait(lambda: self.load.newest > before and self.cluster.leader() >= 0, self.cluster.paths[leader])
        self.found.without_writes_s.append(round(self.load.newest - before, 3))

    def settled(self) -> bool:
        states = [self.cluster.state(number) for number in range(SERVERS)]
        roles = sorted(state["role"] for state in states if state is not None)
        epochs = {state["epoch"] for state in states if state is not None}
        return roles == ["follower", "follower", "leader"] and len(epochs) == 1


def level(cluster: Cluster) -> bool:
    """True if the servers are equally new."""
    states = [cluster.state(number) for number in range(SERVERS)]
    return all(states) and len({state["sequence"] for state in states if state}) == 1


def check(cluster: Cluster, load: Load) -> None:
    """Compare what the stopped servers hold with what was answered, and with an unkilled server."""
    found, digests, horizon = load.found, [], 2**63
    for path in cluster.paths:
        with DataDirectory(path) as directory:
            log = directory.transaction_log()
            digests.append((recover(directory.snapshots, log, "cpu")[0].digest(), log.journal.chain))
            found.kept_aside += len(list((path / "aside").glob("*")))
            assert not [one for one in verify(directory) if one.remedy is not None], path
            last, horizon = log.journal.sequence, min(horizon, log.journal.horizon)
        load.collect(path)
    found.digests_equal = len(set(digests)) == 1
    # What no server holds any more (an erasure trims journals) was read on the way, a leader's lost tail too.
    records = [load.records[number] for number in range(len(TASKS) + 1, last + 1) if number in load.records]
    found.missed_by_the_shadow = last - len(TASKS) - len(records)
    found.records = len(records)
    held = [record for record in records if record.sequence > horizon]
    found.checked = len(held)
    known = {record.sequence: record.head.get("context") for record in held}
    for number, asked in load.answers.items():
        found.lost += number > horizon and known.get(number) != asked.body["context"]  # type: ignore[index]
    found.twice += sum(record.kind == "update" and record.sequence not in load.answers for record in held)
    if not (found.lost or found.twice or found.missed_by_the_shadow):
        found.reference_equal = reference(cluster, load, records) == digests[0][0]


def reference(cluster: Cluster, load: Load, records: list[Record]) -> str:
    """The digest of one server that is sent the same changes in the same order."""
    url = f"http://127.0.0.1:{free_port()}"
    forks = ForkServer()
    with httpx.Client(base_url=url, verify=False, timeout=60) as http:
        pid = forks.start(cluster.first, http, SETTINGS)
        for record in records:
            asked = request_of(record, load)
            if asked is not None:
                answer = http.request(asked.method, asked.path, json=asked.body)
                assert answer.is_success or answer.status_code == 422, answer.text
        os.kill(pid, signal.SIGTERM)
        forks.ask(wait=pid)
    forks.close()
    with DataDirectory(cluster.first) as directory:
        return recover(directory.snapshots, directory.transaction_log(), "cpu")[0].digest()


def request_of(record: Record, load: Load) -> Asked | None:
    """The request that makes a record."""
    head = record.head
    if record.kind == "update":
        return load.answers.get(record.sequence) or Asked("POST", "/v1/update", None)
    if record.kind == "register":
        return Asked("POST", "/v1/tasks", {"key": head["schema"]["key"], "inputs": 8, "outputs": 3})
    if record.kind == "delete":
        return Asked("DELETE", f"/v1/tasks/{head['key']}", None)
    if record.kind == "forget-rows":
        return Asked("DELETE", f"/v1/tasks/{head['key']}/data", None)
    if record.kind == "consolidate":
        return Asked("POST", "/v1/consolidate", {"steps": head["steps"]})
    if record.kind == "rollback":
        return Asked("POST", "/v1/rollback", {"without": {"sequences": head["excluded"][0]}})
    if record.kind == "epoch":
        return Asked("POST", "/v1/replication/promote", {})
    assert record.kind == "refusal", record.kind
    return None


def run(
    folder: Path,
    rounds: int,
    *,
    sync: int = 1,
    cut: bool = False,
    fresh: bool = True,
    erases: bool = False,
    clients: int = 8,
) -> Found:
    network = Namespaces() if cut else Loopback()
    found = Found()
    try:
        cluster = Cluster(folder, network, sync)
        try:
            load = Load(cluster, found, fresh=fresh, erases=erases)
            acts = Rounds(cluster, load, random.Random(0), cut=cut)
            wait(acts.settled, cluster.paths[0])
            with load.running(clients):
                for number in range(rounds):
                    acts.round()
                    if number % 10 == 9:
                        print(json.dumps(asdict(found) | {"without_writes_s": []}), flush=True)
            wait(lambda: level(cluster), cluster.paths[0])
            for number in range(SERVERS):
                cluster.kill(number, signal.SIGTERM)
        finally:
            cluster.close()
        check(cluster, load)
    finally:
        network.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--sync-followers", type=int, default=1)
    parser.add_argument("--cut", action="store_true", help="run in network namespaces, and pull cables")
    parser.add_argument("--erase", action="store_true", help="erase rows too: less is checked, as journals are trimmed")
    parser.add_argument("--any-read", action="store_true", help="read without X-Min-Sequence")
    parser.add_argument("--folder", type=Path, help="keep the directories and logs here")
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = asked.folder or Path(folder)
        how = {"sync": asked.sync_followers, "cut": asked.cut, "fresh": not asked.any_read, "erases": asked.erase}
        found = run(kept, asked.rounds, **how)
    shown = np.percentile(found.without_writes_s or [0.0], (50, 99)).round(3).tolist()
    known = asdict(found) | {"without_writes_s": dict(zip(("median", "p99"), shown, strict=True))}
    print(json.dumps(known, indent=1))
    if asked.results:
        write_json(asked.results, {"machine": machine(), "sync_followers": asked.sync_followers, **known})


if __name__ == "__main__":
    main()
