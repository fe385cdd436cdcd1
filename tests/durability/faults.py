"""Power cuts, failing disks and flipped bytes, on a small store with its journal.

python -m tests.durability.faults power --states 10000 --results docs/results/durability
python -m tests.durability.faults errors --results docs/results/durability
python -m tests.durability.faults flips --results docs/results/durability
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.report import machine, write_json
from superposed.errors import SuperposedError, UpdateError
from superposed_service.changes.verify import verify
from superposed_service.errors import StorageError
from superposed_service.storage import DataDirectory, database
from tests.durability.disk import Crash, Disk, Operation, files_of, lay_out, recording
from tests.helpers.machine import Machine


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of states are laid out in it."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def batch(seed: int) -> tuple[list[list[float]], list[int]]:
    draw = np.random.default_rng(seed)
    return draw.normal(size=(2, 4)).tolist(), draw.integers(0, 2, 2).tolist()


@dataclass
class Lived:
    """Acknowledged state: digests by sequence number, answers by idempotency key."""

    digests: dict[int, str]
    answers: dict[str, Any]


class Life(Lived):
    """A stretch of a store's life: registrations, updates, a refusal, a rollback, snapshots, restarts."""

    def __init__(self, path: Path, disk: Disk | None = None, *, rounds: int = 2) -> None:
        self.path, self.disk, self.rounds = path, disk, rounds
        self.machine = Machine(path, snapshots_kept=2, history_records=8)
        super().__init__({0: self.machine.store.digest()}, {})

    def note(self) -> None:
        sequence = self.machine.store.sequence
        self.digests[sequence] = self.machine.store.digest()
        if self.disk is not None:
            self.disk.trace.append(Operation("acknowledge", offset=sequence))

    def update(self, context: str, seed: int) -> None:
        key = f"key-{seed}"
        self.answers[key] = self.machine.update(context, *batch(seed), key=key)
        self.note()

    def live(self) -> None:
        for number in range(self.rounds):
            self.machine.register(f"task-{number}")
            self.note()
            for seed in range(4):
                self.update(f"task-{number}", 10 * number + seed)
            with contextlib.suppress(UpdateError):
                self.machine.update("task-0", [[1e38, 1, 1, 1]], [0])
            self.note()
            self.machine.snapshot()
            self.update("task-0^0.5", 10 * number + 5)
            self.machine.roll_back(sequences=(self.machine.store.sequence,) * 2)
            self.note()
            self.machine.snapshot()
            self.update("task-0", 10 * number + 6)
            self.machine.close()
            self.machine.open()
            self.update("task-0", 10 * number + 7)


def check(path: Path, life: Lived, acknowledged: int) -> str:
    """Recovers a directory and compares it with the life that was lived.

    Returns:
        `recovered`, or what was found instead: `lost`, `different`, or the error's name.
    """
    try:
        found = Machine(path, snapshots_kept=2, history_records=8)
    except SuperposedError as error:
        return type(error).__name__
    try:
        sequence = found.store.sequence
        if sequence < acknowledged:
            return "lost"
        # A change that was on its way may count or not; what counts is what it was.
        known = life.digests.get(sequence)
        if known is not None and known != found.store.digest():
            return "different"
        for key, answer in life.answers.items():
            if answer["sequence"] <= acknowledged:
                kept = found.writer.transaction_log.answers._kept.get(key)
                if kept is None or kept.answer != answer:
                    return "answer lost"
        return "recovered"
    finally:
        found.close()


def power_cuts(states: int, *, durable: bool = True, seed: int = 0) -> Counter[str]:
    """States that a power cut may leave, at random points of a life."""
    draw = random.Random(seed)
    with scratch() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "CHECKPOINT_PAGES", 24)  # checkpoints within the trace
        source, disk = folder / "store", Disk()
        Machine(source).close()
        start = files_of(source)
        if not durable:
            opened = database.Database._open

            def without_fsync(self: database.Database) -> None:
                opened(self)
                self.query("PRAGMA synchronous=OFF")

            patch.setattr(database.Database, "_open", without_fsync)
        with recording(disk):
            life = Life(source, disk)
            life.live()
            life.machine.close()
        patch.undo()
        points = sorted(draw.randint(0, len(disk.trace)) for _ in range(states))
        outcome: Counter[str] = Counter()
        crash, done = Crash(start), 0
        for point in points:
            for operation in disk.trace[done:point]:
                crash.apply(operation)
            done = max(done, point)
            target = folder / "state"
            lay_out(crash.state(draw), source, target)
            outcome[check(target, life, crash.acknowledged)] += 1
            shutil.rmtree(target)
        return outcome


def disk_errors(every: int = 1) -> Counter[str]:
    """EIO and ENOSPC at every write and sync of a life, one at a time."""
    outcome: Counter[str] = Counter()
    for error in (errno.EIO, errno.ENOSPC):
        number, fired = 1, True
        while fired:
            with scratch() as folder:
                Machine(folder / "store").close()
                disk = Disk(fail_at=number, error=error)
                fired = _fail_once(folder / "store", disk, outcome)
            number += every
    return outcome


def _fail_once(path: Path, disk: Disk, outcome: Counter[str]) -> bool:
    with recording(disk):
        try:
            life = Life(path, disk, rounds=1)
        except StorageError:
            outcome["refused to start"] += 1
            return True
        with contextlib.suppress(StorageError):
            life.live()
        _check_after_failure(life, outcome)
        life.machine.close()
    acknowledged = max(life.digests)
    outcome[check(path, life, acknowledged)] += 1
    return disk.asked >= disk.fail_at


def _check_after_failure(life: Life, outcome: Counter[str]) -> None:
    """Inference goes on; and where the journal failed, nothing is learned any more."""
    store, writer = life.machine.store, life.machine.writer
    if len(store.tasks):
        store.logits(store.batch("task-0", [[1, 2, 3, 4]]))
    if writer.transaction_log.failure is None:
        return
    outcome["journal failed"] += 1
    before = store.digest()
    try:
        life.machine.update("task-0", *batch(99))
    except SuperposedError:
        outcome["update refused after it"] += 1
    if store.digest() != before:
        outcome["learned after it"] += 1


def flips(every: int = 1) -> dict[str, Counter[str]]:
    """One bit of every byte of a journal (closed, and as a crash leaves it) and of a snapshot flipped."""
    outcome: dict[str, Counter[str]] = {}
    with scratch() as folder:
        source = folder / "store"
        life = Life(source, rounds=1)
        life.live()
        crashed = folder / "crashed"
        shutil.copytree(source, crashed)
        life.machine.close()
        acknowledged = max(life.digests)
        newest = max(source.glob("snapshots/*.safetensors")).relative_to(source)
        for origin, names in ((source, ["journal.db", str(newest)]), (crashed, ["journal.db", "journal.db-wal"])):
            for name in names:
                found = outcome[f"{origin.name}/{Path(name).suffix or name}"] = Counter()
                for place in range(0, (origin / name).stat().st_size, every):
                    target = folder / "state"
                    shutil.copytree(origin, target)
                    data = bytearray((target / name).read_bytes())
                    data[place] ^= 1 << place % 8
                    (target / name).write_bytes(data)
                    seen = not _sound(target)
                    shutil.rmtree(target)
                    shutil.copytree(origin, target)
                    (target / name).write_bytes(data)
                    kind = check(target, life, acknowledged)
                    found[f"{kind}, verify {'names it' if seen else 'finds nothing'}"] += 1
                    shutil.rmtree(target)
    return outcome


def _sound(path: Path) -> bool:
    """Return True if `superposed verify` finds nothing wrong."""
    try:
        with DataDirectory(path) as directory:
            return all(finding.remedy is None for finding in verify(directory))
    except SuperposedError:
        return False


def kills(every: int = 1) -> Counter[str]:
    """SIGKILL at every write, sync, rename and removal of a life, each in a process of its own."""
    outcome: Counter[str] = Counter()
    number, killed = 1, True
    while killed:
        with scratch() as folder:
            Machine(folder / "store").close()
            reader, writer = os.pipe()
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    _live_until_killed(folder / "store", number, writer)
                os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as lines:
                told = [json.loads(line) for line in lines]
            killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
            life = Lived(dict(one["digest"] for one in told), told[-1]["answers"] if told else {})
            outcome[check(folder / "store", life, max(life.digests, default=0))] += 1
        number += every
    return outcome


def _live_until_killed(path: Path, number: int, told: int) -> None:
    class Killing(Disk):
        def note(self, *what: Any, **more: Any) -> None:
            self.asked += 1
            if self.asked == number:
                os.kill(os.getpid(), signal.SIGKILL)

    class Telling(Life):
        def note(self) -> None:
            super().note()
            last = max(self.digests)
            line = json.dumps({"digest": [last, self.digests[last]], "answers": self.answers})
            os.write(told, line.encode() + b"\n")

    with recording(Killing()):
        life = Telling(path, rounds=1)
        life.live()
        life.machine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["power", "errors", "kills", "flips"])
    parser.add_argument("--states", type=int, default=10_000, help="of power cuts")
    parser.add_argument("--every", type=int, default=1, help="of the places, only every so many")
    parser.add_argument("--results", type=Path, default=None, help="a folder; default: only printed")
    asked = parser.parse_args()
    torch.set_num_threads(1)  # a fork has no other threads
    logging.disable()  # damaged snapshots are passed over by the thousand
    found: dict[str, Any] = {"every": asked.every}
    if asked.kind == "power":
        found = {
            "states": asked.states,
            "outcome": power_cuts(asked.states),
            "without_fsync": power_cuts(asked.states // 10, durable=False),
        }
    elif asked.kind == "errors":
        found["outcome"] = disk_errors(asked.every)
    elif asked.kind == "kills":
        found["outcome"] = kills(asked.every)
    else:
        found["outcome"] = flips(asked.every)
    if asked.results is not None:
        write_json(asked.results / f"{asked.kind}.json", {"machine": machine(), **found})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
