"""The guard: a stream that pushes other tasks down is quarantined; ordinary ones never are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from superposed import MLPConfig, OptimizerConfig, StoreConfig, TaskSchema
from superposed.datasets import sklearn_dataset
from superposed_service import guard
from superposed_service.arrays import pack
from superposed_service.changes import Register
from superposed_service.errors import Quarantined
from superposed_service.rows import Rows
from superposed_service.storage import Canary
from superposed_service.updates import Update
from tests.durability.machine import Machine

# Plain gradient descent without normalisation: here large rows really hurt the others.
CONFIG = StoreConfig(
    network=MLPConfig(inputs=64, hidden=(48,), outputs=10, normalisation="none"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.02),
)
DIGITS = sklearn_dataset("digits")
TASKS = 6


class Streams:
    """Digits with permuted pixels: a stream a task, and one with huge rows and random labels."""

    def __init__(self, path: Path, *, config: StoreConfig = CONFIG, **settings: int) -> None:
        self.machine = Machine(path, config=config, guard_interval=24, **settings)
        self.draw = np.random.default_rng(0)
        for number in range(TASKS):
            self.register(f"t{number}")

    def register(self, key: str, **more: bool) -> None:
        schema = TaskSchema(key=key, inputs=64, outputs=10, scale=(16.0,) * 64, **more)
        self.machine.do(Register(lambda _: schema))

    def teach(self, key: str, scale: float = 1.0) -> None:
        chosen = self.draw.integers(0, len(DIGITS.train_y), 16)
        order = np.random.default_rng(sum(key.encode())).permutation(64)
        labels = DIGITS.train_y[chosen] if scale == 1 else self.draw.integers(0, 10, 16)
        rows = Rows(key, None, DIGITS.train_x[chosen][:, order] * scale)
        self.machine.do(Update(rows, labels.tolist(), 1))

    def ordinary(self, updates: int) -> None:
        for _ in range(updates):
            self.teach(f"t{self.draw.integers(0, TASKS)}")

    @property
    def quarantined(self) -> dict[str, int]:
        return self.machine.store.tasks.quarantined


def test_a_harmful_stream_is_held_and_nobody_else(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "store")
    streams.ordinary(400)
    assert streams.quarantined == {}
    streams.register("bad")
    for number in range(100):
        if streams.quarantined:
            break
        streams.teach("bad", scale=100.0) if number % 2 else streams.ordinary(1)
    assert set(streams.quarantined) == {"bad"}
    store = streams.machine.store
    updates, digest, sequence = store.tasks.get("bad").updates, store.digest(), store.sequence
    streams.machine.crash()  # the decision is a record: replay repeats it
    assert streams.machine.store.digest() == digest
    with pytest.raises(Quarantined, match="bad is in quarantine"):
        streams.teach("bad")
    assert streams.machine.store.tasks.get("bad").updates == updates
    assert streams.machine.store.sequence == sequence + 1  # held, and on record
    streams.ordinary(50)
    [record] = streams.machine.writer.ledger.journal.heads({"quarantine"})
    reason = record[2]["reason"]
    assert reason["by"] == "guard"
    assert reason["rise"] > reason["limit"] >= 0.5
    assert set(reason["tasks"]) <= {f"t{number}" for number in range(TASKS)}

    streams.machine.release("bad")
    streams.teach("bad")
    assert streams.machine.store.tasks.get("bad").updates == updates + 1

    # Without the decision, what was held is learned after all.
    held = streams.machine.roll_back(sequences=(record[0], record[0]))
    assert held["excluded"] == [[record[0], record[0]]]
    assert streams.machine.store.tasks.get("bad").updates > updates + 1
    streams.machine.close()


def test_new_tasks_and_random_labels_at_their_own_expense_are_ordinary(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "store")
    streams.ordinary(300)
    streams.register("new")
    streams.register("confused")
    for _ in range(150):
        streams.teach("new")
        streams.teach("confused", scale=1.0001)  # random labels, rows of an ordinary size
        streams.ordinary(1)
    assert streams.quarantined == {}
    streams.machine.close()


def test_canaries_are_a_sample_that_is_kept_and_forgotten(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "store", canary_rows=5)
    streams.register("shy", keep_rows=False)
    for _ in range(30):
        streams.teach("t0")
        streams.teach("t1")
        streams.teach("shy")
    canaries = streams.machine.writer.ledger.canaries
    assert canaries.keys() == ["t0", "t1"]
    kept = {slot: canary.sequence for slot, canary in canaries["t0"].items()}
    assert set(kept) == set(range(5))
    assert max(kept.values()) > TASKS + 30  # not just the first rows
    streams.machine.snapshot()  # brings them to the disk
    streams.machine.crash()
    canaries = streams.machine.writer.ledger.canaries
    assert {slot: canary.sequence for slot, canary in canaries["t0"].items()} == kept
    streams.machine.roll_back(sequences=(max(kept.values()), max(kept.values())))
    assert max(canary.sequence for canary in canaries["t0"].values()) < max(kept.values())
    streams.machine.delete("t0")
    assert canaries.keys() == ["t1"]
    streams.machine.close()


def test_without_canaries_there_is_no_guard(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "store", canary_rows=0)
    streams.ordinary(60)
    assert streams.machine.writer.ledger.canaries.keys() == []
    streams.machine.close()


def test_a_guard_that_fails_does_not_stop_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(tmp_path / "store")
    streams.teach("t0")

    def broken(*_: object) -> None:
        raise ArithmeticError("no measure")

    monkeypatch.setattr(guard, "measure", broken)
    streams.ordinary(30)
    assert "the guard failed" in caplog.text
    assert streams.machine.store.sequence == TASKS + 31
    streams.machine.close()


def test_canaries_that_fit_no_more_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    streams = Streams(tmp_path / "store")
    streams.ordinary(20)
    canaries = streams.machine.writer.ledger.canaries
    wrong = pack({"inputs": np.ones(3), "target": np.asarray([1])})
    canaries.put("t0", 0, Canary(1, wrong))
    streams.ordinary(60)
    assert [vars(one)["task"] for one in caplog.records if one.message == "canaries dropped"] == ["t0"]
    assert "the guard failed" not in caplog.text
    assert len(canaries["t1"]) == 8
    streams.machine.close()


def test_a_small_context_table_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    streams = Streams(tmp_path / "store", config=CONFIG.replace(context_table_bytes=1))
    assert streams.machine.store.contexts.capacity == 1
    streams.ordinary(60)
    assert "the guard failed" not in caplog.text
    streams.machine.close()


def test_free_places_are_filled_first(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "store", canary_rows=20)
    streams.teach("t0")
    canaries = streams.machine.writer.ledger.canaries
    canaries.drop("t0", [3, 7])
    before = dict(canaries["t0"].items())
    streams.teach("t0")
    assert set(canaries["t0"]) == set(range(20))
    kept = [slot for slot, canary in before.items() if canaries["t0"][slot] == canary]
    assert len(kept) >= len(before) - 10  # none but by the draw
    streams.machine.close()
