"""No client can push out the response that another one's retry needs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from superposed_service.changes.registration import Register
from superposed_service.changes.rows import RowBatch
from superposed_service.changes.update import Update
from superposed_service.engine.work import PendingWrite
from superposed_service.errors import QuotaExceeded
from superposed_service.storage import idempotency
from superposed_service.storage.idempotency import IdempotencyKey
from tests.helpers.machine import Machine, commit, schema

ROW: list[list[float]] = [[1, 2, 3, 4]]


def machine_of(path: Path, **settings: int) -> Machine:
    machine = Machine(path, **settings)
    for key in "ab":
        machine.register(key)
    return machine


def write(task: str, key: str, author: str | None = None) -> PendingWrite:
    change = Update(RowBatch(task, None, ROW), [1], 1)
    change.author = author
    return PendingWrite(change, IdempotencyKey(key, b"0" * 32))


def settle(machine: Machine, *writes: PendingWrite) -> list[object]:
    commit(machine.writer, writes)
    while machine.writer.pending:
        machine.writer.apply_next()
    return [one.future.exception() or one.future.result() for one in writes]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("authors", [("first", "second"), (None, None)])
def test_an_owner_at_its_bound_is_rejected_and_the_other_is_not(
    authors: tuple[str | None, str | None], together: bool, tmp_path: Path
) -> None:
    machine = machine_of(tmp_path / "store", idempotency_responses=3)
    [kept] = settle(machine, write("b", "mine", authors[1]))
    flood = [write("a", f"key-{number}", authors[0]) for number in range(5)]
    found = settle(machine, *flood) if together else [settle(machine, one)[0] for one in flood]
    assert [isinstance(one, QuotaExceeded) for one in found] == [False] * 3 + [True] * 2
    sequence = machine.store.sequence
    assert settle(machine, write("b", "mine", authors[1])) == [kept]
    assert settle(machine, write("a", "key-0", authors[0])) == [found[0]]  # its own are kept too
    [unkeyed] = settle(machine, PendingWrite(Update(RowBatch("a", None, ROW), [1], 1)))
    assert isinstance(unkeyed, dict)
    machine.crash()  # the bound and the owners hold after a restart
    assert isinstance(settle(machine, write("a", "new", authors[0]))[0], QuotaExceeded)
    assert settle(machine, write("b", "mine", authors[1])) == [kept]
    assert machine.store.sequence == sequence + 1
    machine.close()


def test_a_rejected_request_registers_and_learns_nothing(tmp_path: Path) -> None:
    machine = machine_of(tmp_path / "store", idempotency_responses=1)
    machine.do(Register(lambda _: schema("c")), IdempotencyKey("first", b"0" * 32))
    with pytest.raises(QuotaExceeded, match="idempotency"):
        machine.do(Update(RowBatch("c", None, ROW), [1], 1), IdempotencyKey("second", b"0" * 32))
    assert machine.store.tasks.get("c").updates == 0
    machine.close()


def test_a_response_is_kept_for_its_time_and_makes_room_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = machine_of(tmp_path / "store", idempotency_responses=2)
    [first] = settle(machine, write("a", "first"))
    now = time.time()
    monkeypatch.setattr(idempotency.time, "time", lambda: now + 3000)
    settle(machine, write("a", "second"))
    assert isinstance(settle(machine, write("a", "third"))[0], QuotaExceeded)
    assert settle(machine, write("a", "first")) == [first]
    monkeypatch.setattr(idempotency.time, "time", lambda: now + 3700)
    machine.writer.transaction_log.flush()
    assert isinstance(settle(machine, write("a", "third"))[0], dict)
    machine.close()
