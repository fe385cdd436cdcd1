"""Cases that a review, a crash or a flipped bit once found."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from superposed import TaskSchema
from superposed.config import RehearsalConfig
from superposed.errors import CompositionNotSupported, UpdateError
from superposed_service.changes import replay, update
from superposed_service.changes.registration import Register
from superposed_service.changes.rehearsal import ForgetRows
from superposed_service.changes.rollback import RollbackChange, Selection, teaching
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.task_rows import erase_rows
from superposed_service.changes.update import Update
from superposed_service.engine.work import PendingWrite
from superposed_service.errors import DigestMismatch, HistoryTruncated, JournalCorrupt, NotReady, StorageUnavailable
from superposed_service.settings import Settings
from superposed_service.storage import Snapshots, idempotency
from superposed_service.storage.idempotency import IdempotencyKey
from tests.helpers.machine import CONFIG, Machine, commit

INPUTS: list[list[float]] = [[1, 2, 3, 4]]
HUGE: list[list[float]] = [[1e38, 1, 1, 1]]


def test_what_the_family_cannot_do_is_refused_before_it_is_journalled(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store", config=CONFIG.replace(family="binary"))
    machine.register("a")
    with pytest.raises(CompositionNotSupported):
        machine.update("a^2", INPUTS, [1], key="again")
    assert machine.update("a", INPUTS, [1])["sequence"] == 2
    with pytest.raises(CompositionNotSupported):
        machine.update("a^2", INPUTS, [1], key="again")
    machine.crash()
    assert machine.store.tasks.get("a").updates == 1
    machine.close()


def test_a_bug_while_applying_ends_the_writing_and_not_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")

    def broken(*_: object, **__: object) -> None:
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(update, "apply", broken)
        with pytest.raises(MemoryError):
            machine.update("a", INPUTS, [1])
    with pytest.raises(StorageUnavailable, match="no more"):
        machine.update("a", INPUTS, [1])
    with pytest.raises(StorageUnavailable):
        machine.snapshot()
    machine.crash()
    assert machine.store.tasks.get("a").updates == 1
    machine.close()


@pytest.mark.parametrize("inputs", [INPUTS, HUGE])
def test_a_crash_between_commit_and_apply(tmp_path: Path, inputs: list[list[float]]) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    origins = [IdempotencyKey(f"key-{number}", b"0" * 32) for number in range(3)]
    commit(
        machine.writer,
        [PendingWrite(Update(RowBatch("a", None, inputs), [1], 1), idempotency_key) for idempotency_key in origins],
    )
    machine.crash()
    for number, idempotency_key in enumerate(origins):
        change = Update(RowBatch("a", None, inputs), [1], 1)
        if inputs is HUGE:
            with pytest.raises(UpdateError):
                machine.do(change, idempotency_key)
        else:
            assert machine.do(change, idempotency_key)["sequence"] == 2 + number
    assert machine.store.sequence == (7 if inputs is HUGE else 4)
    machine.crash()
    assert machine.recovery.replayed == machine.store.sequence
    machine.close()


def test_a_refusal_found_a_day_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    commit(machine.writer, [PendingWrite(Update(RowBatch("a", None, HUGE), [1], 1), IdempotencyKey("key", b"0" * 32))])
    now = time.time()
    monkeypatch.setattr(idempotency.time, "time", lambda: now + 2 * Settings().idempotency_retention_s)
    machine.crash()
    with pytest.raises(UpdateError):
        machine.update("a", HUGE, [1], key="key")
    machine.close()


def test_after_a_failed_commit_a_retry_is_not_in_flight(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    machine.writer.transaction_log.answers.add(IdempotencyKey("key", b"0" * 32), 2)  # as a commit that failed leaves it
    machine.writer.transaction_log.database.fail("the disk is full")
    with pytest.raises(StorageUnavailable):
        machine.update("a", INPUTS, [1], key="key")
    machine.close()


def test_after_a_rollback_two_snapshots_can_still_be_started_from(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store", snapshots_kept=2, history_records=0)
    machine.register("a")
    for _ in range(3):
        machine.update("a", INPUTS, [1])
        machine.snapshot()
    machine.update("a", INPUTS, [1])
    machine.roll_back(sequences=(4, 5))
    machine.snapshot()
    digest = machine.store.digest()
    newest = max((machine.path / "snapshots").glob("*.safetensors"))
    newest.write_bytes(b"damaged")
    machine.crash()
    assert machine.store.digest() == digest
    assert machine.recovery.damaged == [newest.stem]
    machine.close()


def test_other_arithmetic_is_said_and_its_digests_are_not_believed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("superposed_service.engine.writer.DIGEST_INTERVAL", 2)
    machine = Machine(tmp_path / "store")
    machine.register("a")
    for _ in range(6):
        machine.update("a", INPUTS, [1])
    database = machine.writer.transaction_log.database
    with database.transaction():
        database.execute("UPDATE digests SET digest = 'other'", ())
    crashed = tmp_path / "crashed"
    shutil.copytree(machine.path, crashed)
    with pytest.raises(DigestMismatch):
        machine.crash()
    plain = replay.fingerprint
    for module in ("changes.replay", "api.app"):
        monkeypatch.setattr(
            f"superposed_service.{module}.fingerprint", lambda device: plain(device) | {"cpu": "another"}
        )
    elsewhere = Machine(crashed)
    assert elsewhere.recovery.fingerprint_changed
    assert len(elsewhere.directory.snapshots.list()) == 2
    newest = max((crashed / "snapshots").glob("*.safetensors"))
    newest.write_bytes(b"damaged")
    elsewhere.crash()
    assert not elsewhere.recovery.fingerprint_changed
    assert elsewhere.recovery.damaged == [newest.stem]
    elsewhere.close()


def test_trimmed_rows_are_gone_too(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store", snapshots_kept=2, history_records=0)
    machine.register("a")
    rows = np.random.default_rng(0).integers(0, 256, (64, 4))
    machine.update("a", rows.tolist(), [1] * 64)
    needle = rows.astype(np.uint8).tobytes()[:40]
    files = [machine.path / "journal.db", machine.path / "journal.db-wal"]
    assert any(needle in file.read_bytes() for file in files)
    for _ in range(3):
        machine.update("a", INPUTS, [1])
        machine.snapshot()
    assert machine.writer.transaction_log.journal.horizon > 2
    log = machine.writer.transaction_log
    erase_rows(log, {"a": teaching("a", log.journal)[1]}, machine.store.sequence)
    assert not any(needle in file.read_bytes() for file in files)
    machine.close()


def test_rows_that_a_recovery_needs_are_not_erased(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    machine.update("a", INPUTS, [1])
    machine.update("a", INPUTS, [1])
    snapshot = machine.snapshot()
    machine.roll_back(sequences=(3, 3))
    with pytest.raises(NotReady):
        erase_rows(machine.writer.transaction_log, {"a": [2, 3]}, snapshot.sequence)
    machine.crash()
    assert machine.store.tasks.get("a").updates == 1
    machine.close()


def test_an_update_goes_with_the_schema_that_its_targets_were_read_with(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")

    def register(labels: tuple[str, str]) -> None:
        schema = TaskSchema(key="a", inputs=4, outputs=2, labels=labels)
        machine.do(Register(lambda _: schema))

    register(("x", "y"))
    before = machine.store.digest()
    machine.delete("a")
    register(("y", "x"))
    machine.do(Update(RowBatch("a", None, INPUTS), ["x"], 1))
    assert machine.roll_back(sequences=(2, 3))["excluded"] == [[2, 4]]
    machine.store.sequence = 1
    assert machine.store.digest() == before
    machine.close()


def test_a_task_whose_first_registration_was_trimmed(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store", snapshots_kept=2, history_records=0)
    machine.register("a")
    machine.update("a", INPUTS, [1])
    for _ in range(2):
        machine.register("b")
        machine.delete("b")
        machine.snapshot()
    machine.delete("a")
    machine.register("a")
    machine.update("a", INPUTS, [1])
    with pytest.raises(HistoryTruncated, match="beginning of task a"):
        machine.roll_back(task="a")
    machine.close()


def test_a_rollback_sent_again_after_a_crash_is_answered(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    machine.update("a", INPUTS, [1])
    idempotency_key, selection = IdempotencyKey("rollback", b"0" * 32), Selection(to_sequence=1)
    first = machine.do(
        RollbackChange(selection, machine.directory.snapshots, machine.writer.transaction_log), idempotency_key
    )
    machine.crash()
    assert (
        machine.do(
            RollbackChange(selection, machine.directory.snapshots, machine.writer.transaction_log), idempotency_key
        )
        == first
    )
    machine.close()


def test_a_journal_of_nothing_is_not_taken_for_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    machine.close()
    for name in ("journal.db", "HEAD"):
        (tmp_path / "store" / name).unlink()
    with pytest.raises(JournalCorrupt, match="has no journal"):
        machine.open()
    (tmp_path / "store" / "journal.db").write_bytes(b"")
    with pytest.raises(JournalCorrupt):
        machine.open()


def test_a_record_that_cannot_be_applied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that a record meets again at every start: it is said, not a traceback."""
    machine = Machine(tmp_path / "store")
    machine.register("a")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(update, "apply", fail)
    with pytest.raises(RuntimeError):
        machine.update("a", [[1, 2, 3, 4]], [1])
    with pytest.raises(JournalCorrupt, match="record 2 cannot be applied"):
        machine.crash()


def test_rows_are_learned_as_they_are_recorded(tmp_path: Path) -> None:
    """A whole number that float64 holds otherwise than int64: rounded once or twice, it is another row."""
    machine = Machine(tmp_path / "store")
    machine.register("a")
    machine.register("b")
    rows = [[9007199791611905, 0, 0, 0], [0.5, 0.0, 0.0, 0.0]]
    change = Update(RowBatch(None, ["a", "b"], rows), [0, 1], 1).prepare(machine.store)
    record = SimpleNamespace(head=change.entry().head, payload=change.entry().payload, sequence=3)
    again = Update.from_record(record).prepare(machine.store)
    assert np.array_equal(change.batch.inputs.numpy(), again.batch.inputs.numpy())


def test_after_a_change_that_broke_off_nothing_more_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    whole, calls = update.apply, []

    def fail(*arguments: Any, **options: Any) -> object:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return whole(*arguments, **options)

    monkeypatch.setattr(update, "apply", fail)
    writes = [PendingWrite(Update(RowBatch("a", None, [[1, 2, 3, 4]]), [1], 1)) for _ in range(3)]
    commit(machine.writer, writes)
    while machine.writer.pending:
        machine.writer.apply_next()
    errors = [type(write.future.exception()) for write in writes]
    assert errors == [MemoryError, StorageUnavailable, StorageUnavailable]
    assert machine.store.sequence == 1
    machine.crash()  # all three are on the disk, and are applied now
    assert machine.store.sequence == 4


def test_a_snapshot_that_failed_is_still_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(tmp_path / "store")
    machine.register("a")
    for _ in range(4):
        machine.update("a", [[1, 2, 3, 4]], [1])
    before = machine.writer.records_since_snapshot
    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "write", lambda *_, **__: (_ for _ in ()).throw(StorageUnavailable("full")))
        with pytest.raises(StorageUnavailable):
            machine.snapshot()
    assert machine.writer.records_since_snapshot == before
    machine.snapshot()
    assert machine.writer.records_since_snapshot == 0
    assert machine.writer.bytes_since_snapshot == 0


def test_rows_of_compositions_are_forgotten_with_any_of_their_tasks(tmp_path: Path) -> None:
    config = CONFIG.replace(rehearsal=RehearsalConfig(rows_per_task=10))
    machine = Machine(tmp_path / "store", config=config)
    for key in "ab":
        machine.register(key)
    machine.update("mix(a:0.3,b:0.7)", [[1, 2, 3, 4]], [1])
    assert machine.store.replay_buffer.rows_kept("a") == 0
    assert machine.do(ForgetRows("a")) == {"rows": 1}
    assert machine.store.replay_buffer.rows_kept("b") == 0
    assert machine.do(ForgetRows("a")) == {"rows": 0}


def test_a_rollback_without_a_task_leaves_no_update_in_the_trimmed_past(tmp_path: Path) -> None:
    """A rollback took the first registration out, and another brought it back: the journal has the second."""
    machine = Machine(tmp_path / "store", history_records=0, snapshots_kept=2)
    machine.register("a")
    machine.update("a", INPUTS, [1])
    machine.snapshot()
    machine.roll_back(to_sequence=0)
    machine.register("a")
    machine.update("a", INPUTS, [1])
    machine.roll_back(sequences=(3, 3))
    assert machine.store.tasks.get("a").updates == 2
    machine.snapshot()
    machine.snapshot()
    journal = machine.writer.transaction_log.journal
    assert journal.horizon >= 2
    assert journal.horizon < 4
    with pytest.raises(HistoryTruncated):
        machine.roll_back(task="a")
    assert machine.store.tasks.get("a").updates == 2
    machine.close()
