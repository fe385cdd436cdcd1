"""Measure the poison detector: false alarms on ordinary streams, and harmful streams that it stops.

Every stream goes through the service's own writer, journal and detector, with an API key for each task, so
that each could be accused. Ordinary streams are all data sets of the demo and of the tests, taught at random
or strictly one after another, at learning rates that a user might choose, with rehearsal and without. A
harmful stream is one that costs the other tasks ten points of accuracy where nothing stops it; each is sent
to a server that has been running, and to one that was restarted just before.

    python -m benchmarks.detector --results docs/results/detector
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets

from experiments.datasets import sklearn_dataset
from experiments.report import machine, write_json
from superposed import MLPConfig, OptimizerConfig, StoreConfig, TaskSchema
from superposed.config import RehearsalConfig
from superposed.errors import SuperposedError
from superposed.tasks.schema import Loss
from superposed_service.changes.registration import Register
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.update import Update
from superposed_service.errors import Quarantined
from tests.helpers.machine import Machine

ROWS, UPDATES, ATTACK = 16, 1200, 64
RATES = [("rmsprop", 3e-5), ("rmsprop", 3e-4), ("rmsprop", 1e-3), ("rmsprop", 3e-3), ("adam", 1e-3),
         ("adam", 3e-3), ("adam", 1e-2), ("sgd", 0.02), ("sgd", 0.05)]  # fmt: skip
TASKS = {
    "permuted digits, at random": ["digits"] * 5,
    "permuted digits, one after another": ["digits"] * 5,
    "six data sets, at random": ["digits", "iris", "wine", "cancer", "diabetes", "sensor"],
}
Data = tuple[NDArray[Any], NDArray[Any], TaskSchema]


def data(kind: str, key: str, seed: int) -> Data:
    """Rows, targets and the schema of a task."""
    loss: Loss = "cross_entropy"
    if kind == "digits":
        digits, order = sklearn_dataset("digits"), np.random.default_rng(seed).permutation(64)
        x, y, outputs = digits.train_x[:, order] / 16.0, digits.train_y, 10
    elif kind in {"diabetes", "sensor"}:
        found = datasets.load_diabetes()
        y = (found.target - found.target.mean()) / found.target.std()
        x, outputs, loss = _standard(found.data), 1, "mse"
        y = 0.0005 + 1e-4 * y if kind == "sensor" else y  # a sensor in small units
    else:
        found = {"iris": datasets.load_iris, "wine": datasets.load_wine, "cancer": datasets.load_breast_cancer}[kind]()
        x, y, outputs = _standard(found.data), found.target, len(found.target_names)
    return x, y, TaskSchema(key=key, inputs=x.shape[1], outputs=outputs, loss=loss)


def _standard(x: NDArray[Any]) -> NDArray[Any]:
    return (x - x.mean(0)) / (x.std(0) + 1e-9)


class Stream:
    """One server's store, its tasks, and an API key for each."""

    def __init__(self, path: Path, config: StoreConfig, kinds: list[str], seed: int, **settings: Any) -> None:
        self.machine = Machine(path, config=config, **settings)
        self.draw = np.random.default_rng(seed)
        self.tasks: dict[str, Data] = {}
        for number, kind in enumerate(kinds):
            self.add(f"t{number}", kind, 100 * seed + number)

    def add(self, key: str, kind: str, seed: int) -> None:
        self.tasks[key] = data(kind, key, seed)
        self.machine.do(Register(lambda _: self.tasks[key][2]))

    def batch(self, key: str) -> tuple[NDArray[Any], NDArray[Any]]:
        x, y, _ = self.tasks[key]
        chosen = self.draw.integers(0, len(x), ROWS)
        return x[chosen], y[chosen]

    def teach(self, key: str, x: Any, y: Any, author: str) -> bool:
        """Send one update; whether it was learned, or refused by the arithmetic."""
        number = float if self.tasks[key][2].loss == "mse" else int
        change = Update(RowBatch(key, None, np.asarray(x)), [number(one) for one in y], 1)
        change.author = author
        try:
            self.machine.do(change)
        except Quarantined:
            return False
        except SuperposedError:
            return True
        return True

    def ordinary(self, updates: int, *, in_turn: bool = False) -> None:
        keys = [key for key in self.tasks if key.startswith("t")]
        for number in range(updates):
            place = number * len(keys) // updates if in_turn else int(self.draw.integers(len(keys)))
            self.teach(keys[place], *self.batch(keys[place]), f"key{place}")

    def accuracy(self) -> float:
        """The mean over ordinary tasks of accuracy, or of the variance explained."""
        found = []
        for key, (x, y, schema) in self.tasks.items():
            if key.startswith("t"):
                answers = self.machine.store.logits(self.machine.store.batch(key, x[:300])).numpy()
                own, wanted = answers[:, : schema.outputs], y[:300]
                if schema.loss == "mse":
                    found.append(max(0.0, 1.0 - np.mean((own[:, 0] - wanted) ** 2) / np.var(wanted)))
                else:
                    found.append(float((own.argmax(1) == wanted).mean()))
        return float(np.mean(found))


def store(optimizer: str, rate: float, kept: int, **network: Any) -> StoreConfig:
    shape: dict[str, Any] = {"inputs": 64, "hidden": (48, 48), "outputs": 10, "expansion": 1}
    return StoreConfig(
        network=MLPConfig(**shape | network),
        optimizer=OptimizerConfig(name=optimizer, learning_rate=rate),
        rehearsal=RehearsalConfig(rows_per_task=kept, own_ratio=0.0, least_rows=0, logit_share=0.0),
    )


DEFAULTS = StoreConfig(network=MLPConfig(inputs=64))
Configured = tuple[str, float, int, StoreConfig]


def configured() -> list[Configured]:
    """Optimizer, rate, rows kept of a task, and the store."""
    return [(name, rate, kept, store(name, rate, kept)) for (name, rate), kept in product(RATES, (0, 60))]


def ordinary(stores: Sequence[Configured]) -> Iterator[dict[str, Any]]:
    for (name, kinds), (optimizer, rate, kept, config) in product(TASKS.items(), stores):
        with tempfile.TemporaryDirectory() as folder:
            stream = Stream(Path(folder) / "store", config, kinds, seed=kept)
            stream.ordinary(UPDATES, in_turn=name.endswith("another"))
            accused = sorted(stream.machine.store.tasks.quarantined)
            accuracy = stream.accuracy()
            stream.machine.close()
        yield {"stream": name, "optimizer": optimizer, "learning_rate": rate, "kept_rows": kept,
               "accuracy": round(accuracy, 3), "accused": accused}  # fmt: skip


Attack = Callable[[Stream, int], tuple[str, Any, Any]]


def _rows(stream: Stream) -> NDArray[Any]:
    return np.array(stream.batch("t0")[0])


def _labels(stream: Stream, outputs: int = 10) -> NDArray[Any]:
    return stream.draw.integers(0, outputs, ROWS)


ATTACKS: dict[str, Attack] = {
    "rows a hundred times too large, random labels": lambda s, n: ("bad0", _rows(s) * 100, _labels(s)),
    "rows three hundred times too large, random labels": lambda s, n: ("bad0", _rows(s) * 300, _labels(s)),
    "rows a thousand times too large, random labels": lambda s, n: ("bad0", _rows(s) * 1000, _labels(s)),
    "large rows, labels turned round": lambda s, n: ("bad0", (b := s.batch("t0"))[0] * 100, 9 - b[1]),
    "one large row again and again, random labels": lambda s, n: (
        "bad0", np.full((ROWS, 64), 50.0), _labels(s)),
    "large noise": lambda s, n: ("bad0", s.draw.normal(size=(ROWS, 64)) * 200, _labels(s)),
    "mse targets of thousands": lambda s, n: ("badmse", _rows(s)[:, :10], s.draw.normal(size=ROWS) * 1e3),
    "mse rows and targets of hundreds": lambda s, n: (
        "badmse", _rows(s)[:, :10] * 100, s.draw.normal(size=ROWS) * 1e2),
    "spread over eight tasks of one API key": lambda s, n: (f"bad{n % 8}", _rows(s) * 100, _labels(s)),
    "every fourth update, among ordinary ones": lambda s, n: (
        ("bad0", _rows(s) * 100, _labels(s)) if n % 4 == 0 else ("bad0", *s.batch("bad0"))),
}  # fmt: skip
STORES = {
    "SGD 0.02, one layer of 48, no normalisation": store("sgd", 0.02, 0, hidden=(48,), normalisation="none"),
    "the same with rehearsal": store("sgd", 0.02, 60, hidden=(48,), normalisation="none"),
    "SGD 0.05, two layers of 48, no normalisation": store("sgd", 0.05, 0, normalisation="none"),
}


def attacked(attack: Attack, config: StoreConfig, *, cold: bool, detect: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        rows = 8 if detect else 0
        stream = Stream(Path(folder) / "store", config, ["digits"] * 5, seed=1, canary_rows=rows)
        stream.ordinary(2500)
        before = stream.accuracy()
        for number in range(8):
            stream.add(f"bad{number}", "digits", 900 + number)
        stream.add("badmse", "diabetes", 999)
        if cold:
            stream.machine.snapshot()
            stream.machine.crash()
        stopped = None
        for number in range(ATTACK):
            if not stream.teach(*attack(stream, number), "foe"):
                stopped = number
                break
            if number % 2:
                stream.ordinary(1)
        after = stream.accuracy()
        innocent = sorted(
            key for key in stream.machine.store.tasks.quarantined if "bad" not in key and "foe" not in key
        )
        stream.machine.close()
    return {"before": before, "after": after, "stopped": stopped, "innocent": innocent}


def harmful(stores: Mapping[str, StoreConfig]) -> Iterator[dict[str, Any]]:
    for (place, config), (name, attack) in product(stores.items(), ATTACKS.items()):
        free = attacked(attack, config, cold=False, detect=False)
        lost = free["before"] - free["after"]
        found = {"store": place, "stream": name, "lost_without": round(lost, 3), "harmful": lost >= 0.1}
        for how in ("warm", "cold"):
            run = attacked(attack, config, cold=how == "cold", detect=True)
            found |= {f"stopped_{how}": run["stopped"], f"innocent_{how}": run["innocent"]}
        yield found


def summary(streams: list[dict[str, Any]], attacks: list[dict[str, Any]]) -> str:
    bad = [one for one in attacks if one["harmful"]]
    lines = ["| | |", "|---|---|"]
    lines.append(f"| ordinary streams | {len(streams)} |")
    lines.append(f"| of them with a false alarm | {sum(bool(one['accused']) for one in streams)} |")
    lines.append(f"| harmful streams | {len(bad)} of {len({one['stream'] for one in bad})} kinds |")
    for how in ("warm", "cold"):
        places = [one[f"stopped_{how}"] for one in bad if one[f"stopped_{how}"] is not None]
        share = 100 * len(places) / max(1, len(bad))
        lines.append(f"| stopped, {how} server | {share:.1f} % within {max(places, default=0)} updates |")
    innocent = sum(len(one["innocent_warm"]) + len(one["innocent_cold"]) for one in attacks)
    lines.append(f"| innocent tasks or keys accused meanwhile | {innocent} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--defaults", action="store_true", help="only a store of the defaults")
    asked = parser.parse_args()
    results: Path = asked.results
    several = {"the defaults": DEFAULTS} if asked.defaults else STORES
    optimizer, rehearsal = DEFAULTS.optimizer, DEFAULTS.rehearsal
    own = [(optimizer.name, optimizer.learning_rate, rehearsal.rows_per_task, DEFAULTS)]
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    streams: list[dict[str, Any]] = []
    attacks: list[dict[str, Any]] = []
    for made, found in ((harmful(several), attacks), (ordinary(own if asked.defaults else configured()), streams)):
        for one in made:
            found.append(one)
            print(one, flush=True)
            facts = {"machine": machine(), "ordinary": streams, "harmful": attacks}
            write_json(results / "detector.json", facts)
    (results / "table.md").write_text(summary(streams, attacks))
    print(summary(streams, attacks))


if __name__ == "__main__":
    main()
