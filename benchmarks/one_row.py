"""Updates of one row: this service, each on disk before it is answered, beside what people build themselves.

    benchmarks/peers/setup.sh river vw sklearn
    python -m benchmarks.one_row --results docs/results/benchmarks/one_row.json

100 tasks in turn, 20 numbers a row, two classes; every server alone, driven by `wrk` with 1, 8 and 64
connections. A server is timed once it has learned a rule: rows whose first number says their class.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks import serving
from benchmarks.serving import HERE, PEERS, Server, drive, script_of, started
from experiments.report import machine, write_json
from superposed import StoreConfig, TaskSchema, WeightStore, seeded_secret
from superposed_service.changes.snapshot import begin
from superposed_service.storage import DataDirectory

TASKS, INPUTS, LESSONS = serving.TASKS, 20, 100
ROWS = np.round(np.random.default_rng(0).normal(size=(TASKS, INPUTS)), 4)
LABELS = (ROWS[:, 0] > 0).astype(int).tolist()
CONNECTIONS = (1, 8, 64)


# One step an update and nothing kept, in a network as wide as the rows: nearest to what the others do.
PLAIN = {
    "network": {"inputs": INPUTS, "hidden": (64, 64)},
    "optimizer": {"steps": 1},
    "rehearsal": {"rows_per_task": 0},
}


def _start(port: int, folder: Path, settings: dict[str, Any] | None = None) -> tuple[list[str], Path]:
    store = WeightStore(StoreConfig.of_preset("general", settings), secret=seeded_secret(0))
    for number in range(TASKS):
        store.register(TaskSchema(key=f"t{number}", inputs=INPUTS, outputs=2, scaling="running"))
    with DataDirectory(folder / "store") as directory:
        begin(directory, store)
    return [".venv/bin/superposed", "serve", str(folder / "store"), "--port", str(port)], Path.cwd()


def _body(k: int) -> tuple[bytes, dict[str, str]]:
    return serving.json_body({"context": f"t{k}", "inputs": [ROWS[k].tolist()], "targets": [LABELS[k]]})


def _peer_body(k: int) -> tuple[bytes, dict[str, str]]:
    return serving.json_body({"task": f"t{k}", "row": ROWS[k].tolist(), "label": LABELS[k]})


def _river(port: int, _: Path) -> tuple[list[str], Path]:
    command = [str(PEERS / "river/bin/gunicorn"), "--threads", "4", "--bind", f"127.0.0.1:{port}"]
    return [*command, "--log-level", "error", "river_flask:app"], HERE


SERVERS = [
    Server("superposed", _start, "/v1/update", _body),
    Server("superposed, one step, nothing kept", partial(_start, settings=PLAIN), "/v1/update", _body),
    Server("river behind Flask", _river, "/learn", _peer_body),
    Server("Vowpal Wabbit behind FastAPI", serving.python_server("vw", "vw_fastapi.py"), "/learn", _peer_body),
    Server(
        "scikit-learn behind FastAPI and SQLite",
        serving.python_server("sklearn", "sklearn_fastapi.py"),
        "/learn",
        _peer_body,
    ),
]


def check(server: Server, url: str) -> None:
    """Teach task t0 its rule, row by row, and have its last answers follow it."""
    draw, right = np.random.default_rng(1), []
    for lesson in range(LESSONS):
        row, peer = np.round(draw.normal(size=INPUTS), 4), "superposed" not in server.name
        row[0] = 3.0 if lesson % 2 else -3.0
        label = int(row[0] > 0)
        body = {"task": "t0", "row": row.tolist(), "label": label}
        own = {"context": "t0", "inputs": [row.tolist()], "targets": [label]}
        answer = httpx.post(url, json=body if peer else own, timeout=30)
        answer.raise_for_status()
        said = answer.json()
        right.append((said["probability"] > 0.5) == bool(label) if peer else said["accuracy"] == 1.0)
    if np.mean(right[-20:]) < 0.75:
        raise RuntimeError(f"it has not learned: {right}")


def measure(server: Server, seconds: float, folder: Path) -> dict[str, Any]:
    os.environ |= {"FOLDER": str(folder), "SUPERPOSED_QUEUE_DELAY_MS": "10000"}  # as patient as the others
    with started(server, folder) as url:
        check(server, url)
        script = script_of(server, folder)
        drive(url, script, 8, 1.0)
        return {f"{count} connections": drive(url, script, count, seconds) for count in CONNECTIONS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=6.0)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    for server in SERVERS:
        # On the disk of the working directory: /tmp may be memory.
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".benchmark-") as name:
            found.append({"name": server.name, **measure(server, asked.seconds, Path(name))})
        print(json.dumps(found[-1]), flush=True)
    own, at = found[0], [f"{count} connections" for count in CONNECTIONS]
    ratios = {
        one["name"]: {name: own[name]["requests_per_s"] / one[name]["requests_per_s"] for name in at}
        for one in found[1:]
    }
    write_json(asked.results, {"machine": machine(), "servers": found, "updates_over": ratios})


if __name__ == "__main__":
    main()
