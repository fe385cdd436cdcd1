from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from superposed.errors import ConfigError
from superposed_service.api.app import open_store
from superposed_service.errors import SnapshotMismatch, StorageUnavailable, StoreLocked
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Snapshot, Snapshots, TransactionLog
from superposed_service.storage import journal as journals
from superposed_service.storage.journal import Entry
from tests.conftest import make_directory


def write(snapshots: Snapshots, data: bytes, sequence: int) -> Snapshot:
    return snapshots.write(data, sequence=sequence, digest="")


def always(_: int) -> bool:
    return True


def test_what_a_rollback_made_useless_does_not_count_as_kept(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    for sequence in (0, 4, 10, 11, 12, 13):
        write(snapshots, b"store %d" % sequence, sequence)
    assert snapshots.trim(0, lambda sequence: sequence in {0, 4, 13}) == 4
    assert [snapshot.sequence for snapshot in snapshots.list()] == [4, 11, 12, 13]


def test_a_damaged_snapshot_is_written_again(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    written = write(snapshots, b"store", 1)
    (tmp_path / "s" / f"{written.id}.safetensors").write_bytes(b"damaged")
    assert snapshots.read(write(snapshots, b"store", 1)) == b"store"


def test_a_manifest_says_what_it_was_written_with(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    write(snapshots, b"old", 1)
    manifest = tmp_path / "s" / f"{write(snapshots, b'new', 2).id}.json"
    text = manifest.read_text()
    for damaged in (text.replace('"sequence": 2', '"sequence": 3'), text[:-3], "", "[]"):
        manifest.write_text(damaged)
        assert [snapshot.sequence for snapshot in snapshots.list()] == [1]
        assert snapshots.unreadable() == [manifest.name]


def test_one_owner(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "d"), pytest.raises(StoreLocked, match="another process"):
        DataDirectory(tmp_path / "d")
    DataDirectory(tmp_path / "d").close()


def test_a_directory_is_private_and_initialised_once(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "d")
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    with DataDirectory(path) as directory, pytest.raises(ConfigError, match="already"):
        directory.initialise(b"another", sequence=0, digest="", lineage="")


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageUnavailable):
        DataDirectory(tmp_path / "file" / "d")


def test_the_newest_are_kept_and_one_that_history_reaches_back_to(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    for sequence in (0, 3, 10, 200, 300):
        write(snapshots, b"store %d" % sequence, sequence)
    (tmp_path / "s" / "left-behind.safetensors").write_bytes(b"no manifest")
    assert snapshots.trim(290, always) == 10
    assert [snapshot.sequence for snapshot in snapshots.list()] == [10, 200, 300]
    assert [snapshots.read(snapshot) for snapshot in snapshots.list()] == [b"store 10", b"store 200", b"store 300"]
    assert len(list((tmp_path / "s").iterdir())) == 6
    assert snapshots.trim(1000, always) == 10
    assert snapshots.trim(0, always) == 200


def test_the_same_sequence_again(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    first = write(snapshots, b"a", 1)
    assert write(snapshots, b"a", 1) == first
    assert write(snapshots, b"b", 1).sha256 != first.sha256
    assert [snapshots.read(snapshot) for snapshot in snapshots.list()] == [b"a", b"b"]


def test_a_flipped_byte_is_never_served(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "d")
    [data] = (path / "snapshots").glob("*.safetensors")
    good = data.read_bytes()
    for place in (0, 9, len(good) // 2, len(good) - 1):
        data.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with DataDirectory(path) as directory, pytest.raises(SnapshotMismatch, match="damaged"):
            open_store(directory, Settings())
    data.unlink()
    with DataDirectory(path) as directory, pytest.raises(StorageUnavailable):
        open_store(directory, Settings())
    [manifest] = (path / "snapshots").glob("*.json")
    manifest.write_text("{")
    with DataDirectory(path) as directory, pytest.raises(SnapshotMismatch, match="manifest"):
        open_store(directory, Settings())


def test_an_empty_directory_holds_no_store(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "d") as directory, pytest.raises(ConfigError, match="no store"):
        open_store(directory, Settings())


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)
    write(snapshots, b"old", 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("superposed.store.tensorfile.os.fsync", full)
    for sequence in (1, 2):
        with pytest.raises(StorageUnavailable, match="No space"):
            write(snapshots, b"new", sequence)
        assert [snapshots.read(snapshot) for snapshot in snapshots.list()] == [b"old"]


def test_listing_while_snapshots_come_and_go(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path / "s", kept=2)

    def come_and_go() -> None:
        for sequence in range(150):
            write(snapshots, b"%d" % sequence, sequence)
            snapshots.trim(0, always)

    writing = threading.Thread(target=come_and_go)
    writing.start()
    while writing.is_alive():
        assert len(snapshots.list()) <= 4
    writing.join()
    assert [snapshot.sequence for snapshot in snapshots.list()] == [148, 149]


def test_rare_records_are_found_by_their_index(tmp_path: Path) -> None:
    transaction_log = TransactionLog(tmp_path)
    transaction_log.begin(4)
    kinds = ["update", "refusal", "update", "rollback", "register", "update", "refusal"]
    transaction_log.write([(Entry(kind, {"place": place}, b"rows"), None) for place, kind in enumerate(kinds)])
    journal, wanted = transaction_log.journal, {"refusal", "rollback"}
    assert journal.rare(wanted) == list(journal.heads(wanted))
    assert [head["place"] for _, _, head in journal.rare(wanted)] == [1, 3, 6]
    [plan] = transaction_log.database.query(
        "EXPLAIN QUERY PLAN SELECT head FROM records WHERE kind <> 'update' AND kind IN ('refusal')"
    )
    assert "rare_records" in plan[-1]
    transaction_log.close()


def test_a_journal_is_trimmed_by_as_many_bytes_as_nobody_minds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "_TRIMMED_BYTES", 1000)
    monkeypatch.setattr(journals, "_TRIMMED_RECORDS", 3)
    transaction_log = TransactionLog(tmp_path)
    transaction_log.begin(0)
    sizes = [400, 500, 300, 5000, 10, 10, 10, 10, 10]
    transaction_log.write([(Entry("update", {}, b"x" * size), None) for size in sizes])
    horizons = []
    while transaction_log.journal.trim(8):
        horizons.append(transaction_log.journal.horizon)
    assert horizons == [2, 3, 4, 7]  # by bytes; one that is larger than that alone; by number
    assert transaction_log.journal.horizon == 8
    assert not transaction_log.journal.trim(8)
    assert [record.sequence for record in transaction_log.journal.replay(8)] == [9]
    transaction_log.close()
