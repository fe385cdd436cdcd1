"""The engine's server behind its workers: started after it, restarted when they die, stopped before it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from superposed.errors import ConfigError
from superposed_service.connections import bounded_protocol
from superposed_service.errors import NotReady
from superposed_service.settings import Settings

__all__ = ["GRACE_S", "Front"]

GRACE_S = 30
_log = logging.getLogger("uvicorn.error")  # what the server says about itself
_LOOK_S, _RESTART_S = 0.2, 1.0
_BACKLOG = 2048


class _EngineServer(uvicorn.Server):
    """Stops its workers first: they finish what they accepted while the engine still answers."""

    def __init__(self, config: uvicorn.Config, workers: _Workers) -> None:
        super().__init__(config)
        self._workers = workers

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends the workers, and with them the engine; another one hurries it."""
        if self._workers.stopping:
            super().handle_exit(sig, frame)
            return
        self._workers.stop()


class _Workers(threading.Thread):
    """Keeps so many workers alive on a thread of its own.

    Args:
        listening: The public socket.
        engine: The path of the engine's socket.
        settings: How many there are, and what they hold back.
        end_streams: Ends answers that would not end by themselves.
    """

    def __init__(
        self, listening: socket.socket, engine: Path, settings: Settings, end_streams: Callable[[], None]
    ) -> None:
        super().__init__(name="superposed-workers", daemon=True)
        self._end_streams = end_streams
        self._listening, self._count = listening, settings.http_workers
        self._command = [
            *(sys.executable, "-m", "superposed_service.workers.worker"),
            *("--listening", str(listening.fileno())),
            *("--engine", str(engine)),
            *("--body-bytes", str(settings.max_body_bytes)),
            *("--body-s", str(settings.request_timeout_s)),
            *("--head-bytes", str(settings.max_header_bytes)),
            *("--head-s", str(settings.header_timeout_s)),
            *("--grace-s", str(GRACE_S)),
        ]
        self._ending = threading.Event()
        self.server: _EngineServer

    @property
    def stopping(self) -> bool:
        """Whether they were told to end."""
        return self._ending.is_set()

    def stop(self) -> None:
        """Has them finish what they accepted, and the engine end after them."""
        self._ending.set()

    def run(self) -> None:
        """Starts them once the engine answers, and looks after them until they are to end."""
        try:
            while not (self.server.started or self._ending.wait(_LOOK_S)):
                pass
            self._look_after_them()
        finally:  # whatever happened: nobody else ends the engine's server
            self._listening.close()
            self.server.should_exit = True

    def _look_after_them(self) -> None:
        # Workers end when nobody holds the writing end any more: with this process, however that ends.
        alive, held = os.pipe()
        workers: list[subprocess.Popen[bytes]] = []
        while not self._ending.wait(_LOOK_S if len(workers) == self._count else 0):
            for worker in [one for one in workers if one.poll() is not None]:
                _log.error("worker %s ended with %s: another takes its place", worker.pid, worker.returncode)
                workers.remove(worker)
                self._ending.wait(_RESTART_S)  # should it end at once each time, it is not all that is done
            if len(workers) < self._count:
                workers += self._start_one(alive)
        self._end_streams()
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.wait()
        os.close(alive)
        os.close(held)

    def _start_one(self, alive: int) -> list[subprocess.Popen[bytes]]:
        """A worker; none where the system has no room for it now."""
        try:
            worker = subprocess.Popen(  # noqa: S603 - our own command
                self._command, stdin=alive, pass_fds=[self._listening.fileno()], start_new_session=True
            )
        except OSError as error:
            _log.error("no worker could be started, it is tried again: %s", error)
            self._ending.wait(_RESTART_S)
            return []
        return [worker]


class Front:
    """An application on a socket of its own, and workers in front of it at the public address.

    Args:
        app: The application.
        settings: How many workers there are, and what they hold back.
        host: Where they listen.
        port: The same; 0 picks a free one.
        end_streams: Ends answers that would not end by themselves.

    Attributes:
        port: Where they listen.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, host: str, port: int, end_streams: Callable[[], None]
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host} port {port}", received=error) from None
        self.port: int = self._listening.getsockname()[1]
        self._folder = tempfile.TemporaryDirectory(prefix="superposed-")  # its owner's alone
        engine = Path(self._folder.name) / "engine"
        self._workers = _Workers(self._listening, engine, settings, end_streams)
        # What comes here has been with a worker first, which may have held it back so long.
        held_s = settings.header_timeout_s + settings.request_timeout_s
        config = uvicorn.Config(
            app,
            uds=str(engine),
            http=bounded_protocol(settings.model_copy(update={"header_timeout_s": held_s})),
            log_config=None,
            access_log=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        self._workers.server = self._server = _EngineServer(config, self._workers)
        _log.info("%s workers will listen on %s port %s", settings.http_workers, host, self.port)

    def run(self) -> None:
        """Serves until a signal, or `stop`; returns once the workers and then the engine have ended.

        Raises:
            NotReady: The application did not start; the log says why.
        """
        with self._folder:
            self._workers.start()
            try:
                self._server.run()
            finally:
                self.stop()
                self._workers.join()
        if not self._server.started:
            raise NotReady("the service did not start")

    def stop(self) -> None:
        """Has the workers finish what they accepted, and the engine end after them."""
        self._workers.stop()
