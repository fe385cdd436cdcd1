"""The load generator and the telemetry benchmark, against real servers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load import Load, Outcome, run
from demo.server_process import Server, free_port
from superposed_client import Client
from superposed_service.errors import NotReady
from tests.conftest import make_directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own: what is taught here is noise."""
    with Server(make_directory(tmp_path_factory.mktemp("bench") / "store")) as running:
        yield running


def test_an_open_loop_keeps_its_rate(server: Server) -> None:
    with Client(server.url) as client:
        client.register_task("bench-rate", outputs=2)
    outcome = run(Load(server.url, [("bench-rate", 64)], rate=100, seconds=1.0))
    assert set(outcome.statuses) == {200}
    assert 60 < outcome.statuses.total() + outcome.unsent < 140  # those that were due


def test_what_came_too_late_to_be_sent_is_counted(server: Server) -> None:
    with Client(server.url) as client:
        client.register_task("bench-flood", outputs=2)
    load = Load(server.url, [("bench-flood", 64)], rate=20_000, seconds=0.3, connections=1)
    outcome = run(load)
    due = outcome.statuses.total() + outcome.unsent
    assert outcome.unsent > 100
    assert due == pytest.approx(20_000 * 0.3, rel=0.1)


def test_refusals_are_counted_and_not_timed(server: Server) -> None:
    outcome = run(Load(server.url, [("nobody-at-all", 64)], seconds=0.2, connections=1))
    assert set(outcome.statuses) == {404}
    assert outcome.latencies_ms == []
    assert outcome.requests_per_s == 0


def test_nobody_there() -> None:
    with pytest.raises(NotReady, match="no server answers"):
        run(Load(f"http://127.0.0.1:{free_port()}", [("a", 1)], seconds=0.1))


def test_percentiles() -> None:
    outcome = Outcome(seconds=2.0, latencies_ms=list(np.arange(1.0, 101.0)))
    assert outcome.requests_per_s == 50
    assert outcome.percentile(50) == pytest.approx(50.5)


def test_the_telemetry_benchmark_measures_pairs_of_slices(tmp_path: Path) -> None:
    """In a process of its own: it replaces methods of the service."""
    file = tmp_path / "telemetry.json"
    command = [sys.executable, "-m", "benchmarks.telemetry", "--results", str(file), "--seconds", "1"]
    subprocess.run(command, check=True, timeout=120, capture_output=True, cwd=Path(__file__).parents[2])
    assert json.loads(file.read_text())["pairs"] >= 2
