"""`superposed bench`, against a real server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from superposed_client import Client
from superposed_service.cli.commands import app
from superposed_service.cli.demo.server_process import Server, free_port
from tests.conftest import make_directory


def test_bench_reports_latencies_and_deletes_its_tasks(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    with Server(make_directory(tmp_path / "store")) as server:
        options = [
            server.url,
            "--seconds",
            "0.5",
            "--tasks",
            "5",
            "--connections",
            "2",
            "--json",
            str(file),
        ]
        found = CliRunner().invoke(app, ["bench", *options])
        with Client(server.url) as client:
            assert client.store().tasks == 0
    assert found.exit_code == 0, found.output
    values = json.loads(file.read_text())
    assert values["failures"] == {}
    assert values["requests"] > 10
    assert values["requests_per_s"] == pytest.approx(values["requests"] / values["seconds"])
    assert 0 < values["latency_ms"]["p50"] <= values["latency_ms"]["p99"]
    assert "requests/s" in found.output


def test_bench_without_a_server_is_one_error() -> None:
    found = CliRunner().invoke(app, ["bench", f"http://127.0.0.1:{free_port()}"])
    assert found.exit_code != 0
    assert "127.0.0.1" in str(found.exception)
