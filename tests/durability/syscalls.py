"""SIGKILL at every system call that changes the disk, by strace, over one update, snapshot and trim cycle.

    python -m tests.durability.syscalls --results docs/results/durability

strace counts calls for each process and kills it at the `LIMIT`th. One process forks a child for each call of
the cycle; a child first makes so many harmless calls of the kind that its own k-th one is the `LIMIT`th. What
a killed child left is checked by another child. Needs strace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.report import machine, write_json
from tests.durability.faults import Life, Lived, batch, check, scratch
from tests.helpers.machine import Machine

LIMIT = 200
SYSCALLS = ("pwrite64", "write", "fsync", "fdatasync", "rename", "unlink", "ftruncate")


def harmless(syscall: str, folder: Path) -> Callable[[], object]:
    """A call of the kind that changes nothing that counts."""
    file = os.open(folder / "harmless", os.O_RDWR | os.O_CREAT)
    one, other = folder / "one", folder / "other"

    def rename() -> None:
        one.touch()
        one.rename(other)

    def unlink() -> None:
        one.touch()
        one.unlink()

    return {
        "pwrite64": lambda: os.pwrite(file, b"x", 0),
        "write": lambda: os.write(file, b"x"),
        "fsync": lambda: os.fsync(file),
        "fdatasync": lambda: os.fdatasync(file),
        "ftruncate": lambda: os.ftruncate(file, 0),
        "rename": rename,
        "unlink": unlink,
    }[syscall]


def prepare(path: Path) -> dict[int, str]:
    """A store with a past that the cycle's snapshot lets it trim."""
    life = Life(path, rounds=1)
    life.live()
    life.machine.close()
    return life.digests


def cycle(path: Path, tell: Callable[[int, str], None]) -> None:
    machine = Machine(path, snapshots_kept=2, history_records=8)
    for seed in (900, 901):
        machine.update("task-0", *batch(seed), key=f"key-{seed}")
        tell(machine.store.sequence, machine.store.digest())
        machine.snapshot()
    machine.close()


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Child:
    """One child of the drive: a copy of the start, a life that is killed, and what is left of it."""

    def __init__(self, folder: Path, syscall: str, number: int) -> None:
        self.store, self.told, self.found = folder / "store", folder / "told", folder / "found"
        self.known, self.waste, self.number = folder / "known.json", harmless(syscall, folder), number
        shutil.copytree(folder / "start", self.store)
        self.told.write_text("")

    def live(self) -> None:
        told = os.open(self.told, os.O_WRONLY | os.O_APPEND)
        for _ in range(LIMIT - self.number):
            self.waste()

        def tell(sequence: int, digest: str) -> None:
            # Not by one of the calls that are counted.
            os.pwritev(told, [json.dumps([sequence, digest]).encode() + b"\n"], 0, os.RWF_APPEND)

        cycle(self.store, tell)

    def compare(self) -> None:
        before = json.loads(self.known.read_text())
        digests = {int(sequence): digest for sequence, digest in before.items()}
        digests |= dict(json.loads(line) for line in self.told.read_text().splitlines())
        self.found.write_text(check(self.store, Lived(digests, {}), max(digests)))


def drive(syscall: str) -> None:
    """Runs under strace; one line of JSON: how often which outcome, and at how many calls."""
    outcome: Counter[str] = Counter()
    with scratch() as folder:

        def begin() -> None:
            (folder / "known.json").write_text(json.dumps(prepare(folder / "start")))

        assert forked(begin) == 0
        number, killed = 0, True
        while killed and number < LIMIT:
            number += 1
            child = Child(folder, syscall, number)
            killed = forked(child.live) == -signal.SIGKILL
            assert forked(child.compare) == 0
            outcome[child.found.read_text()] += 1
            shutil.rmtree(child.store)
        print(json.dumps({"calls": number - 1, **outcome}), flush=True)


def traced(syscall: str) -> dict[str, int]:
    command = [
        "strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={syscall}",
        "-e", f"inject={syscall}:signal=KILL:when={LIMIT}",
        sys.executable, "-m", "tests.durability.syscalls", "--drive", syscall,
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert found.returncode == 0, found.stderr[-2000:]
    counts: dict[str, int] = json.loads(found.stdout)
    return counts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drive", choices=SYSCALLS)
    parser.add_argument("--results", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()
    if asked.drive:
        drive(asked.drive)
    else:
        outcomes = {syscall: traced(syscall) for syscall in SYSCALLS}
        if asked.results:
            write_json(asked.results / "syscalls.json", {"machine": machine(), "outcome": outcomes})
        print(json.dumps(outcomes))
