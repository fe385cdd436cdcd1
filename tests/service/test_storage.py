from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from superposed.errors import ConfigError
from superposed_service.app import load_store
from superposed_service.errors import SnapshotMismatch, StorageUnavailable, StoreLocked
from superposed_service.storage import DataDirectory, Snapshots
from tests.conftest import make_directory


def test_one_owner(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "d"), pytest.raises(StoreLocked, match="another process"):
        DataDirectory(tmp_path / "d")
    DataDirectory(tmp_path / "d").close()


def test_a_directory_is_private_and_initialised_once(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "d")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with DataDirectory(path) as directory, pytest.raises(ConfigError, match="already"):
        directory.initialise(b"another")


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable):
        DataDirectory(tmp_path / "file" / "d")


def test_the_newest_are_kept(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    for sequence in (3, 10, 200):
        snapshots.write(b"store %d" % sequence, sequence=sequence)
    assert [snapshot.sequence for snapshot in snapshots.list()] == [10, 200]
    assert [snapshots.read(snapshot) for snapshot in snapshots.list()] == [b"store 10", b"store 200"]
    (tmp_path / "s" / "left-behind.safetensors").write_bytes(b"no manifest")
    snapshots.write(b"store 201", sequence=201)
    assert len(list((tmp_path / "s").iterdir())) == 4


def test_the_same_sequence_again(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    first = snapshots.write(b"a", sequence=1)
    assert snapshots.write(b"a", sequence=1) == first
    assert snapshots.write(b"b", sequence=1).sha256 != first.sha256
    assert [snapshots.read(snapshot) for snapshot in snapshots.list()] == [b"a", b"b"]


def test_a_flipped_byte_is_never_served(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "d")
    [data] = (path / "snapshots").glob("*.safetensors")
    good = data.read_bytes()
    for place in (0, 9, len(good) // 2, len(good) - 1):
        data.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with DataDirectory(path) as directory, pytest.raises(SnapshotMismatch, match="damaged"):
            load_store(directory, "cpu")
    data.unlink()
    with DataDirectory(path) as directory, pytest.raises(StorageUnavailable):
        load_store(directory, "cpu")
    [manifest] = (path / "snapshots").glob("*.json")
    manifest.write_text("{")
    with DataDirectory(path) as directory, pytest.raises(SnapshotMismatch, match="manifest"):
        load_store(directory, "cpu")


def test_an_empty_directory_holds_no_store(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "d") as directory, pytest.raises(ConfigError, match="no store"):
        load_store(directory, "cpu")


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    snapshots.write(b"old", sequence=1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("superposed.tensorfile.os.fsync", full)
    for sequence in (1, 2):
        with pytest.raises(StorageUnavailable, match="No space"):
            snapshots.write(b"new", sequence=sequence)
        assert [snapshots.read(snapshot) for snapshot in snapshots.list()] == [b"old"]


def test_listing_while_snapshots_come_and_go(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    writing = threading.Thread(
        target=lambda: [snapshots.write(b"%d" % sequence, sequence=sequence) for sequence in range(150)]
    )
    writing.start()
    while writing.is_alive():
        assert len(snapshots.list()) <= 3
    writing.join()
    assert [snapshot.sequence for snapshot in snapshots.list()] == [148, 149]
