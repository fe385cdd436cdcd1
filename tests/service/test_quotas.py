"""Quotas of API keys: requests, rows, updates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from typer.testing import CliRunner

from demo.server_process import free_port
from superposed_client import Client, QuotaExceeded, RetryPolicy
from superposed_service.api.auth.rate_limits import Quotas
from superposed_service.api.v2.protobuf import MESSAGES, SERVICE
from superposed_service.cli.commands import app as command_line
from superposed_service.engine.request_queues import RequestQueues
from superposed_service.engine.work import Job, Work
from superposed_service.errors import QuotaExceeded as Refused
from superposed_service.settings import Settings
from superposed_service.storage import ApiKey, DataDirectory
from tests.conftest import make_directory, serving
from tests.helpers.api_keys import UPDATE, make
from tests.helpers.http import ROW, problem, register


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestBuckets:
    def quotas(self, **settings: float) -> tuple[Quotas, Clock]:
        clock = Clock()
        return Quotas(Settings(**settings), clock), clock  # type: ignore[arg-type]

    def test_a_burst_and_then_the_rate(self) -> None:
        quotas, clock = self.quotas(quota_requests_per_s=5, quota_burst_s=2)
        for _ in range(10):
            quotas.spend(None, requests=1)
        with pytest.raises(Refused, match="requests") as caught:
            quotas.spend(None, requests=1)
        assert caught.value.retry_after_s == pytest.approx(0.2)
        clock.now = 0.2
        quotas.spend(None, requests=1)
        served = 0
        for tick in range(1000):
            clock.now = 1 + tick / 100
            try:
                quotas.spend(None, requests=1)
                served += 1
            except Refused:
                pass
        assert served == pytest.approx(50, abs=6)

    def test_a_request_larger_than_the_quota_is_paid_for_afterwards(self) -> None:
        quotas, clock = self.quotas(quota_rows_per_s=10, quota_burst_s=1)
        quotas.spend(None, rows=100)
        clock.now = 9.0
        with pytest.raises(Refused):
            quotas.spend(None, rows=10)
        clock.now = 10.1
        quotas.spend(None, rows=10)

    def test_a_keys_own_quota_comes_first_and_keys_do_not_share(self) -> None:
        quotas, _ = self.quotas(quota_updates_per_s=1, quota_burst_s=1)
        free = ApiKey("free", "", "update", "*", "", 0.0, 0, updates_per_second=0.0)
        plain, other = (ApiKey(name, "", "update", "*", "", 0.0, 0) for name in ("plain", "other"))
        for _ in range(100):
            quotas.spend(free, updates=1)
        for key in (plain, other):
            quotas.spend(key, updates=1)
            with pytest.raises(Refused):
                quotas.spend(key, updates=1)
        quotas.spend(plain, rows=10**6)  # no quota at all

    def test_what_is_refused_for_one_unit_counts_for_none(self) -> None:
        quotas, _ = self.quotas(quota_updates_per_s=1, quota_rows_per_s=1, quota_burst_s=2)
        quotas.spend(None, rows=2)
        with pytest.raises(Refused, match="rows"):
            quotas.spend(None, updates=2, rows=1)
        quotas.spend(None, updates=2)


def test_both_faces_and_every_unit(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    with serving(path, quota_burst_s=1) as http:
        admin = make(http, "admin")
        http.headers.update(admin)
        register(http)
        before = http.get("/v1/store").json()["sequence"]

        def refused(headers: dict[str, str], *paths: tuple[str, Any]) -> list[httpx.Response]:
            answers = []
            for route, body in paths:
                first = http.post(route, json=body, headers=headers)
                again = http.post(route, json=body, headers=headers)
                answers.append(again if first.status_code == 200 else first)
                assert answers[-1].status_code == 429, answers[-1].text
                assert int(answers[-1].headers["retry-after"]) >= 1
            return answers

        infer = ("/v1/infer", {"context": "digits", "inputs": [ROW] * 8})
        v2 = {"inputs": [{"name": "input", "shape": [8, 64], "datatype": "FP32", "data": ROW * 8}]}
        few_rows = make(http, "update", rows_per_second=0.5)
        answers = refused(few_rows, infer, ("/v1/evaluate", UPDATE), ("/v2/models/digits/infer", v2))
        problem(answers[0], 429, "quota-exceeded")
        assert "quota of rows" in answers[-1].json()["error"]

        few_updates = make(http, "update", updates_per_second=0.1)
        assert http.post(*infer[:1], json=infer[1], headers=few_updates).status_code == 200
        [answer] = refused(few_updates, ("/v1/update", UPDATE))
        assert answer.headers["retry-after"] in {"9", "10"}
        assert http.get("/v1/store").json()["sequence"] == before + 1  # the first, and nothing else

        few_requests = make(http, "infer", requests_per_second=0.01)
        assert http.get("/v1/store", headers=few_requests).status_code == 200
        problem(http.get("/v1/store", headers=few_requests), 429, "quota-exceeded")
        assert http.get("/v2/models/digits", headers=few_requests).status_code == 429
        for probe in ("/health/live", "/health/ready", "/v2/health/live"):
            assert http.get(probe, headers=few_requests).status_code == 200

        listed = {tuple(sorted(key.items())) for key in http.get("/v1/keys").json()}
        assert any(("rows_per_second", 0.5) in key for key in listed)


def test_a_search_costs_what_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[int] = []
    sizes: list[int] = []
    joined = RequestQueues.join

    def join(lines: RequestQueues, work: Work, *more: Any) -> None:
        sizes.append(work.cost if isinstance(work, Job) else 0)
        joined(lines, work, *more)

    monkeypatch.setattr(RequestQueues, "join", join)
    monkeypatch.setattr(Quotas, "spend", lambda _, __, **costs: spent.append(costs.get("rows", 0)))
    rows = [ROW] * 2
    with serving(make_directory(tmp_path / "store"), max_candidate_evaluations=184) as http:
        for key in ("digits", "others", "narrow"):
            http.post("/v1/tasks", json={"key": key, "outputs": 2, "inputs": 3 if key == "narrow" else 64})
        for path, body, tries, more in (
            ("/v1/locate", {"inputs": rows}, 4, 0),
            ("/v1/locate", {"inputs": rows, "candidates": ["digits", "digits"]}, 2, 0),
            ("/v1/locate", {"inputs": rows, "exponent_of": "digits"}, 184, 0),
            ("/v1/infer", {"inputs": rows, "context": "auto"}, 4, 2),
            ("/v1/evaluate", {"inputs": rows, "context": "digits", "targets": [0, 1]}, 2, 0),
        ):
            spent.clear()
            sizes.clear()
            assert http.post(path, json=body).status_code == 200, body
            assert sum(spent) == tries + more, body
            assert max(sizes) == tries, body
        spent.clear()
        answer = http.post("/v1/locate", json={"inputs": [ROW] * 3, "exponent_of": "digits"})
        problem(answer, 413, "batch-too-large")  # and costs nothing
        assert sum(spent) == 0


def test_over_grpc(tmp_path: Path) -> None:
    path, address = make_directory(tmp_path / "store"), f"127.0.0.1:{free_port()}"
    with serving(path, grpc_address=address, quota_requests_per_s=1, quota_burst_s=1) as http:
        del http
        asked, answered = (MESSAGES[f"ServerMetadata{kind}"] for kind in ("Request", "Response"))
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/ServerMetadata",
                request_serializer=asked.SerializeToString,
                response_deserializer=answered.FromString,
            )
            call(asked())
            with pytest.raises(grpc.RpcError) as caught:
                call(asked())
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert dict(caught.value.trailing_metadata())["retry-after"] == "1"
            live = channel.unary_unary(
                f"/{SERVICE}/ServerLive",
                request_serializer=MESSAGES["ServerLiveRequest"].SerializeToString,
                response_deserializer=MESSAGES["ServerLiveResponse"].FromString,
            )
            assert live(MESSAGES["ServerLiveRequest"]()).live  # probes need no quota


def test_the_command_line_sets_them_and_old_keys_still_open(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    made = CliRunner().invoke(
        command_line, ["keys", "create", str(path), "--scope", "infer", "--rows-per-second", "2.5", "--groups", "shops"]
    )
    assert made.exit_code == 0, made.output
    shown = CliRunner().invoke(command_line, ["keys", "list", str(path)], env={"COLUMNS": "200"})
    assert "2.5" in shown.output
    assert "*, groups: shops" in shown.output
    with DataDirectory(path) as directory:
        keys = directory.transaction_log().api_keys
        [key] = keys.all()
        assert (key.rows_per_second, key.requests_per_second) == (2.5, None)
        database = keys._database
        [(identifier, text)] = database.query("SELECT id, value FROM api_keys")
        values = json.loads(text)
        for unit in ("requests", "rows", "updates"):  # as a release before quotas has written it
            del values[f"{unit}_per_second"]
        from superposed_service.storage.api_keys import _checksum

        old = json.dumps(values, sort_keys=True)
        with database.transaction():
            row = (identifier, old, _checksum(identifier, old))
            database.execute("INSERT OR REPLACE INTO api_keys VALUES (?, ?, ?)", row)
    with DataDirectory(path) as directory:
        [key] = directory.transaction_log().api_keys.all()
        assert key.rows_per_second is None


def test_the_sdk_waits_as_long_as_it_is_told(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    with serving(path, quota_requests_per_s=0.5, quota_burst_s=1) as http:
        with Client(str(http.base_url), retries=RetryPolicy(retries=0)) as client:
            client.store()
            with pytest.raises(QuotaExceeded, match="quota of requests"):
                client.store()
        with Client(str(http.base_url), retries=RetryPolicy(retries=1, first_pause_s=0.001)) as client:
            client.store()
            client.store()
