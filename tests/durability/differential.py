"""Kill servers of every kind under random work, and compare each with a store that was never killed.

Several clients register, teach, delete, add labels, correct labels, consolidate, roll back and take snapshots
at random; others infer. Tasks have class indexes, labels that grow, or records; rows have weights and running
statistics scale them. The server is killed at random moments while it serves and while it starts. What is not
answered is sent again with its idempotency key, and some of what was answered too. In the end every
acknowledged request must have exactly one place in the journal, and a store that makes the same requests in
that order, without any crash, must have the same digest.

    python -m tests.durability.differential --minutes 60 --results docs/results/durability/differential.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from demo.server_process import free_port
from experiments.plain import plain_config
from experiments.report import machine as this_machine
from experiments.report import write_json
from superposed import MLPConfig, OptimizerConfig, StoreConfig, WeightStore, seeded_secret
from superposed.config import ModuleConfig, RehearsalConfig
from superposed.errors import SuperposedError
from superposed_service.api.v1.schemas import TaskRegistration
from superposed_service.api.v1.serializers import task_schema
from superposed_service.changes.base import Change, PreparedChange
from superposed_service.changes.registration import Alter, Delete, Register
from superposed_service.changes.rehearsal import Consolidate
from superposed_service.changes.replay import read_store
from superposed_service.changes.rollback import Relabel, RollbackChange, Selection
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.snapshot import begin
from superposed_service.changes.update import Update
from superposed_service.engine.work import PendingWrite
from superposed_service.storage import DataDirectory
from superposed_service.storage.idempotency import IdempotencyKey
from tests.durability.crash import ForkServer
from tests.helpers.machine import Machine, commit

FAMILIES = ("phase", "binary", "complex", "cyclic", "rotation")
INPUTS, OUTPUTS = 9, 3
KEYS = [f"t{number}" for number in range(7)]
# Tasks whose labels grow, and one that takes records; the others have class indexes.
LABELLED, RECORDS, LABELS = ("t4", "t5"), "t6", ["p", "q", "r"]
# The detector would add records of its own; snapshots and trimming happen within a round.
SETTINGS = {"canary_rows": 0, "snapshots_kept": 3, "history_records": 60, "snapshot_records": 40}
CLIENTS, ROUNDS = 3, 8


def configurations() -> Iterator[tuple[str, StoreConfig]]:
    """Every family, with rehearsal and without, odd and even widths, wrapped networks, for ever."""
    optimizers = ("rmsprop", "adam", "sgd")
    kept = {
        "none": RehearsalConfig(),
        "labels": RehearsalConfig(rows_per_task=15, ratio=0.7),
        "logits": RehearsalConfig(rows_per_task=15, ratio=1.5, own_ratio=0.6, least_rows=4, logit_share=0.5),
    }
    for number in count():
        for family, (how, rehearsal) in product(FAMILIES, kept.items()):
            widths = (12, 8) if number % 2 else (13, 8)
            network: Any = MLPConfig(
                inputs=INPUTS,
                hidden=widths,
                outputs=OUTPUTS,
                expansion=1 if family == "rotation" else (3, 1)[number % 2],
            )
            name = f"{family}, {how}"
            if number % 3 == 2 and family != "complex":
                factory = "tests.durability.differential:wrapped"
                network = ModuleConfig(factory=factory, input_shape=(1, 3, 3), outputs=OUTPUTS)
                name += ", wrapped"
            optimizer = OptimizerConfig(name=optimizers[number % 3], learning_rate=1e-3)
            yield name, plain_config(network=network, family=family, optimizer=optimizer, rehearsal=rehearsal)


def wrapped() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 2), torch.nn.SiLU(), torch.nn.Flatten(),
        torch.nn.Linear(12, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, OUTPUTS),
    )  # fmt: skip


@dataclass
class Sent:
    """One request that changes something, and its answer once there is one."""

    kind: str
    path: str
    body: dict[str, Any]
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    status: int = 0
    answer: Any = None


class Work:
    """Draws requests. Any thread."""

    def __init__(self, seed: int, family: str) -> None:
        self.random, self.family = random.Random(seed), family
        self.lock = threading.Lock()
        self.newest = 0
        self.taught: list[tuple[int, list[Any]]] = []

    def next(self) -> Sent:
        with self.lock:
            kinds = {
                self.update: 24,
                self.register: 4,
                self.delete: 1,
                self.roll_back: 1,
                self.consolidate: 1,
                self.add_label: 1,
                self.relabel: 1,
            }
            [draw] = self.random.choices(list(kinds), list(kinds.values()))
            return draw()

    def context(self) -> str:
        first, second = self.random.sample(KEYS, 2)
        share = self.random.choice([0.25, 0.5, 0.9])
        forms = [first] * 3 + [f"mix({first}:{share},{second}:{1 - share})"]
        powers = [] if self.family == "binary" else [f"{first}^{self.random.choice([0.5, 1.5])}"]
        return self.random.choice(forms + powers)

    def rows(self, number: int) -> list[list[float]]:
        seed, scale = self.random.getrandbits(32), 1e30 if self.random.random() < 0.02 else 1.0
        rows: list[list[float]] = (np.random.default_rng(seed).normal(size=(number, INPUTS)) * scale).tolist()
        return rows

    def update(self) -> Sent:
        number = self.random.choice([1, 1, 3, 6])
        body: dict[str, Any] = {"inputs": self.rows(number), "steps": self.random.choice([1, 1, 2])}
        body["targets"] = [self.random.randrange(OUTPUTS) for _ in range(number)]
        if self.random.random() < 0.3:
            body["sample_weight"] = [self.random.choice([0.5, 1.0, 2.0]) for _ in range(number)]
        if self.random.random() < 0.3:
            return Sent("update", "/v1/update", body | {"contexts": [self.context() for _ in range(number)]})
        context = self.context()
        if context in LABELLED:
            body["targets"] = [self.random.choice(LABELS) for _ in range(number)]
            body["grow_labels"] = self.random.random() < 0.5
        elif context == RECORDS:
            body["records"] = [self.record() for _ in body.pop("inputs")]
        return Sent("update", "/v1/update", body | {"context": context})

    def record(self) -> dict[str, Any]:
        holes, place = self.random.random(), self.random.choice(["Oslo", "Rome", "Łódź", "Lima"])
        return {
            "age": None if holes < 0.2 else self.random.gauss(40, 12),
            "place": None if holes > 0.9 else place,
            "since": f"2026-0{self.random.randrange(1, 9)}-11",
        }

    def add_label(self) -> Sent:
        body = {"add_labels": [self.random.choice(LABELS)]}
        return Sent("alter", f"/v1/tasks/{self.random.choice(LABELLED)}", body)

    def relabel(self) -> Sent:
        if not self.taught:
            return self.update()
        sequence, targets = self.random.choice(self.taught[-20:])
        changed: list[Any] = list(targets)
        changed[self.random.randrange(len(changed))] = None
        self.random.shuffle(changed)
        return Sent("relabel", f"/v1/updates/{sequence}/relabel", {"targets": changed})

    def register(self) -> Sent:
        key, group, other = self.random.sample(KEYS, 3)
        body: dict[str, Any] = {"key": key, "outputs": OUTPUTS, "inputs": INPUTS}
        if key in LABELLED:
            body = {"key": key, "labels": LABELS[:2], "inputs": INPUTS}
        elif key == RECORDS:
            body["kind"] = "records"
        elif self.random.random() < 0.3:
            body["scaling"] = "none"
        form = self.random.random()
        if form < 0.25:
            body["group"] = group
        elif form < 0.4:
            body["composition"] = f"mix({group}:0.5,{other}:0.5)"
        elif form < 0.5:
            body["keep_rows"] = False
        return Sent("register", "/v1/tasks", body)

    def delete(self) -> Sent:
        return Sent("delete", f"/v1/tasks/{self.random.choice(KEYS)}", {})

    def roll_back(self) -> Sent:
        first = max(1, self.newest - self.random.randrange(40))
        forms: list[dict[str, Any]] = [
            {"to_sequence": first},
            {"without": {"task": self.random.choice(KEYS)}},
            {"without": {"sequences": [first, first + self.random.randrange(5)]}},
        ]
        return Sent("rollback", "/v1/rollback", self.random.choice(forms))

    def consolidate(self) -> Sent:
        return Sent("consolidate", "/v1/consolidate", {"steps": self.random.randrange(1, 4)})


@dataclass
class Outcome:
    """The outcome of a run.

    `other_decisions` counts consolidations that the reference would have decided otherwise. That is no fault:
    a decision rests on inference, which may round otherwise in a near tie, so it stands in the record.
    """

    configurations: Counter[str] = field(default_factory=Counter)
    kills_serving: int = 0
    kills_starting: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    sent_again: int = 0
    inferences: int = 0
    records: int = 0
    lost: int = 0
    applied_twice: int = 0
    other_answers: int = 0
    other_digests: int = 0
    other_decisions: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.applied_twice or self.other_answers or self.other_digests or self.failures)


class Campaign:
    """One configuration: rounds of work that end by kills, then the comparison."""

    def __init__(self, path: Path, config: StoreConfig, seed: int, outcome: Outcome) -> None:
        self.path, self.config, self.outcome = path, config, outcome
        self.work, self.random = Work(seed, config.family), random.Random(seed + 1)
        self.port = free_port()
        limits = httpx.Limits(max_connections=None)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, verify=False, limits=limits)
        self.log: list[Sent] = []
        self.pending: list[Sent] = []
        self.lock = threading.Lock()

    def store(self) -> WeightStore:
        return WeightStore(self.config, secret=seeded_secret(3))

    def run(self, forks: ForkServer) -> None:
        with DataDirectory(self.path) as directory:
            begin(directory, self.store())
        try:
            for _ in range(ROUNDS):
                self.round(forks)
            pid = self.start(forks)
            self.settle()
            os.kill(pid, signal.SIGTERM)
            forks.ask(wait=pid)
        finally:
            self.http.close()
        self.compare()

    def start(self, forks: ForkServer) -> int:
        while self.random.random() < 0.4:  # killed while it starts
            pid = forks.ask(serve=str(self.path), host="127.0.0.1", port=self.port, settings=SETTINGS)
            time.sleep(self.random.uniform(0, 0.25))
            os.kill(pid, signal.SIGKILL)
            forks.ask(wait=pid)
            self.outcome.kills_starting += 1
        return forks.start(self.path, self.http, SETTINGS)

    def round(self, forks: ForkServer) -> None:
        pid = self.start(forks)
        self.settle()
        stop = threading.Event()
        work: list[Callable[[threading.Event], None]] = [self.change] * CLIENTS
        threads = [threading.Thread(target=one, args=(stop,)) for one in [*work, self.infer, self.snapshot]]
        for thread in threads:
            thread.start()
        time.sleep(self.random.uniform(0.1, 1.5))
        os.kill(pid, signal.SIGKILL)
        forks.ask(wait=pid)
        stop.set()
        for thread in threads:
            thread.join()
        self.outcome.kills_serving += 1

    def send(self, sent: Sent) -> bool:
        """Send a request; one without an answer is pending.

        Returns:
            Whether it was answered.
        """
        method = {"delete": "DELETE", "alter": "PATCH"}.get(sent.kind, "POST")
        try:
            answer = self.http.request(method, sent.path, json=sent.body or None, headers={"Idempotency-Key": sent.key})
        except httpx.TransportError:
            answer = None
        if answer is None or (answer.status_code in {429, 503, 504, 409} and b"in-flight" in answer.content):
            with self.lock:
                self.pending.append(sent)
            return False
        body = answer.json() if answer.content else None
        other = sent.status and (sent.status, sent.answer) != (answer.status_code, body)
        if other and is_recorded(sent):  # any other request is judged anew
            self.outcome.other_answers += 1
            self.outcome.failures.append(f"again {sent}: {answer.status_code} {body}")
        sent.status, sent.answer = answer.status_code, body
        return True

    def change(self, stop: threading.Event) -> None:
        while not stop.is_set():
            sent = self.work.next()
            with self.lock:
                self.log.append(sent)
            if self.send(sent) and sent.status < 300 and isinstance(sent.answer, dict):
                self.work.newest = max(self.work.newest, int(sent.answer.get("sequence", 0)))
                if sent.kind in {"update", "relabel"}:
                    self.work.taught.append((sent.answer["sequence"], sent.body["targets"]))

    def infer(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self.work.lock:
                body = {"contexts": [self.work.context() for _ in range(3)], "inputs": self.work.rows(3)}
            try:
                self.outcome.inferences += self.http.post("/v1/infer", json=body).status_code == 200
            except httpx.TransportError:
                return

    def snapshot(self, stop: threading.Event) -> None:
        while not stop.wait(self.random.uniform(0, 0.4)):
            try:
                self.http.post("/v1/snapshots")
            except httpx.TransportError:
                return

    def settle(self) -> None:
        """Send again what was not answered, and a little of what was."""
        waiting, self.pending = self.pending, []
        answered = [sent for sent in self.log[-200:] if 0 < sent.status < 300]
        for sent in [*waiting, *self.random.sample(answered, min(5, len(answered)))]:
            self.outcome.sent_again += 1
            deadline = time.monotonic() + 60
            while not self.send(sent):
                self.pending.remove(sent)
                assert time.monotonic() < deadline, "no answer after a restart"
                time.sleep(0.05)

    def compare(self) -> None:
        with DataDirectory(self.path) as directory:
            kept = directory.transaction_log().answers._kept
            places = {key: one.sequence for key, one in kept.items()}
            newest = directory.snapshots.list()[-1]
            store = read_store(directory.snapshots, newest, "cpu")
            heads = directory.transaction_log().journal.heads({Consolidate.kind})
            self.decisions = {sequence: head["answer"] for sequence, _, head in heads}
        by_sequence: dict[int, Sent] = {}
        for sent in self.log:
            self.outcome.requests[f"{sent.kind} {sent.status}"] += 1
            if sent.status == 500:
                self.outcome.failures.append(str(sent))
            name = f"{sent.key} 0" if sent.kind == "consolidate" else sent.key
            place = places.get(name)
            self.outcome.lost += is_recorded(sent) and place is None
            if place is not None:
                self.outcome.applied_twice += place in by_sequence
                by_sequence[place] = sent
                if isinstance(sent.answer, dict) and sent.status == 200:
                    said = sent.answer.get("sequence", sent.answer.get("last_sequence"))
                    if said != place:
                        self.outcome.other_answers += 1
                        self.outcome.failures.append(f"at {place}: {sent}")
        self.reference(by_sequence, store)

    def reference(self, by_sequence: dict[int, Sent], store: WeightStore) -> None:
        """Make the same requests in their order on a store that nothing happens to."""
        machine = Machine(self.path.with_name("reference"), config=self.config, canary_rows=0, history_records=10**9)
        try:
            writes = self.make_again(by_sequence, machine)
            for sequence, write in writes.items():
                refused = isinstance(write.future.exception(), SuperposedError)
                if refused != (by_sequence[sequence].status in {413, 422}):
                    self.outcome.other_answers += 1
                    self.outcome.failures.append(f"{by_sequence[sequence]}: {write.future.exception()}")
            self.outcome.records += machine.store.sequence
            self.outcome.lost += max(0, machine.store.sequence - store.sequence)
            self.outcome.applied_twice += max(0, store.sequence - machine.store.sequence)
            if machine.store.digest() != store.digest():
                self.outcome.other_digests += 1
                self.outcome.failures.append(f"{self.config.family}: {differences(store, machine.store)}")
                kept = Path(tempfile.mkdtemp(prefix="superposed-differential-"))
                shutil.copytree(self.path.parent, kept, dirs_exist_ok=True)
                (kept / "log.json").write_text(json.dumps([vars(sent) for sent in self.log], default=str))
        finally:
            machine.close()

    def make_again(self, by_sequence: dict[int, Sent], machine: Machine) -> dict[int, PendingWrite]:
        """Commit and apply the requests in their places.

        A place without a request is the record that refuses an update before it: which updates had been
        committed by then follows from the places.
        """
        writer, writes = machine.writer, dict[int, PendingWrite]()
        while writer.pending or writer.transaction_log.journal.sequence < max(by_sequence, default=0):
            place = writer.transaction_log.journal.sequence + 1
            sent = by_sequence.get(place)
            if sent is None or not writer.may_begin(is_grouped(sent)):
                if not writer.pending:
                    self.outcome.applied_twice += 1  # nobody's record
                    self.outcome.failures.append(self.around(by_sequence, place - 1))
                    break
                writer.apply_next()
                continue
            change = self.change_of(sent, machine)
            if place in self.decisions:
                change = self.decided(change, place, machine.store)
            writes[place] = PendingWrite(change, IdempotencyKey(sent.key, b"0" * 32))
            commit(writer, [writes[place]])
            if writer.transaction_log.journal.sequence != place:
                self.outcome.other_answers += 1  # it is judged otherwise than on the server
                self.outcome.failures.append(self.around(by_sequence, place - 1))
                break
            if place % 150 == 0 and not writer.pending:
                machine.snapshot()
        return writes

    def around(self, by_sequence: dict[int, Sent], sequence: int) -> str:
        """List the journal's records and the requests around the first difference from the reference."""
        with DataDirectory(self.path) as directory:
            journal = directory.transaction_log().journal
            after = max(journal.horizon, sequence - 6)
            records = [(one.sequence, one.kind, one.head.get("sequence")) for one in journal.summaries(after, 16)]
        near = {number: by_sequence.get(number) for number in range(sequence - 5, sequence + 10)}
        asked = {number: (one.kind, one.status) for number, one in near.items() if one is not None}
        return f"{self.config.family}: the reference is at {sequence}; journal {records}; requests {asked}"

    def decided(self, change: Change, place: int, store: WeightStore) -> Change:
        """Give a consolidation the decision of its record, as a replay does."""
        decision = self.decisions[place]
        prepared = change.prepare(store)
        assert isinstance(prepared, PreparedChange)
        head = prepared.entry().head
        self.outcome.other_decisions += head["answer"]["accepted"] != decision["accepted"]
        return Consolidate(head["steps"], decision)

    def change_of(self, sent: Sent, machine: Machine) -> Change:
        body = sent.body
        if sent.kind == "register":
            return Register(partial(task_schema, TaskRegistration(**body), 10**6))
        if sent.kind == "delete":
            return Delete(sent.path.rpartition("/")[2])
        if sent.kind == "consolidate":
            return Consolidate(body["steps"])
        if sent.kind == "rollback":
            chosen = body.get("without", body)
            chosen = {name: tuple(one) if isinstance(one, list) else one for name, one in chosen.items()}
            return RollbackChange(Selection(**chosen), machine.directory.snapshots, machine.writer.transaction_log)
        if sent.kind == "alter":
            return Alter(sent.path.rpartition("/")[2], add_labels=body["add_labels"])
        if sent.kind == "relabel":
            log = machine.writer.transaction_log
            return Relabel(int(sent.path.split("/")[3]), body["targets"], machine.directory.snapshots, log)
        rows = RowBatch(body.get("context"), body.get("contexts"), body.get("inputs", body.get("records")))
        more = {"grow_labels": body.get("grow_labels", False), "weights": body.get("sample_weight")}
        return Update(rows, body["targets"], body["steps"], **more)


def differences(one: WeightStore, other: WeightStore) -> list[str]:
    """List the tensors and the facts of the registry in which two stores differ."""
    mine, theirs = (store.state() | store.replay_buffer.state() | store._learned_tensors() for store in (one, other))
    found = [name for name in mine.keys() | theirs.keys() if name not in mine or name not in theirs]
    found += [
        f"{name}: {int((mine[name] != theirs[name]).sum())} of {mine[name].numel()}"
        for name in sorted(mine.keys() & theirs.keys())
        if mine[name].shape != theirs[name].shape or not torch.equal(mine[name], theirs[name])
    ]
    facts = [json.dumps(store.tasks.to_json(), sort_keys=True) for store in (one, other)]
    if facts[0] != facts[1]:
        at = next(place for place, pair in enumerate(zip(*facts, strict=False)) if pair[0] != pair[1])
        found += [text[max(0, at - 200) : at + 100] for text in facts]
    return found


def is_grouped(sent: Sent) -> bool:
    """Tell if a request may be prepared before those that wait are applied."""
    return sent.kind == "update" and not sent.body.get("grow_labels")


def is_recorded(sent: Sent) -> bool:
    """Tell if a request was acknowledged and changed something, so that it must be in the journal."""
    if not 0 < sent.status < 300:
        return False
    if sent.kind == "register":
        return sent.status == 201  # 200: it was there already
    if sent.kind == "alter":
        return False  # labels that were all there change nothing, and the answer does not tell
    return sent.kind != "rollback" or bool(sent.answer["excluded"])


def run(minutes: float, seed: int, results: Path | None, *, at_least: int = 0) -> Outcome:
    """Go through configurations until the time is over, each to its end."""
    outcome, until = Outcome(), time.monotonic() + 60 * minutes
    forks = ForkServer()
    try:
        for number, (name, config) in enumerate(configurations()):
            if time.monotonic() > until and number >= at_least:
                break
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "store"
                try:
                    Campaign(path, config, seed + number, outcome).run(forks)
                except Exception:  # noqa: BLE001 - a finding, like the others
                    log = path.with_suffix(".log")
                    said = log.read_text()[-2000:] if log.exists() else ""
                    outcome.failures.append(f"{name}, seed {seed + number}: {traceback.format_exc()} {said}")
            outcome.configurations[name] += 1
            if results is not None:
                facts = {"machine": this_machine(), "minutes": minutes, "seed": seed}
                write_json(results, facts | vars(outcome))
    finally:
        forks.close()
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = run(asked.minutes, asked.seed, asked.results)
    print("good" if found.good else "NOT GOOD", vars(found))
