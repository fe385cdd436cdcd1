"""Behaviour under overload: four times as much as the server can do, and a neighbour that floods it.

    python -m benchmarks.overload --results docs/results/benchmarks/overload.json

Server and load generator are pinned apart: the server to core 0, the load to core 1. For inference of 64
rows, and for updates of 128: peak is what a closed loop gets; then an open loop sends 0.9
of peak, and four times peak, as far as its connections carry it (what they cannot is not sent). A neighbour
is measured by what one tenant's small requests take while another sends its share, and while that one floods;
with quotas, and without.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.load import Load, Outcome, run
from demo.server_process import free_port
from experiments.plain import plain_config
from experiments.report import machine, write_json
from superposed import TaskSchema, WeightStore, seeded_secret
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

TASKS, INPUTS = 20, 784
KINDS = {"infer": 64, "update": 128}  # rows of a request
CLOSED = {"infer": 32, "update": 4}  # connections that keep the server busy and wait less than it allows
OVERLOAD = 4.0
SETTINGS = {"SUPERPOSED_THREADS": "1", "SUPERPOSED_SNAPSHOT_RECORDS": "1000000", "SUPERPOSED_QUEUE_DELAY_MS": "100"}


class Pinned:
    """A server on core 0, an admin key, and the memory that it took at most."""

    def __init__(self, folder: Path) -> None:
        path, port = folder / "store", free_port()
        store = WeightStore(plain_config(), secret=seeded_secret(0))
        for number in range(TASKS):
            store.register(TaskSchema(key=f"t{number}", inputs=INPUTS, outputs=10))
        with DataDirectory(path) as directory:
            begin(directory, store)
        entry = "from superposed_service.cli.main import main; main()"
        python = [sys.executable, "-c", entry]
        made = subprocess.run(
            [*python, "keys", "create", str(path), "--scope", "admin"], capture_output=True, check=True
        )
        self.admin = made.stdout.decode().strip()
        self.url = f"http://127.0.0.1:{port}"
        self.log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            ["taskset", "-c", "0", *python, "serve", str(path), "--port", str(port)],
            env=os.environ | SETTINGS,
            stdout=self.log,
            stderr=self.log,
        )
        self.most_rss = 0
        while not self._ready():
            time.sleep(0.1)
        threading.Thread(target=self._watch, daemon=True).start()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            assert self.process.poll() is None, "the server ended"
            return False

    def rss(self) -> int:
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGESIZE")

    def _watch(self) -> None:
        with suppress(FileNotFoundError):  # it has ended
            while self.process.poll() is None:
                self.most_rss = max(self.most_rss, self.rss())
                time.sleep(0.05)

    def key(self, **more: Any) -> str:
        headers = {"Authorization": f"Bearer {self.admin}"}
        answer = httpx.post(f"{self.url}/v1/keys", json={"scope": "update"} | more, headers=headers)
        return str(answer.raise_for_status().json()["key"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


@contextmanager
def serving() -> Iterator[Pinned]:
    with tempfile.TemporaryDirectory(prefix="overload-") as name:
        server = Pinned(Path(name))
        try:
            yield server
        finally:
            server.stop()


def sent_p99(outcome: Outcome) -> float:
    """Without the wait for a free connection: an open loop of 512 cannot offer more than they carry."""
    return float(np.percentile(outcome.served_ms, 99)) if outcome.served_ms else 0.0


def described(outcome: Outcome) -> dict[str, Any]:
    return {
        "seconds": outcome.seconds,
        "requests_per_s": outcome.requests_per_s,
        "p50_ms": outcome.percentile(50),
        "p99_ms": outcome.percentile(99),
        "p99_from_sending_ms": sent_p99(outcome),
        "statuses": {str(status): count for status, count in sorted(outcome.statuses.items())},
        "refused_without_retry_after": outcome.without_retry_after,
    }


def probing(url: str, seconds: float, pause: float = 0.1) -> dict[str, Any]:
    """Return the times of the probes meanwhile."""
    latencies, failed, until = [], 0, time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=10) as client:
        while time.monotonic() < until:
            started = time.perf_counter()
            try:
                failed += client.get("/health/ready").status_code != 200
            except httpx.HTTPError:
                failed += 1
            latencies.append(1000 * (time.perf_counter() - started))
            time.sleep(pause)
    return {"probes": len(latencies), "failed": failed, "slowest_ms": max(latencies)}


def _urgently(load: Load) -> Outcome:
    """Before the other loads on this core, so that those do not make it wait."""
    os.nice(-10)
    return run(load)


def together(own: Load, other: Load) -> list[Outcome]:
    """Each load from a process of its own, both of them on this process's core."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.apply_async(_urgently, [own]), pool.apply_async(run, [other])
        return [first.get(), second.get()]


def a_load(server: Pinned, kind: str, key: str) -> Load:
    tasks = [(f"t{number}", INPUTS) for number in range(TASKS)]
    return Load(server.url, tasks, kind=kind, rows=KINDS[kind], bytes_a_number=1, api_key=key)  # type: ignore[arg-type]  # a str


def overload(server: Pinned, kind: str, seconds: float) -> dict[str, Any]:
    load, short = a_load(server, kind, server.key()), min(seconds, 20.0)
    closed = replace(load, connections=CLOSED[kind], seconds=short)
    run(replace(closed, seconds=3.0))  # warm
    peak = run(closed)
    below = replace(load, rate=0.9 * peak.requests_per_s, connections=256, seconds=max(short, seconds / 4))
    before = run(below)
    server.most_rss, rss = 0, server.rss()
    probes: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: probes.update(probing(server.url, seconds)))
    thread.start()
    rate = OVERLOAD * peak.requests_per_s
    flooded = run(replace(load, rate=rate, connections=512, seconds=seconds))
    thread.join()
    after = run(closed)
    return {
        "kind": kind,
        "rows_a_request": load.rows,
        "peak": described(peak),
        "at_0.9": described(before),
        "at_4": described(flooded),
        "peak_after": described(after),
        "offered_per_s": rate,
        "sent_per_s": flooded.statuses.total() / flooded.seconds,
        "goodput_of_peak": flooded.requests_per_s / peak.requests_per_s,
        "goodput_of_mean_peak": 2 * flooded.requests_per_s / (peak.requests_per_s + after.requests_per_s),
        "p99_ratio": flooded.percentile(99) / before.percentile(99),
        "p99_ratio_from_sending": sent_p99(flooded) / sent_p99(before),
        "rss_before_bytes": rss,
        "rss_most_bytes": server.most_rss,
        "probes": probes,
    }


def neighbours(server: Pinned, kind: str, seconds: float, peak: float, *, quota: bool) -> dict[str, Any]:
    """A tenant with 20 small requests a second, beside one that sends its share, and that floods."""
    share = 0.5 * peak
    limits = {"requests_per_second": share, "rows_per_second": share * KINDS[kind]} if quota else {}
    quiet = replace(a_load(server, "infer", server.key()), rows=1, rate=20.0, seconds=seconds, connections=16)
    loud = replace(a_load(server, kind, server.key(**limits)), connections=256, seconds=seconds)
    found: dict[str, Any] = {"kind": kind, "quota": limits}
    fair = 0.9 * (share if quota else peak)
    for name, rate in (("share", fair), ("flood", OVERLOAD * peak)):
        own, other = together(quiet, replace(loud, rate=rate))
        found[name] = {"own": described(own), "other": described(other)}
    found["p99_ratio"] = found["flood"]["own"]["p99_ms"] / found["share"]["own"]["p99_ms"]
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0, help="Of each overload.")
    parser.add_argument("--neighbour-seconds", type=float, default=60.0, help="Of each look at a neighbour.")
    parser.add_argument("--kind", choices=KINDS, help="Measure only this again; the file keeps the other.")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {1})
    values: dict[str, Any] = {"overload": [], "neighbours": []}
    if asked.kind is not None:
        values = json.loads(asked.results.read_text())
    values |= {"machine": machine(), "settings": SETTINGS}
    for kind in KINDS if asked.kind is None else (asked.kind,):
        for part in ("overload", "neighbours"):
            values[part] = [row for row in values[part] if row["kind"] != kind]
        with serving() as server:
            found = overload(server, kind, asked.seconds)
            print(json.dumps(found), flush=True)
            values["overload"].append(found)
            peak = found["peak"]["requests_per_s"]
            for quota in (True, False):
                values["neighbours"].append(neighbours(server, kind, asked.neighbour_seconds, peak, quota=quota))
    write_json(asked.results, values)


if __name__ == "__main__":
    main()
