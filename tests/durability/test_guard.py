"""The guard: a stream that pushes other tasks down is quarantined; ordinary ones never are."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.datasets import sklearn_dataset
from superposed import StoreConfig, TaskSchema, WeightStore
from superposed.config import RehearsalConfig
from superposed.errors import UpdateError
from superposed_service.changes.registration import Register
from superposed_service.changes.replay import replay
from superposed_service.changes.rows import RowBatch, pack
from superposed_service.changes.update import Update
from superposed_service.engine import poison_detector
from superposed_service.errors import Quarantined
from superposed_service.storage import Canary
from tests.helpers.machine import Machine
from tests.helpers.sgd_config import CONFIG

DIGITS = sklearn_dataset("digits")
TASKS = 6


class Streams:
    """Digits with permuted pixels: a stream a task, and one with huge rows and random labels."""

    def __init__(self, path: Path, *, config: StoreConfig = CONFIG, **settings: Any) -> None:
        new = not path.exists()
        self.machine = Machine(path, config=config, poison_interval_steps=24, **settings)
        self.draw = np.random.default_rng(0)
        for number in range(TASKS if new else 0):
            self.register(f"t{number}")

    def register(self, key: str, **more: bool) -> None:
        schema = TaskSchema(key=key, inputs=64, outputs=10, scale=(16.0,) * 64, **more)
        self.machine.do(Register(lambda _: schema))

    def teach(self, key: str, scale: float = 1.0, author: str | None = None) -> None:
        chosen = self.draw.integers(0, len(DIGITS.train_y), 16)
        order = np.random.default_rng(sum(key.encode())).permutation(64)
        labels = DIGITS.train_y[chosen] if scale == 1 else self.draw.integers(0, 10, 16)
        rows = RowBatch(key, None, DIGITS.train_x[chosen][:, order] * scale)
        change = Update(rows, labels.tolist(), 1)
        change.author = author
        self.machine.do(change)

    def ordinary(self, updates: int) -> None:
        for _ in range(updates):
            self.teach(f"t{self.draw.integers(0, TASKS)}", author="honest")

    @property
    def quarantined(self) -> dict[str, int]:
        return self.machine.store.tasks.quarantined


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory whose tasks know what they were taught."""
    streams = Streams(tmp_path_factory.mktemp("trained") / "store")
    streams.ordinary(2000)
    assert streams.quarantined == {}
    streams.machine.snapshot()
    streams.machine.close()
    return streams.machine.path


@pytest.fixture
def ready(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "store"))


def test_a_harmful_stream_is_held_and_nobody_else(ready: Path) -> None:
    streams = Streams(ready)
    streams.ordinary(100)
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
    [record] = streams.machine.writer.transaction_log.journal.heads({"quarantine"})
    reason = record[2]["reason"]
    assert reason["by"] == "guard"
    assert reason["rise"] >= reason["limit"] >= 0.3
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
    canaries = streams.machine.writer.transaction_log.canaries
    assert canaries.keys() == ["t0", "t1"]
    kept = {slot: canary.sequence for slot, canary in canaries["t0"].items()}
    assert set(kept) == set(range(5))
    assert max(kept.values()) > TASKS + 30  # not just the first rows
    streams.machine.snapshot()  # brings them to the disk
    streams.machine.crash()
    canaries = streams.machine.writer.transaction_log.canaries
    assert {slot: canary.sequence for slot, canary in canaries["t0"].items()} == kept
    streams.machine.roll_back(sequences=(max(kept.values()), max(kept.values())))
    assert max(canary.sequence for canary in canaries["t0"].values()) < max(kept.values())
    streams.machine.delete("t0")
    assert canaries.keys() == ["t1"]
    streams.machine.close()


def test_without_canaries_there_is_no_guard(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "store", canary_rows=0)
    streams.ordinary(60)
    assert streams.machine.writer.transaction_log.canaries.keys() == []
    streams.machine.close()


def test_a_guard_that_fails_does_not_stop_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(tmp_path / "store")
    streams.teach("t0")

    def broken(*_: object) -> None:
        raise ArithmeticError("no measure")

    monkeypatch.setattr(poison_detector, "measure", broken)
    streams.ordinary(30)
    assert "the poison detector failed" in caplog.text
    assert streams.machine.store.sequence == TASKS + 31
    streams.machine.close()


def test_canaries_that_fit_no_more_are_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    streams = Streams(tmp_path / "store")
    streams.ordinary(20)
    canaries = streams.machine.writer.transaction_log.canaries
    wrong = pack({"inputs": np.ones(3), "target": np.asarray([1])})
    canaries.put("t0", 0, Canary(1, wrong))
    streams.ordinary(60)
    assert [vars(one)["task"] for one in caplog.records if one.message == "canaries dropped"] == ["t0"]
    assert "the poison detector failed" not in caplog.text
    assert len(canaries["t1"]) == 8
    streams.machine.close()


def test_a_small_context_table_is_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    streams = Streams(tmp_path / "store", config=CONFIG.replace(context_table_bytes=1))
    assert streams.machine.store.contexts.capacity == 1
    streams.ordinary(60)
    assert "the poison detector failed" not in caplog.text
    streams.machine.close()


def test_free_places_are_filled_first(tmp_path: Path) -> None:
    streams = Streams(tmp_path / "store", canary_rows=20)
    streams.teach("t0")
    canaries = streams.machine.writer.transaction_log.canaries
    canaries.drop("t0", [3, 7])
    before = dict(canaries["t0"].items())
    streams.teach("t0")
    assert set(canaries["t0"]) == set(range(20))
    kept = [slot for slot, canary in before.items() if canaries["t0"][slot] == canary]
    assert len(kept) >= len(before) - 10  # none but by the draw
    streams.machine.close()


def attack(streams: Streams, *keys: str, author: str | None = None) -> int:
    """Large rows to these tasks in turn, with ordinary updates between them, until one is quarantined."""
    for number in range(100):
        if streams.quarantined:
            return number
        with contextlib.suppress(UpdateError):  # of some the gradient is too long
            streams.teach(keys[number % len(keys)], scale=100.0, author=author)
        streams.ordinary(1)
    return 100


def test_a_cold_server_stops_what_begins_at_once(ready: Path) -> None:
    """Canaries and baseline are on the disk: the first update after a restart may be the harmful one."""
    streams = Streams(ready)
    streams.machine.writer.transaction_log.canaries.baseline = (0.01, 0.02)
    streams.register("bad")
    streams.machine.snapshot()
    streams.machine.crash()
    assert streams.machine.writer.transaction_log.canaries.baseline == (0.01, 0.02)
    assert attack(streams, "bad") < 30
    assert set(streams.quarantined) == {"bad"}
    streams.machine.close()


@pytest.mark.parametrize("before", range(0, 24, 2))
def test_harm_is_found_wherever_in_an_interval_it_begins(ready: Path, before: int) -> None:
    streams = Streams(ready)
    streams.register("bad")
    streams.ordinary(before)
    for _ in range(60):
        if streams.quarantined:
            break
        with contextlib.suppress(UpdateError):
            streams.teach("bad", scale=100.0)
    assert set(streams.quarantined) == {"bad"}
    streams.machine.close()


def test_with_rehearsal_the_replay_aside_is_the_live_computation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = CONFIG.replace(rehearsal=RehearsalConfig(rows_per_task=40, logit_share=0.5))
    streams = Streams(tmp_path / "store", config=config)
    streams.ordinary(1500)
    streams.register("bad")
    assert attack(streams, "bad") < 60
    assert set(streams.quarantined) == {"bad"}
    assert "another store" not in caplog.text
    streams.machine.close()


def test_a_replay_that_arrives_elsewhere_blames_nobody(
    ready: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(ready)
    streams.register("bad")

    def elsewhere(store: WeightStore, *arguments: object) -> object:
        with torch.no_grad():
            next(store.network.parameters()).add_(1e-6)
        return replay(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(poison_detector, "replay", elsewhere)
    assert attack(streams, "bad") == 100
    assert "arrived at another store" in caplog.text
    streams.machine.close()


def test_an_alert_is_a_line_in_the_log_and_no_quarantine(ready: Path, caplog: pytest.LogCaptureFixture) -> None:
    streams = Streams(ready, poison_action="alert")
    streams.register("bad")
    assert attack(streams, "bad") == 100
    assert "canaries rose by more than crosstalk explains" in caplog.text
    streams.machine.close()


def test_many_tasks_of_one_key_do_not_hide_it(ready: Path) -> None:
    """Canary places are shared by API key, and harm to an attacker's own tasks counts for nobody."""
    streams = Streams(ready, canary_tasks=16)
    decoys = [f"decoy{number}" for number in range(40)]
    for key in decoys:
        streams.register(key)
        streams.teach(key, author="foe")
    chosen = streams.machine.writer._detector._chosen(streams.machine.store)  # type: ignore[union-attr]
    assert len(chosen) == 16
    assert sum(key.startswith("t") for key in chosen) == TASKS  # all of them, beside as many decoys as fit
    assert attack(streams, *decoys, author="foe") < 60
    sources = set(streams.quarantined)
    assert sources
    assert sources <= {*decoys, "key:foe"}
    streams.machine.close()


def test_a_task_with_tiny_targets_frames_nobody(ready: Path) -> None:
    """A sensor in small units: what crosstalk moves is far more than its targets differ by."""
    streams = Streams(ready)
    schema = TaskSchema(key="sensor", inputs=64, outputs=1, loss="mse")
    streams.machine.do(Register(lambda _: schema))
    for _ in range(400):
        streams.ordinary(1)
        targets = (0.0005 + 1e-4 * streams.draw.normal(size=(16, 1))).tolist()
        rows = DIGITS.train_x[streams.draw.integers(0, len(DIGITS.train_y), 16)] / 16.0
        streams.machine.do(Update(RowBatch("sensor", None, rows), targets, 1))
    assert streams.quarantined == {}
    streams.machine.close()


def test_steps_count_and_not_updates(ready: Path) -> None:
    streams = Streams(ready)
    watched = streams.machine.writer._detector
    assert watched is not None
    before = watched._windows[-1].sequence
    rows = RowBatch("t0", None, DIGITS.train_x[:16] * 1.0)
    streams.machine.do(Update(rows, DIGITS.train_y[:16].tolist(), 24))  # an interval's steps at once
    assert watched._windows[-1].sequence > before
    streams.machine.close()
