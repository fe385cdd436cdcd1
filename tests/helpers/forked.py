"""The `superposed` command in a process of its own, forked from one that has imported everything: it starts fast.

It runs what the command runs; only the imports are there before it begins.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from pathlib import Path

from superposed_service.cli.main import main

_ROOT = Path(__file__).parents[2]


class Forked:
    """A process as `subprocess.Popen` has it: `superposed` with these arguments, and files for what it prints."""

    def __init__(self, arguments: list[str], output: Path, errors: Path | None = None) -> None:
        known = dict(os.environ), str(Path.cwd()), str(output), str(errors or output)
        self._process = _context().Process(target=_run, args=(arguments, *known), daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired("superposed", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _context() -> multiprocessing.context.ForkServerContext:
    """Return what makes processes; the one that they are forked from begins here, in the project's folder."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.imported"])
    here = Path.cwd()
    os.chdir(_ROOT)
    forkserver.ensure_running()
    os.chdir(here)
    return context


def _run(arguments: list[str], environment: dict[str, str], folder: str, output: str, errors: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for place, path in ((1, output), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), place)
    sys.argv = ["superposed", *arguments]
    main()
