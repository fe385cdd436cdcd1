"""Cost of the ingress: requests a second through it and past it, in one run.

    python -m benchmarks.ingress --results docs/results/benchmarks/ingress.json

Starts a Ray cluster of one node and two cells of one server each; the same load goes to one server itself, and through
Ray Serve's proxy and the ingress to tasks of one cell and of both.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from benchmarks.load import Load, run
from experiments.report import machine, write_json

INPUTS, TASKS, PORT, SECONDS = 784, 20, 8250, 6.0
CONFIG = """
name = "bench"
cells = ["a", "b"]
directory = "{folder}"
port = {port}
first_port = 8260
cpus = 0.5
patterns = {{"a-*" = "a", "b-*" = "b"}}
[settings]
canary_rows = 0
queue_delay_ms = 10000.0
"""


@contextmanager
def cluster(folder: Path, config: str = CONFIG) -> Iterator[None]:
    (folder / "cluster.toml").write_text(config.format(folder=folder / "data", port=PORT))

    def command(*words: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(words, check=True, env=os.environ | {"PATH": path}, stdout=subprocess.DEVNULL)

    command("ray", "start", "--head", "--num-cpus", "4", "--include-dashboard=false", "--disable-usage-stats")
    try:
        command("superposed", "cluster", "up", str(folder / "cluster.toml"))
        yield
    finally:
        command("ray", "stop")


def measured(url: str, keys: list[str], **more: Any) -> dict[str, float]:
    outcome = run(Load(url, [(key, INPUTS) for key in keys], seconds=SECONDS, **more))
    assert set(outcome.statuses) == {200}, outcome.statuses
    percentiles = {f"p{percent}_ms": round(outcome.percentile(percent), 2) for percent in (50, 99)}
    return {"requests_per_s": round(outcome.requests_per_s, 1), **percentiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)):
        through = f"http://127.0.0.1:{PORT}"
        with httpx.Client(base_url=through, timeout=60) as http:
            own = {}
            for cell in ("a", "b"):
                own[cell] = [f"{cell}-{number}" for number in range(TASKS)]
                for key in own[cell]:
                    body = {"key": key, "inputs": INPUTS, "outputs": 10}
                    http.post("/v1/tasks", json=body).raise_for_status()
        direct = "http://127.0.0.1:8260"
        try:
            httpx.get(f"{direct}/health/ready")
        except httpx.TransportError:  # where the node has an address of its own
            import ray

            direct = f"http://{ray.util.get_node_ip_address()}:8260"
        kinds: dict[str, dict[str, Any]] = {
            "one row, JSON": {"binary": False, "rows": 1},
            "64 rows, binary": {"rows": 64},
            "update of 32 rows, binary": {"kind": "update", "rows": 32},
        }
        for kind, more in kinds.items():
            for connections in (1, 32):
                ways = {
                    "direct": measured(direct, own["a"], connections=connections, **more),
                    "through the ingress": measured(through, own["a"], connections=connections, **more),
                    "through the ingress, both cells": measured(
                        through, own["a"] + own["b"], connections=connections, **more
                    ),
                }
                rate = ways["through the ingress"]["requests_per_s"] / ways["direct"]["requests_per_s"]
                found[f"{kind}, {connections} connections"] = ways | {"ratio": round(rate, 3)}
                print(kind, connections, ways, round(rate, 3), flush=True)
    if asked.results:
        write_json(asked.results, {"machine": machine(), "kinds": found})


if __name__ == "__main__":
    main()
