"""Time of a one-row request by activity: samples of a busy server, by what it was doing.

    python -m benchmarks.profiling --results docs/results/benchmarks/profiling.json

Needs py-spy (`pip install py-spy`), which looks at the server from outside, a few hundred times a second, and
counts whatever holds Python's lock. The load is 64 connections that send one binary row each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import subprocess
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.load import Load, run
from benchmarks.service import INPUTS, TASKS, running
from experiments.report import machine, write_json

# The first of these that is in a stack says what was being done; inner ones stand first.
DOINGS = {
    "sending answers": ("_WriteBuffer._flush", "Response.__call__", "DirectInference.write"),
    "the batch: rows checked, bound, multiplied, handed back": ("InferenceExecutor._answer_few", "Engine._loop"),
    "reading bodies: bytes, JSON head, tensors, checks": (
        "read (superposed_service/api/v1/routes/common.py",
        "read_body (superposed_service/api/v1/codec.py",
    ),
    "the route: quota, queue, the answer's JSON": (
        "infer (superposed_service/api/v1/routes/inference.py",
        "DirectInference.begin",
    ),
    "before the route: id, key, room, counting": ("Observed.__call__",),
    "HTTP: heads, connections, tasks": ("data_received", "run_asgi"),
    "the event loop": ("",),
}


def shares(stacks: str) -> dict[str, float]:
    """Return the fraction of samples in each activity, from py-spy's collapsed stacks."""
    found: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        doing = next(name for name, frames in DOINGS.items() if any(frame in stack for frame in frames))
        found[doing] += int(count)
    return {name: found[name] / found.total() for name in DOINGS}


def profile(spy: str, seconds: float) -> dict[str, Any]:
    """Samples a server under load."""
    tasks = [(f"t{number}", INPUTS) for number in range(TASKS)]
    command = [spy, "record", "--gil", "--rate", "250", "--duration", str(round(seconds)), "--format", "raw"]
    with running(durable=True) as (url, _), tempfile.TemporaryDirectory() as folder:
        (server,) = multiprocessing.active_children()
        stacks = Path(folder) / "stacks"
        command += ["--pid", str(server.pid), "--output", str(stacks)]
        sampling = threading.Timer(1.0, subprocess.run, [command])
        sampling.start()
        served = run(Load(url, tasks, rows=1, binary=True, connections=64, seconds=seconds + 2))
        sampling.join()
        if not stacks.exists():
            raise SystemExit("py-spy could not look at the server")
        return {"requests_per_s": served.requests_per_s, "shares": shares(stacks.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=15.0)
    asked = parser.parse_args()
    if (spy := shutil.which("py-spy")) is None:
        raise SystemExit("py-spy is not installed")
    values = {"machine": machine(), **profile(spy, asked.seconds)}
    print(json.dumps(values, indent=1))
    write_json(asked.results, values)


if __name__ == "__main__":
    main()
