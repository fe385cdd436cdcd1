"""A real server in a process of its own, on loopback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from rich.console import Console

from superposed_client import Client
from superposed_service.errors import NotReady

_START_S = 60.0
_STOP_S = 60.0


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """`superposed serve` on a data directory; a context manager that stops it cleanly.

    Args:
        directory: The data directory.
        port: Where it listens; a free one if not given.
        start_s: Seconds within which it must be ready.
    """

    def __init__(self, directory: Path, port: int | None = None, start_s: float = _START_S) -> None:
        self.directory, self._start_s = directory, start_s
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it admits requests.

        Raises:
            NotReady: It ended, or did not get ready in time; its log says why.
        """
        log = self.directory.with_suffix(".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        self._process = self.launch(["serve", str(self.directory), "--port", str(self.port)], log)
        deadline = time.monotonic() + self._start_s
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise NotReady("the server did not start", received=log.read_text()[-2000:])
            time.sleep(0.1)

    @staticmethod
    def launch(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
        """Run the `superposed` command in a process of its own, with what it prints in a file."""
        command = [sys.executable, "-c", "from superposed_service.cli.main import main; main()", *arguments]
        with log.open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - our own command

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """Ask it to stop, and wait until it has written its snapshot and ended."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                raise

    def kill(self) -> None:
        """End it at once, as a power cut of the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def serve_until_interrupted(self, console: Console) -> None:
        """Wait for Ctrl-C."""
        console.print(f"\nStill serving at [bold]{self.url}[/] (its API: {self.url}/docs); Ctrl-C ends it.")
        try:
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            console.print("Stopped.")

    def client(self) -> Client:
        """Return a client of this server."""
        return Client(self.url)
