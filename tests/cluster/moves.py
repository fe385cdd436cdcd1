"""Twenty tasks are moved between cells while they are taught and asked: nothing is lost, and they know as much.

    python -m tests.cluster.moves --results docs/results/cluster/moves.json

The tasks are permuted digits (scikit-learn's), taught before; meanwhile clients go on to teach each of them rows that
it was taught already, with idempotency keys, and each until it is answered.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ingress import PORT, cluster
from experiments.datasets import sklearn_dataset
from experiments.report import machine, write_json
from superposed_client import Client
from superposed_client._core import RetryPolicy
from superposed_service.cluster.move import move_task

ROWS, EPOCHS = 64, 4
URL = f"http://127.0.0.1:{PORT}"


class Moves:
    """The tasks, and clients that teach them."""

    def __init__(self, count: int) -> None:
        digits = sklearn_dataset("digits")
        self.tasks = {f"a-{number}": digits.permuted(number) for number in range(count)}
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.stopping = threading.Event()

    def register(self, client: Client) -> None:
        for key, data in self.tasks.items():
            client.register_task(key, inputs=data.features, labels=list(data.labels))
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(len(data.train_x))
            for key in self.tasks:
                for start in range(0, len(order), ROWS):
                    self.update(client, key, order[start : start + ROWS])

    def update(self, client: Client, key: str, chosen: NDArray[np.int64]) -> None:
        data, once = self.tasks[key], uuid.uuid4().hex
        labels = [data.labels[number] for number in data.train_y[chosen]]
        client.update(key, data.train_x[chosen], labels, idempotency_key=once)
        self.sent[key].append(once)

    def accuracy(self, client: Client, key: str) -> float:
        data = self.tasks[key]
        return client.evaluate(key, data.test_x, [data.labels[number] for number in data.test_y]).accuracy or 0.0

    def move(self, client: Client, key: str) -> dict[str, float]:
        """Move a task, and return what it knew just before and just after, and how long it took."""
        before, began = self.accuracy(client, key), time.monotonic()
        moved = move_task(URL, key, "a", "b", progress=lambda _: None)
        seconds = time.monotonic() - began
        found = {"before": before, "after": self.accuracy(client, key), "agreement": moved.agreement or 0}
        print(moved, found, f"{seconds:.1f} s", flush=True)
        return found | {"seconds": seconds}

    def teach(self, keys: list[str]) -> None:
        draw = np.random.default_rng(len(keys))
        with Client(URL, timeout_s=120, retries=RetryPolicy(retries=50)) as own:
            while not self.stopping.is_set():
                self.update(own, keys[draw.integers(len(keys))], draw.integers(0, 1000, 16))
                time.sleep(0.25)  # a move teaches all of it again, on the same two cores

    @contextmanager
    def taught(self) -> Iterator[None]:
        keys = list(self.tasks)
        threads = [threading.Thread(target=self.teach, args=(keys[place::4],)) for place in range(4)]
        for thread in threads:
            thread.start()
        yield
        self.stopping.set()
        for thread in threads:
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--moves", type=int, default=20)
    asked = parser.parse_args()
    moves = Moves(asked.moves)
    with tempfile.TemporaryDirectory() as name, cluster(Path(name)), Client(URL, timeout_s=120) as client:
        moves.register(client)
        with moves.taught():
            moved = [moves.move(client, key) for key in moves.tasks]
        origins = {key: requests_of(client, key) for key in moves.tasks}
    counted = {key: [origins[key].count(once) for once in sent] for key, sent in moves.sent.items()}
    found: dict[str, Any] = {
        "moves": asked.moves,
        "updates": sum(map(len, counted.values())),
        "lost": sum(count == 0 for counts in counted.values() for count in counts),
        "twice": sum(count > 1 for counts in counted.values() for count in counts),
        "agreement, least": min(one["agreement"] for one in moved),
        "seconds a move, median": float(np.median([one["seconds"] for one in moved])),
    }
    for name in ("before", "after"):
        found[f"accuracy just {name}, mean"] = float(np.mean([one[name] for one in moved]))
    found["accuracy, largest loss"] = max(one["before"] - one["after"] for one in moved)
    print(found)
    if asked.results:
        write_json(asked.results, {"machine": machine(), **found})


def requests_of(client: Client, key: str) -> list[str]:
    """The requests that taught a task, by their idempotency keys, as the cell has them that has it now."""
    found: list[str] = []
    after = 0
    while rows := client.task_rows(key, after=after):
        found += [one["origin"][0] for one in rows if "origin" in one]
        after = rows[-1]["sequence"]
    return found


if __name__ == "__main__":
    main()
