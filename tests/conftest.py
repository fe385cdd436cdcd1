from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
import uvicorn
from fastapi import FastAPI

from demo.server_process import Server
from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig, StoreConfig, WeightStore, seeded_secret
from superposed_service.api.app import create_api, guarded
from superposed_service.api.server.connections import HttpServer, bounded_protocol
from superposed_service.changes.snapshot import begin
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.helpers.forked import Forked

# Small products on a machine that runs servers beside the tests: one thread is faster than two.
torch.set_num_threads(1)
os.environ.setdefault("SUPERPOSED_THREADS", "1")
start_anew = Server.launch
Server.launch = staticmethod(Forked)  # type: ignore[method-assign, assignment]  # it starts faster

CONFIG = plain_config(
    network=MLPConfig(inputs=64, hidden=(96, 96), outputs=10), optimizer=OptimizerConfig(learning_rate=1e-3)
)


# Files that take longest: they are begun first, so that no process is left alone with one of them at the end.
LONGEST = (
    *("test_guides", "test_console", "test_estimators", "test_studies", "test_client", "test_failover"),
    *("test_overload", "test_model_files", "test_guard", "test_crash", "test_labels", "test_follower"),
    *("test_promotion", "notebooks", "test_load", "test_differential", "test_layout", "test_place"),
    *("test_site", "test_base_install"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        named = {item.path.stem, item.path.parent.name}
        return next((place for place, name in enumerate(LONGEST) if name in named), len(LONGEST))

    items.sort(key=place)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait for a condition, however slow the machine is."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)


# URL of a server that is tested instead of the tests' own: `python -m tests.cluster.suites` names an ingress.
GIVEN_URL = os.environ.get("TESTED_URL")


@contextmanager
def given_server(folder: Path) -> Iterator[Server]:
    """The server at `GIVEN_URL`, which this process has not started."""
    server = Server(folder)
    server.url = GIVEN_URL or server.url
    yield server


def make_directory(path: Path, config: StoreConfig = CONFIG, seed: int = 7) -> Path:
    with DataDirectory(path) as directory:
        begin(directory, WeightStore(config, secret=seeded_secret(seed)))
    return path


@contextmanager
def serving(
    path: Path, *, change: Callable[[FastAPI], object] | None = None, on_port: int = 0, **settings: object
) -> Iterator[httpx.Client]:
    """The application over a directory, served on loopback by a thread of this process."""
    small = {"max_body_bytes": 200_000, "max_rows": 64, "max_steps": 10}
    chosen = Settings(**(small | settings))  # type: ignore[arg-type]
    with DataDirectory(path, snapshots_kept=chosen.snapshots_kept) as directory:
        api = create_api(chosen, directory)
        if change is not None:
            change(api)
        app = guarded(api, chosen)
        config = uvicorn.Config(
            app,
            port=on_port,
            log_level="warning",
            http=bounded_protocol(chosen, api.state.direct),
            timeout_keep_alive=math.ceil(chosen.keep_alive_s),
        )
        running = HttpServer(config, api.state.events.close)
        thread = threading.Thread(target=running.run)
        thread.start()
        try:
            while not running.started:
                assert thread.is_alive()
                time.sleep(0.005)
            port = running.servers[0].sockets[0].getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                yield client
        finally:
            running.should_exit = True
            thread.join()


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    """A server over a new store."""
    with serving(make_directory(tmp_path / "store")) as client:
        yield client


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server on loopback, in a process of its own, shared by all tests that give it own task keys."""
    path = make_directory(tmp_path_factory.mktemp("server") / "store")
    with Server(path) as running:
        yield running
