"""The load generator, against a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from superposed_client import Client
from superposed_service.cli.app import app
from superposed_service.cli.bench import Load, Outcome, as_json, run
from superposed_service.cli.demo.server import Server, free_port
from superposed_service.errors import NotReady
from tests.conftest import make_directory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of its own: what is taught here is noise."""
    with Server(make_directory(tmp_path_factory.mktemp("bench") / "store")) as running:
        yield running


@pytest.mark.parametrize("options", [[], ["--keys", "zipf", "--rate", "200"], ["--json-bodies", "--update"]])
def test_it_reports_what_was_served(server: Server, tmp_path: Path, options: list[str]) -> None:
    with Client(server.url) as client:
        before = client.store().tasks
    file = tmp_path / "bench.json"
    arguments = [server.url, "--seconds", "0.5", "--tasks", "5", "--connections", "2", "--json", str(file)]
    found = CliRunner().invoke(app, ["bench", *arguments, *options])
    assert found.exit_code == 0, found.output
    values = json.loads(file.read_text())
    assert set(values["statuses"]) == {"200"}
    count = values["statuses"]["200"]
    assert count > 10
    assert sum(bar["count"] for bar in values["histogram"]) == count
    assert values["requests_per_s"] == pytest.approx(count / values["seconds"])
    assert 0 < values["latency_ms"]["p50"] <= values["latency_ms"]["p99"]
    assert "requests/s" in found.output
    with Client(server.url) as client:
        assert client.store().tasks == before  # its tasks are gone again


def test_an_open_loop_keeps_its_rate(server: Server) -> None:
    with Client(server.url) as client:
        client.register_task("bench-rate", outputs=2)
    outcome = run(Load(server.url, [("bench-rate", 64)], rate=100, seconds=1.0))
    assert 60 < outcome.statuses[200] < 140


def test_what_came_too_late_to_be_sent_is_counted(server: Server) -> None:
    with Client(server.url) as client:
        client.register_task("bench-flood", outputs=2)
    load = Load(server.url, [("bench-flood", 64)], rate=20_000, seconds=0.3, connections=1)
    outcome = run(load)
    due = outcome.statuses.total() + outcome.unsent
    assert outcome.unsent > 100
    assert due == pytest.approx(20_000 * 0.3, rel=0.1)
    assert as_json(load, outcome)["unsent"] == outcome.unsent


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://127.0.0.1:1/prefix"])
def test_only_plain_http(url: str) -> None:
    """An API key is not sent in clear text to a server that asked for TLS."""
    found = CliRunner().invoke(app, ["bench", url, "--seconds", "0.1"])
    assert found.exit_code != 0
    assert "plain HTTP" in str(found.exception)


def test_refusals_are_counted_and_not_timed(server: Server) -> None:
    outcome = run(Load(server.url, [("nobody-at-all", 64)], seconds=0.2, connections=1))
    assert set(outcome.statuses) == {404}
    assert outcome.latencies_ms == []
    assert as_json(Load(server.url, [("x", 1)]), outcome)["requests_per_s"] == 0


def test_nobody_there() -> None:
    with pytest.raises(NotReady, match="nobody answers"):
        run(Load(f"http://127.0.0.1:{free_port()}", [("a", 1)], seconds=0.1))


def test_percentiles() -> None:
    outcome = Outcome(seconds=2.0, latencies_ms=list(np.arange(1.0, 101.0)))
    assert outcome.requests_per_s == 50
    assert outcome.percentile(50) == pytest.approx(50.5)
