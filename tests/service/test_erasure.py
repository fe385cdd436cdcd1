"""Erasing a task's rows removes them everywhere, and does not take other tasks' way back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, StoreConfig
from superposed.config import RehearsalConfig
from superposed_client import Client, HistoryTruncated
from superposed_service.changes.replay import recover
from superposed_service.changes.verify import verify
from superposed_service.errors import StorageUnavailable
from superposed_service.runtime import runtime
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory, serving, wait_for
from tests.helpers.http import problem

REHEARSING = plain_config(
    network=MLPConfig(inputs=6, hidden=(9,), outputs=3),
    optimizer=OptimizerConfig(learning_rate=1e-2),
    rehearsal=RehearsalConfig(rows_per_task=30),
)
PLAIN = REHEARSING.replace(rehearsal=RehearsalConfig(rows_per_task=0))


class Site:
    """A server with an administrator and one client that may update."""

    def __init__(self, http: httpx.Client) -> None:
        self.http, url = http, str(http.base_url)
        admin = http.post("/v1/keys", json={"scope": "admin"}).json()["key"]
        self.admin = Client(url, api_key=admin)
        self.id = (made := self.admin.keys.create(scope="update")).id
        self.updater = Client(url, api_key=made.key)

    def close(self) -> None:
        self.admin.close()
        self.updater.close()

    def teach(self, key: str, updates: int = 4) -> None:
        rows = np.random.default_rng(updates).normal(size=(5, 6))
        for _ in range(updates):
            self.updater.update(key, rows, rows[:, :3].argmax(1).tolist())

    def answer(self, key: str) -> list[list[float]]:
        return self.updater.infer(key, np.eye(6)[:2]).probabilities or []


@contextmanager
def site(path: Path, config: StoreConfig = REHEARSING, **settings: object) -> Iterator[Site]:
    with serving(path if path.exists() else make_directory(path, config), **settings) as http:
        made = Site(http)
        for key in ("private", "other"):
            made.updater.register_task(key, inputs=6, outputs=3)
        try:
            yield made
        finally:
            made.close()


def test_an_updater_erases_and_others_can_still_go_back(tmp_path: Path) -> None:
    with site(tmp_path / "store") as made:
        made.teach("other")
        before, middle = made.answer("other"), made.admin.take_snapshot().sequence
        made.teach("private")
        made.admin.take_snapshot()  # it holds kept rows of both
        made.teach("private")
        erased = made.updater.erase_rows("private")
        assert (erased.records, erased.rows) == (8, 30)
        assert erased.snapshots_until is not None
        assert 23 * 3600 < erased.snapshots_until - time.time() < 25 * 3600
        assert made.admin.get_task("private").rows_kept == 0
        assert len(made.admin.list_snapshots()) == 4  # of `init`, two by hand, and the erasure's
        with pytest.raises(HistoryTruncated, match="erased"):
            made.admin.roll_back(to_sequence=middle + 6)  # past the first erased record
        assert made.admin.roll_back(to_sequence=middle).rebuilt_from == middle
        assert made.answer("other") == before
        assert made.admin.get_task("private").rows_kept == 0
        made.teach("other", 2)
    with DataDirectory(tmp_path / "store") as directory:
        assert [one for one in verify(directory) if one.remedy] == []


def test_erased_rows_do_not_come_back_with_a_rollback(tmp_path: Path) -> None:
    """The snapshot gone back to holds the rows, and the erasure is among the records taken out."""
    path = tmp_path / "store"
    with site(path) as made:
        made.teach("private")
        made.teach("other")
        held = made.admin.take_snapshot()
        made.updater.erase_rows("private")
        made.teach("other")
        made.admin.restore_snapshot(held.id)
        assert made.admin.get_task("private").rows_kept == 0
        assert made.admin.get_task("other").rows_kept == 20
        digest = made.admin.take_snapshot().digest
    for snapshot in sorted((path / "snapshots").glob("*.safetensors"))[-2:]:
        snapshot.write_bytes(b"damaged")  # so that the replay starts from the one that holds the rows
    with DataDirectory(path) as directory:
        transaction_log = directory.transaction_log()
        store, recovery = recover(directory.snapshots, transaction_log, "cpu")
        assert recovery.snapshot == held.id
        assert store.replay_buffer.rows_kept("private") == 0
        assert store.digest() == digest


def test_older_snapshots_go_when_their_time_is_over(tmp_path: Path) -> None:
    with site(tmp_path / "store", erased_snapshot_retention_s=0.0) as made:
        made.teach("private")
        made.admin.take_snapshot()
        made.updater.erase_rows("private")
        deadline = time.monotonic() + 60
        while len(made.admin.list_snapshots()) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_an_administrator_removes_older_snapshots_at_once(tmp_path: Path) -> None:
    with site(tmp_path / "store") as made:
        made.teach("private")
        made.admin.take_snapshot()
        assert made.updater.erase_rows("private").snapshots_until is not None
        assert len(made.admin.list_snapshots()) == 3
        assert made.admin.erase_rows("private").snapshots_until is None
        [left] = made.admin.list_snapshots()
        sequence = made.admin.store().sequence
        assert left.sequence == sequence
        assert made.admin.erase_rows("private").records == 0  # nothing is left to do
        assert made.admin.store().sequence == sequence


@pytest.mark.parametrize("config", [PLAIN, REHEARSING], ids=["plain", "rehearsing"])
def test_erasing_an_empty_task_does_nothing(config: StoreConfig, tmp_path: Path) -> None:
    with site(tmp_path / "store", config) as made:
        made.teach("other")
        made.admin.take_snapshot()
        made.teach("other")
        sequence, snapshots = made.admin.store().sequence, made.admin.list_snapshots()
        for who in (made.updater, made.admin):
            erased = who.erase_rows("private")
            assert (erased.records, erased.rows, erased.snapshots_until) == (0, 0, None)
        assert made.admin.store().sequence == sequence
        assert made.admin.list_snapshots() == snapshots
        assert made.admin.roll_back(api_key=made.id).excluded


def test_records_after_an_erasure_can_be_taken_out(tmp_path: Path) -> None:
    with site(tmp_path / "store", PLAIN) as made:
        made.teach("private")
        assert made.updater.erase_rows("private").snapshots_until is None
        after, before = made.admin.store().sequence, made.answer("other")
        made.teach("other")
        assert made.answer("other") != before
        with pytest.raises(HistoryTruncated, match="a range of records after the erasure"):
            made.admin.roll_back(sequences=(3, 3))
        made.admin.roll_back(sequences=(after + 1, made.admin.store().sequence))
        assert made.answer("other") == before
        assert made.admin.roll_back(api_key=made.id).excluded  # what was erased is taken out itself


def test_it_is_said_how_far_a_rollback_reaches_after_an_erasure(tmp_path: Path) -> None:
    with site(tmp_path / "store") as made:
        made.teach("private")
        made.teach("other")
        made.admin.erase_rows("private")
        reached = made.admin.store().sequence
        made.teach("other")
        with pytest.raises(HistoryTruncated, match=f"rows were erased since; expected records after {reached}$"):
            made.admin.roll_back(to_sequence=0)
        made.admin.roll_back(to_sequence=reached)


def test_snapshots_that_a_recovery_still_needs_are_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rollback to before the erasure, only older snapshots are starts until a new one is taken."""
    path = tmp_path / "store"
    for name in ("_RETRY_S", "_WATCH_S"):
        monkeypatch.setattr(runtime, name, 0.05)
    with site(path) as made:
        made.teach("other")
        held = made.admin.take_snapshot()
        made.teach("private")
        made.updater.erase_rows("private")
        tried: list[int] = []
        now = time.time()

        def fail(*_: object) -> None:
            tried.append(1)
            raise StorageUnavailable("no room")

        with monkeypatch.context() as broken:
            broken.setattr(runtime, "keep", fail)
            gone_back = {"to_sequence": held.sequence}
            problem(made.admin._http.post("/v1/rollback", json=gone_back), 503, "storage-unavailable")
            broken.setattr(runtime.time, "time", lambda: now + 48 * 3600)
            wait_for(lambda: len(tried) >= 3)  # each removal wants a start first
            assert held.id in {one.id for one in made.admin.list_snapshots()}
        monkeypatch.setattr(runtime.time, "time", lambda: now + 48 * 3600)
        wait_for(lambda: held.id not in {one.id for one in made.admin.list_snapshots()})
    with DataDirectory(path) as directory:
        assert [one for one in verify(directory) if one.remedy] == []
