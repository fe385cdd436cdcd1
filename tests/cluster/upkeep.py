"""The upkeep of a Ray cluster under load: a drained node, a rolling restart, a lost head node and a new start.

Clients send updates through the ingress of a node, as in `tests.cluster.nodes`. At the end every task must have been
taught exactly what was acknowledged, and the servers of a cell must be the same store.

    python -m tests.cluster.upkeep --results docs/results/durability/upkeep.json

Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.nodes import CELLS, CONFIG, NODES, PORT, Load, Machines, finish, longest, same, table, wait, whole

HEADLESS_S = 30.0


class Upkeep:
    """A cluster that is kept up, and what its clients noticed of each step."""

    def __init__(self, folder: Path, machines: Machines) -> None:
        self.folder, self.machines = folder, machines
        self.config = str(folder / "cluster.toml")
        self.found: dict[str, Any] = {}
        self.url = f"http://{machines.address(1)}:{PORT}"
        self.load: Load

    def start(self) -> None:
        for number in range(NODES + 1):
            self.machines.start(number)
        self.machines.inside(0, "superposed", "cluster", "up", self.config)
        wait(lambda: whole(self.machines))

    def command(self, *words: str) -> str:
        return self.machines.inside(0, "superposed", "cluster", *words, "--config", self.config, timeout=600)

    @contextmanager
    def noticed(self, step: str) -> Iterator[None]:
        """Note the longest time without a write of a cell, and how many writes there were, during a step."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        writes = [self.load.writes[cell] for cell in CELLS]
        gap = max(longest(times, began, ended) for times in writes)
        count = sum(began <= one <= ended for times in writes for one in times)
        seconds = {"took_s": round(ended - began, 1), "longest_without_writes_s": round(gap, 1)}
        self.found[step] = seconds | {"writes": count}
        print(step, self.found[step], dict(self.load.answers), flush=True)

    def drain(self) -> None:
        node = self.machines.address(3)
        with self.noticed("drain of a node"):
            stopped = self.command("drain", node)
            wait(lambda: {one["node"] for one in table(self.machines)} == {1, 2})
            roles = sorted(one["role"] for one in table(self.machines))
        self.found["drain of a node"] |= {"stopped": stopped.strip(), "roles": roles}
        with self.noticed("back after the drain"):
            self.command("drain", node, "--back")
            wait(lambda: whole(self.machines), 300)

    def restart(self) -> None:
        with self.noticed("rolling restart"):
            self.command("restart")
            wait(lambda: whole(self.machines), 300)

    def lose_the_head(self) -> None:
        with self.noticed("without the head node"):
            self.machines.kill(0)
            time.sleep(HEADLESS_S)

    def start_again(self) -> None:
        with self.noticed("all nodes lost, and started again"):
            for number in range(NODES + 1):
                self.machines.kill(number)
            self.start()

    def check(self) -> None:
        taught = {key: httpx.get(f"{self.url}/v1/tasks/{key}", timeout=60).json()["updates"] for key in self.load.tasks}
        acknowledged = self.load.acknowledged
        self.found["acknowledged"] = sum(acknowledged.values())
        self.found["lost"] = sum(max(0, acknowledged[key] - taught[key]) for key in taught)
        self.found["twice"] = sum(max(0, taught[key] - acknowledged[key]) for key in taught)
        self.found["wrong"] = self.load.wrong[:10]
        time.sleep(3)
        self.command("down")
        self.found["digests_equal"] = all(same(self.folder, cell) for cell in CELLS)

    def run(self) -> dict[str, Any]:
        Path(self.config).write_text(CONFIG.format(cells=list(CELLS), port=PORT))
        self.start()
        tasks: dict[str, str] = {}
        for number in range(8):
            body = {"key": f"t{number}", "inputs": 8, "outputs": 3}
            answer = httpx.post(f"{self.url}/v1/tasks", json=body, timeout=60)
            tasks[f"t{number}"] = answer.raise_for_status().headers["x-cell"]
        self.load = Load(self.url, tasks)
        with self.load.running():
            for step in (self.drain, self.restart, self.lose_the_head, self.start_again):
                time.sleep(3)
                step()
        self.check()
        return self.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="superposed-cluster-"))
    machines = Machines(folder)
    try:
        found = Upkeep(folder, machines).run()
    finally:
        machines.close()
        shutil.rmtree(folder, ignore_errors=True)
    finish(found, asked.results)


if __name__ == "__main__":
    main()
