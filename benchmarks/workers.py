"""Do HTTP workers pay? Small inference requests through 0, 1 and 2 of them, in turn within one run.

    python -m benchmarks.workers --results docs/results/benchmarks/workers.json

The servers run side by side over stores of their own and are driven one at a time, by `wrk` with 64
connections and one row of 784 numbers a request. What the engine's process spends on a request is what
workers are to lessen; requests a second also depend on whether there are cores for them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.serving import SERVERS, Server, check, drive, script_of, started
from experiments.report import machine, write_json

CONNECTIONS = 64
_TICKS = os.sysconf("SC_CLK_TCK")


def with_workers(server: Server, count: int) -> Server:
    def start(port: int, folder: Path) -> tuple[list[str], Path]:
        command, where = server.start(port, folder)
        return [*command, "--http-workers", str(count)], where

    return replace(server, name=f"{server.name}, {count} workers", start=start)


def engine_process(folder: Path) -> int:
    """The process that holds the lock of the data directory."""
    inode = (folder / "store" / "LOCK").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if fields[5].endswith(f":{inode}"):
            return int(fields[4])
    raise RuntimeError("nobody owns the store")


def spent_s(process: int) -> float:
    """The CPU time of a process."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def compare(server: Server, counts: tuple[int, ...], turns: int, seconds: float) -> list[dict[str, Any]]:
    speeds: dict[int, list[float]] = {count: [] for count in counts}
    costs: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        running = {}
        for count in counts:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            one = with_workers(server, count)
            url = stack.enter_context(started(one, folder))
            check(one, url)
            running[count] = (url, engine_process(folder), script_of(one, folder))
        for _ in range(turns):
            for count, (url, process, script) in running.items():
                before = spent_s(process)
                found = drive(url, script, CONNECTIONS, seconds)
                speeds[count].append(found["requests_per_s"])
                costs[count].append((spent_s(process) - before) / (found["requests_per_s"] * seconds))
    return [
        {
            "form": server.name.rpartition(" ")[2].lower(),
            "workers": count,
            "requests_per_s": statistics.median(speeds[count]),
            "over_none": statistics.median(
                mine / none for mine, none in zip(speeds[count], speeds[counts[0]], strict=True)
            ),
            "engine_cpu_us_a_request": 1e6 * statistics.median(costs[count]),
        }
        for count in counts
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=5)
    asked = parser.parse_args()
    found: list[dict[str, Any]] = []
    for server in SERVERS[:2]:
        found += compare(server, (0, 1, 2), asked.turns, asked.seconds)
        print(json.dumps(found[-3:], indent=1), flush=True)
    write_json(
        asked.results,
        {"machine": machine(), "cores": os.cpu_count(), "connections": CONNECTIONS, "rows": found},
    )


if __name__ == "__main__":
    main()
