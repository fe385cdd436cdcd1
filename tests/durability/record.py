"""Record small data directories of this release, which every later release must open.

A recording is a compressed archive of a data directory, and the answers that its server gave to probes
just before it ended. Only the command line and the HTTP API are used, so that the script outlives the
layout of the code.

    python -m tests.durability.record tests/durability/recorded/0.1.0
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
RUN = (sys.executable, "-c", "from importlib.metadata import entry_points; "
       "[one] = entry_points(group='console_scripts', name='superposed'); one.load()()")  # fmt: skip
SMALL = ["--inputs", "6", "--hidden", "9,7", "--outputs", "3", "--learning-rate", "1e-2", "--seed", "5"]
WRAPPED = ["--module", "tests.durability.record:wrapped"]
TEXTS = ["my card is lost", "the train is late", "a new card please"]
RECORDS = [{"age": 41, "plan": "pro"}, {"age": 29, "plan": "free"}, {"age": None, "plan": "pro"}]
REHEARSAL = ["--set", "rehearsal.rows_per_task=12", "--set", "rehearsal.ratio=1.5"]


def wrapped() -> nn.Module:
    """Build a small network with a convolution and a shared normalisation; recordings name this function."""
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.LayerNorm(18), nn.Linear(18, 3))


@dataclass
class Recorded:
    """A server whose directory is recorded, and its exit status once it has ended."""

    http: httpx.Client
    status: int | None = None
    labels: dict[str, list[str]] = field(default_factory=dict)  # of tasks that have them

    def send(self, method: str, path: str, status: int = 200, **body: Any) -> Any:
        headers = {} if method == "GET" else {"Idempotency-Key": uuid.uuid4().hex}
        answer = self.http.request(method, path, json=body or None, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    def register(self, key: str, **schema: Any) -> None:
        schema = {"outputs": 3, "inputs": 6} | schema
        self.labels |= {key: schema["labels"]} if "labels" in schema else {}
        self.send("POST", "/v1/tasks", 201, key=key, **schema)

    def teach(self, context: Any, seed: int, *, status: int = 200, loss: str = "cross_entropy", **more: Any) -> Any:
        draw = np.random.default_rng(seed)
        rows, wide = draw.normal(size=(4, 6)), isinstance(context, list)
        targets = (rows[:, :1] * 2 if loss == "mse" else rows[:, :3].argmax(1)).tolist()
        named = {"contexts": context} if wide else {"context": context}
        if not wide and context in self.labels:
            targets = [self.labels[context][number] for number in targets]
        return self.send("POST", "/v1/update", status, inputs=rows.tolist(), targets=targets, **named, **more)

    def probes(self, contexts: list[str]) -> list[dict[str, Any]]:
        rows = np.random.default_rng(0).normal(size=(3, 6)).tolist()
        found = []
        for context in contexts:
            own = {"mail": {"texts": TEXTS}, "customers": {"records": RECORDS}}.get(context, {"inputs": rows})
            body = {"context": context, **own, "return": ["logits"]}
            found.append(body | {"logits": self.send("POST", "/v1/infer", **body)["logits"]})
        return found


def clean(server: Recorded) -> list[str]:
    server.register("digits", labels=["zero", "one", "two"], outputs=3)
    server.register("scaled", offset=[0.5] * 6, scale=[2.0] * 6)
    server.register("number", loss="mse", outputs=1)
    for seed in range(6):
        server.teach("digits", seed)
        server.teach("scaled", seed, steps=2)
        server.teach("number", seed, loss="mse")
    server.register("gone")
    server.teach("gone", 1)
    server.send("DELETE", "/v1/tasks/gone", 204)
    server.register("gone")
    server.teach("gone", 2)
    return ["digits", "scaled", "number", "gone"]


def killed(server: Recorded) -> list[str]:
    found = clean(server)
    server.send("POST", "/v1/snapshots")
    for seed in range(6, 12):
        server.teach("digits", seed)
    server.register("late")
    server.teach("late", 1)
    return [*found, "late"]


def rolled_back(server: Recorded) -> list[str]:
    found = clean(server)
    server.send("POST", "/v1/rollback", without={"task": "scaled"})
    server.teach("digits", 20)
    server.send("POST", "/v1/rollback", to_sequence=12)
    server.teach("digits", 21)
    return found[:3]


def quarantined(server: Recorded) -> list[str]:
    found = clean(server)
    for source in ("digits", "scaled"):
        server.send("POST", "/v1/quarantine", source=source, reason="a test")
    server.teach("digits", 30, status=423)
    server.send("DELETE", "/v1/quarantine/scaled", 204)
    server.teach("scaled", 31)
    return found


def rehearsing(server: Recorded) -> list[str]:
    found = clean(server)
    for seed in range(40, 50):
        server.teach(found[seed % 2], seed)
    server.send("POST", "/v1/consolidate", steps=4)
    server.teach("number", 50, loss="mse")
    return found


def erased(server: Recorded) -> list[str]:
    found = rehearsing(server)
    server.send("DELETE", "/v1/tasks/digits/data")
    server.teach("scaled", 60)
    return found


def grouped(server: Recorded) -> list[str]:
    server.register("support")
    server.register("first", group="support")
    server.register("second", group="support", own_layers=1)
    for seed in range(5):
        for key in ("support", "first", "second"):
            server.teach(key, seed)
    server.register("third", group="support")
    return ["support", "first", "second", "third"]


def composed(server: Recorded) -> list[str]:
    for key in "abc":
        server.register(key)
    for seed in range(4):
        server.teach("mix(a:0.7,b:0.3)", seed)
        server.teach("c^1.5", seed)
        server.teach(["a", "b", "c", "mix(a:0.5,c:0.5)"], seed)
    server.register("both", composition="mix(a:0.5,b:0.5)")
    server.teach("both", 9)
    return ["a", "b", "c", "both", "mix(a:0.25,b:0.75)", "c^0.5"]


def unrelated(server: Recorded) -> list[str]:
    for key in "abc":
        server.register(key)
        for seed in range(5):
            server.teach(key, seed)
    return ["a", "b", "c", "mix(a:0.5,b:0.5)"]


def originals(server: Recorded) -> list[str]:
    found = clean(server)
    schema = {"kind": "texts", "labels": ["card", "train"], "abstain": 0.05}
    server.send("POST", "/v1/tasks", 201, key="mail", **schema)
    server.send("POST", "/v1/tasks", 201, key="customers", kind="records", labels=["stays", "leaves"])
    for number in range(8):
        taught = server.send("POST", "/v1/update", context="mail", texts=TEXTS, targets=["card", "train", "card"])
        targets = ["stays", "leaves", "leaves"] if number % 2 else ["stays", "leaves", "stays"]
        server.send("POST", "/v1/update", context="customers", records=RECORDS, targets=targets)
    server.send("POST", f"/v1/updates/{taught['sequence']}/relabel", targets=[None, None, "train"])
    server.send("PATCH", "/v1/tasks/mail", add_labels=["other"])
    new = {"context": "mail", "texts": TEXTS[:1], "targets": ["plane"], "grow_labels": True}
    server.send("POST", "/v1/update", **new)
    server.send("POST", "/v1/evaluate", context="customers", records=RECORDS, targets=["stays", "leaves", "stays"])
    return [*found, "mail", "customers"]


# name -> how the store is made, what is done to it, and how its server ends
RECORDINGS: dict[str, tuple[list[str], Callable[[Recorded], list[str]], signal.Signals]] = {
    "clean": (SMALL, clean, signal.SIGTERM),
    "killed": (SMALL, killed, signal.SIGKILL),
    "keyed": (SMALL, killed, signal.SIGKILL),
    "rolled-back": (SMALL, rolled_back, signal.SIGKILL),
    "quarantined": (SMALL, quarantined, signal.SIGKILL),
    "rehearsing": ([*SMALL, *REHEARSAL], rehearsing, signal.SIGKILL),
    "rehearsing-logits": (
        [*SMALL, *REHEARSAL, "--set", "rehearsal.logit_share=0.5"],
        rehearsing,
        signal.SIGKILL,
    ),
    "erased": ([*SMALL, *REHEARSAL], erased, signal.SIGKILL),
    "grouped": ([*SMALL, *REHEARSAL], grouped, signal.SIGKILL),
    "composed": ([*SMALL, *REHEARSAL], composed, signal.SIGKILL),
    "rotation": ([*SMALL, "--family", "rotation"], unrelated, signal.SIGKILL),
    "complex": ([*SMALL, "--family", "complex"], composed, signal.SIGKILL),
    "cyclic": ([*SMALL, "--family", "cyclic"], composed, signal.SIGKILL),
    "binary": ([*SMALL, "--family", "binary", "--optimizer", "adam"], unrelated, signal.SIGKILL),
    "originals": ([*SMALL, "--outputs", "5", *REHEARSAL, "--encoder", "texts=hash:6"], originals, signal.SIGKILL),
    "wrapped": (
        [*WRAPPED, "--input-shape", "1,2,3", "--outputs", "3", "--seed", "5"],
        unrelated,
        signal.SIGKILL,
    ),
}  # fmt: skip


@contextmanager
def running(path: Path, ending: signal.Signals, api_key: str | None = None) -> Iterator[Recorded]:
    """`superposed serve` on a directory, ended by a signal and waited for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = path.with_suffix(".log")
    environment = os.environ | {"SUPERPOSED_THREADS": "1"}
    with log.open("ab") as output:
        command = [*RUN, "serve", str(path), "--port", str(port)]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment)
    try:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, headers=headers) as http:
            _wait_until_ready(http, process, log)
            yield (server := Recorded(http))
            process.send_signal(ending)
            server.status = process.wait(60)
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    while process.poll() is None:
        try:
            if http.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def record(name: str, target: Path) -> None:
    made, work, ending = RECORDINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        subprocess.run([*RUN, "init", str(path), *made], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        api_key = _new_key(path) if name == "keyed" else None
        with running(path, ending, api_key) as server:
            probes = server.probes(work(server))
            tasks = server.send("GET", "/v1/tasks")["tasks"]
            known = {one["key"]: {"updates": one["updates"], "rows_seen": one["rows_seen"]} for one in tasks}
            sequence = server.send("GET", "/v1/store")["sequence"]
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(target / f"{name}.tar.xz", "w:xz") as archive:
            archive.add(path, arcname=name, filter=_nobody)
        expected = {"sequence": sequence, "tasks": known, "probes": probes, "api_key": api_key}
        (target / f"{name}.json").write_text(json.dumps(expected) + "\n")


def _new_key(path: Path) -> str:
    made = subprocess.run(
        [*RUN, "keys", "create", str(path), "--scope", "admin"], check=True, capture_output=True, text=True
    )
    return next(word for word in made.stdout.split() if word.startswith("sp-"))


def _nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    for each in RECORDINGS:
        record(each, parser.parse_args().target)
        print(each)
