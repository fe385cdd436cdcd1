"""A server whose directory is moved, replaced or robbed of a file harms neither the old nor the new one."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from superposed_service.changes.replay import check_history
from superposed_service.changes.verify import verify
from superposed_service.errors import JournalCorrupt, SnapshotMismatch, StorageUnavailable
from superposed_service.storage import DataDirectory
from tests.durability.record import RECORDINGS, RUN, running
from tests.helpers.machine import Machine
from tests.helpers.recorded import FIRST

ROW: list[list[float]] = [[1, 2, 3, 4]]


def taught(path: Path, updates: int = 3) -> Machine:
    machine = Machine(path)
    machine.register("a")
    for _ in range(updates):
        machine.update("a", ROW, [1])
    return machine


def files(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.glob("**/*") if one.is_file()}


def replaced(path: Path, backup: Path) -> None:
    path.rename(path.with_name("moved"))
    shutil.copytree(backup, path)


def emptied(path: Path, backup: Path) -> None:
    """The directory itself stays, and holds other files."""
    shutil.copytree(path, path.with_name("moved"))
    for one in path.iterdir():
        shutil.rmtree(one) if one.is_dir() else one.unlink()
    shutil.copytree(backup, path, dirs_exist_ok=True)


def taken_away(path: Path, backup: Path) -> None:
    del backup
    path.rename(path.with_name("moved"))


@pytest.mark.parametrize("swap", [replaced, emptied, taken_away])
def test_a_replaced_directory_is_not_written(swap: Callable[[Path, Path], None], tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    machine.crash()  # so that there is a write-ahead log, as after kill -9
    backup = tmp_path / "backup"
    shutil.copytree(machine.path, backup)
    machine.update("a", ROW, [0])
    swap(machine.path, backup)
    before = files(machine.path) if machine.path.exists() else {}
    assert machine.directory.replaced
    with pytest.raises(StorageUnavailable, match="moved or replaced"):
        machine.snapshot()
    with pytest.raises(StorageUnavailable, match="moved or replaced"):
        machine.directory.snapshots.remove(lambda _: True)
    with pytest.raises(StorageUnavailable, match="journal failed"):
        machine.update("a", ROW, [1])
    machine.close()
    assert (files(machine.path) if machine.path.exists() else {}) == before
    if before:
        machine.open()
        assert machine.store.sequence == 4  # as in the backup
        machine.close()
    moved = Machine(tmp_path / "moved")
    assert moved.store.sequence >= 4
    moved.close()


def test_a_server_whose_directory_was_replaced_writes_nothing_and_exits_non_zero(tmp_path: Path) -> None:
    path, backup = tmp_path / "store", tmp_path / "backup"
    subprocess.run([*RUN, "init", str(path), *RECORDINGS["clean"][0]], check=True, stderr=subprocess.DEVNULL)
    with running(path, signal.SIGKILL) as server:
        server.register("a")
        server.teach("a", 1)
    shutil.copytree(path, backup)
    with running(path, signal.SIGTERM) as server:
        server.teach("a", 2)
        replaced(path, backup)
        before = files(path)
        assert server.http.post("/v1/snapshots").status_code == 503
        assert server.http.get("/health/ready").status_code == 503
        assert server.send("POST", "/v1/infer", context="a", inputs=[[0.0] * 6])["sequence"] == 3
    assert server.status == 4
    assert files(path) == before
    with running(path, signal.SIGTERM) as server:
        assert server.send("GET", "/v1/store")["sequence"] == 2
    assert server.status == 0
    with running(tmp_path / "moved", signal.SIGTERM) as server:
        assert server.send("GET", "/v1/store")["sequence"] == 3


def test_a_snapshot_of_another_history_is_passed_over_and_named(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    machine.snapshot()
    machine.close()
    shutil.copytree(machine.path, tmp_path / "other")
    other = Machine(tmp_path / "other")
    other.update("a", ROW, [0])
    other.update("a", ROW, [0])
    foreign = other.snapshot()
    other.close()
    machine.open()
    for _ in range(2):
        machine.update("a", ROW, [1])
    digest = machine.store.digest()
    for suffix in (".json", ".safetensors"):
        shutil.copy(tmp_path / "other" / "snapshots" / f"{foreign.id}{suffix}", machine.path / "snapshots")
    machine.crash()
    assert machine.store.digest() == digest
    assert machine.recovery.damaged == [foreign.id]
    with pytest.raises(SnapshotMismatch, match="another directory"):
        check_history(machine.writer.transaction_log.journal, foreign)
    machine.close()
    with DataDirectory(machine.path) as directory:
        bad = [one for one in verify(directory) if one.remedy is not None]
    assert [one.subject for one in bad] == [f"origin of {foreign.id}"]


def test_a_journal_of_another_store_is_refused(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    with pytest.raises(JournalCorrupt, match="another store"):
        machine.writer.transaction_log.journal.set_identity("0" * 32, "x")
    assert machine.writer.transaction_log.journal.incarnation not in (None, "x")
    machine.close()


@pytest.mark.parametrize("gone", [["HEAD"], ["HEAD", "journal.db-wal"], ["journal.db-wal"]])
def test_a_directory_without_its_head_or_log_is_refused(gone: list[str], tmp_path: Path) -> None:
    machine = taught(tmp_path / "store", updates=300)
    image = tmp_path / "killed"
    shutil.copytree(machine.path, image)
    machine.close()
    for name in gone:
        assert (image / name).stat().st_size
        (image / name).unlink()
    for _ in range(2):  # refused again, whatever the first try left behind
        with pytest.raises(JournalCorrupt, match=r"HEAD is missing|acknowledged"):
            Machine(image)
    (image / "HEAD").write_bytes(b"")
    with pytest.raises(JournalCorrupt, match=r"HEAD is missing|acknowledged"):
        Machine(image)


@pytest.mark.parametrize("archive", [one for one in FIRST if one.name == "killed.tar.xz"], ids=str)
def test_a_directory_of_the_first_release_needs_its_head_once_it_was_opened(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path, filter="data")
    path = tmp_path / "killed"
    (path / "HEAD").unlink()
    Machine(path).close()  # as the first release did
    (path / "HEAD").unlink()
    with pytest.raises(JournalCorrupt, match="HEAD is missing"):
        Machine(path)


def test_removing_the_head_under_a_process_ends_its_writing(tmp_path: Path) -> None:
    machine = taught(tmp_path / "store")
    (machine.path / "HEAD").unlink()
    with pytest.raises(StorageUnavailable, match="HEAD"):
        machine.snapshot()
    machine.close()
