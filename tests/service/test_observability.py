"""Metrics, logs, traces and health: what a running service tells of itself."""

from __future__ import annotations

import logging
import logging.config
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from superposed.errors import ConfigError
from superposed_service.api.app import create_api
from superposed_service.api.middleware.route_table import RouteTable, access_rules
from superposed_service.observability.counters import OTHER_TASKS, Distribution, TaskRows, family
from superposed_service.observability.load import Progress
from superposed_service.observability.opentelemetry import Tracing
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from tests.conftest import make_directory, serving, wait_for
from tests.helpers.http import ROW, problem, register
from tests.helpers.logs import Captured
from tests.helpers.routes import ROUTES

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
UPDATE: dict[str, Any] = {"context": "digits", "inputs": [ROW, ROW], "targets": ["0", "1"]}


def scrape(http: httpx.Client) -> Samples:
    answer = http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"superposed_{name}", tuple(sorted(labels.items()))]


class TestMetrics:
    def test_what_was_done_is_counted(self, http: httpx.Client) -> None:
        register(http, "digits")
        for _ in range(3):
            assert http.post("/v1/update", json=UPDATE).status_code == 200
        for count in (1, 4):
            body = {"context": "digits", "inputs": [ROW] * count}
            assert http.post("/v1/infer", json=body).status_code == 200
        assert http.post("/v1/infer", json={"context": "nobody", "inputs": [ROW]}).status_code == 404
        assert http.post("/v2/models/digits/infer", json={}).status_code == 422
        http.get("/v1/tasks/digits")
        http.get("/v1/nothing/at/all")
        http.request("PROPFIND", "/v1/store")
        found = scrape(http)

        def requests(method: str, path: str, status: int) -> float:
            labels = {"method": method, "path": path, "status_code": str(status)}
            return value(found, "rest_server_requests_total", **labels)

        assert requests("POST", "/v1/update", 200) == 3
        assert requests("POST", "/v1/infer", 200) == 2
        assert requests("POST", "/v1/infer", 404) == 1
        assert requests("POST", "/v2/models/{model}/infer", 422) == 1
        assert requests("GET", "/v1/tasks/{key}", 200) == 1
        assert requests("GET", "other", 404) == 1
        assert requests("other", "/v1/store", 405) == 1
        durations = "rest_server_request_duration_seconds"
        assert value(found, f"{durations}_count", method="POST", path="/v1/infer") == 3
        assert 0 < value(found, f"{durations}_sum", method="POST", path="/v1/infer") < 30
        assert value(found, f"{durations}_bucket", method="POST", path="/v1/infer", le="+Inf") == 3
        assert value(found, "inference_request_success_total") == 2
        assert value(found, "inference_request_failure_total", reason="UnknownTask") == 1
        assert value(found, "inference_count_total") == 5
        assert value(found, "inference_batch_size_rows_sum") == 5
        assert value(found, "inference_queue_duration_seconds_count") == 3
        assert value(found, "inference_compute_duration_seconds_count") == 3
        assert value(found, "update_count_total") == 6
        assert value(found, "change_total", kind="update", outcome="applied") == 3
        assert value(found, "change_total", kind="register", outcome="applied") == 1
        assert value(found, "journal_duration_seconds_count") == 4
        assert value(found, "journal_group_size_records_sum") == 4
        assert value(found, "change_queue_duration_seconds_count") == 4
        assert value(found, "apply_duration_seconds_count") == 4
        assert value(found, "task_inference_count_total", task="digits") == 5
        assert value(found, "task_update_count_total", task="digits") == 6

    def test_the_store_is_read_when_asked(self, http: httpx.Client) -> None:
        register(http, "digits")
        http.post("/v1/update", json=UPDATE)
        http.post("/v1/quarantine", json={"source": "digits"})
        store, found = http.get("/v1/store").json(), scrape(http)
        assert value(found, "ready") == 1
        assert value(found, "journal_failed") == 0
        assert value(found, "store_sequence") == store["sequence"] == 3
        assert value(found, "store_tasks") == 1
        assert value(found, "store_weights_bytes") == store["bytes"]["weights"] > 0
        assert value(found, "store_optimizer_bytes") == store["bytes"]["optimizer"] > 0
        assert value(found, "contexts_cached_bytes") == store["bytes"]["contexts_cached"] > 0
        assert value(found, "quarantined_sources") == 1
        assert value(found, "snapshot_records_behind") == 3
        assert 0 <= value(found, "snapshot_age_seconds") < 120
        assert value(found, "journal_bytes") > 0
        assert value(found, "data_free_bytes") > 0
        assert value(found, "pending_request_count", queue="inference") == 0
        for layer in http.get("/v1/capacity").json()["layers"]:
            for kind in ("measured", "predicted"):
                shown = value(found, "crosstalk_ratio", layer=layer["name"], kind=kind)
                assert shown == pytest.approx(layer[f"crosstalk_{kind}"])
        assert found["process_resident_memory_bytes", ()] > 1e6
        assert value(found, "build_info", version="0.2.0") == 1

    def test_a_disk_that_cannot_be_read_hides_only_itself(
        self, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path) -> None:
            raise OSError("input/output error")

        monkeypatch.setattr("superposed_service.runtime.gauges.disk_usage", refuse)
        found = scrape(http)
        assert value(found, "ready") == 1
        assert value(found, "journal_bytes") > 0
        assert ("superposed_data_free_bytes", ()) not in found

    def test_a_rollback_is_a_replay_that_is_shown(self, http: httpx.Client) -> None:
        register(http, "digits")
        for _ in range(4):
            http.post("/v1/update", json=UPDATE)
        assert http.post("/v1/rollback", json={"to_sequence": 2}).status_code == 200
        found = scrape(http)
        assert value(found, "replay_records") == value(found, "replay_records_done") == 5

    def test_labels_of_tasks_are_bounded_and_freed(self, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store"), metrics_tasks=2) as http:
            for key in ("a", "b", "c", "d"):
                register(http, key)
                http.post("/v1/infer", json={"context": key, "inputs": [ROW]})
            rows = {
                labels[0][1]: count
                for (name, labels), count in scrape(http).items()
                if name == "superposed_task_inference_count_total"
            }
            assert rows == {"a": 1, "b": 1, OTHER_TASKS: 2}
            assert http.delete("/v1/tasks/a").status_code == 204
            http.post("/v1/infer", json={"context": "mix(d:0.7,b:0.3)", "inputs": [ROW]})
            found = scrape(http)
            assert value(found, "task_inference_count_total", task="d") == 1  # of its heaviest part
            assert value(found, "task_inference_count_total", task=OTHER_TASKS) == 3

    def test_mixed_rows_count_for_their_own_tasks(self, http: httpx.Client) -> None:
        register(http, "a")
        register(http, "b")
        body: dict[str, Any] = {"contexts": ["a", "b", "a"], "inputs": [ROW] * 3}
        http.post("/v1/infer", json=body)
        http.post("/v1/update", json=body | {"targets": ["1", "2", "3"]})
        found = scrape(http)
        for what in ("inference", "update"):
            assert value(found, f"task_{what}_count_total", task="a") == 2
            assert value(found, f"task_{what}_count_total", task="b") == 1

    def test_openmetrics_where_it_is_asked_for(self, http: httpx.Client) -> None:
        answer = http.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert {"superposed_ready", "superposed_change"} <= {one.name for one in parse_openmetrics(answer.text)}

    def test_only_monitor_and_admin_keys_see_them(self, http: httpx.Client) -> None:
        def make(scope: str) -> dict[str, str]:
            return {"Authorization": f"Bearer {http.post('/v1/keys', json={'scope': scope}).json()['key']}"}

        http.headers.update(make("admin"))
        assert http.get("/metrics").status_code == 200
        monitor, infer = make("monitor"), make("infer")
        assert http.get("/metrics", headers=monitor).status_code == 200
        problem(http.get("/metrics", headers=infer), 403, "forbidden")
        problem(http.get("/v1/store", headers=monitor), 403, "forbidden")
        http.headers.pop("authorization")
        problem(http.get("/metrics"), 401, "unauthenticated")
        assert http.get("/health/ready").status_code == 200

    def test_what_was_turned_away_is_counted_under_its_route(self, http: httpx.Client) -> None:
        key = http.post("/v1/keys", json={"scope": "admin"}).json()["key"]
        http.post("/v1/infer", json={})
        http.headers["Authorization"] = f"Bearer {key}"
        labels = {"method": "POST", "path": "/v1/infer", "status_code": "401"}
        assert value(scrape(http), "rest_server_requests_total", **labels) == 1

    def test_a_distribution_is_a_histogram(self) -> None:
        values = Distribution((1.0, 2.0))
        for number in (0.5, 1.0, 1.5, 9.0):
            values.observe(number)
        samples = family(HistogramMetricFamily, "x", "x", {(): values}).samples
        shown = {(one.name.removeprefix("superposed_"), one.labels.get("le")): one.value for one in samples}
        assert shown == {
            ("x_bucket", "1.0"): 2, ("x_bucket", "2.0"): 3, ("x_bucket", "+Inf"): 4,
            ("x_count", None): 4, ("x_sum", None): 12.0,
        }  # fmt: skip

    def test_no_label_but_the_rest(self) -> None:
        rows = TaskRows(0)
        rows.inferred("a", 3)
        rows.forget("a")
        rows.forget(OTHER_TASKS)
        [inference, _] = rows.collect()
        assert [(one.labels["task"], one.value) for one in inference.samples] == [(OTHER_TASKS, 3)]

    def test_strangers_cannot_fill_memory_with_paths(self) -> None:
        table = RouteTable(route for route in ROUTES if route.path == "/v1/tasks/{key:path}")
        for number in range(9):
            for length in (10, 60_000):
                path = f"/v1/tasks/{number}{'x' * length}"
                assert table.match({"method": "GET", "path": path}).template == "/v1/tasks/{key}"
        assert table._search.cache_info().currsize == 9

    def test_a_client_that_leaves_before_its_body_is_here_is_no_error(self, http: httpx.Client) -> None:
        url = httpx.URL(str(http.base_url))
        with socket.create_connection((url.host, url.port)) as leaving:
            leaving.sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        wait_for(lambda: 'path="/v1/tasks",status_code="499"' in http.get("/metrics").text)
        assert 'status_code="500"' not in http.get("/metrics").text

    def test_every_route_has_its_template(self) -> None:
        table, rules = RouteTable(ROUTES), access_rules(ROUTES)
        assert rules
        for method, path in rules:
            asked = path.replace("{", "x").replace("}", "x")
            found = table.match({"method": method, "path": asked})
            assert (found.template, found.endpoint is None) == (path, False)
            assert table.match({"method": "QUERY", "path": asked}).allowed


def test_a_long_replay_says_how_far_it_is(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("superposed_service.observability.load._LOG_EVERY_S", -1.0)
    caplog.set_level(logging.INFO, "superposed")
    progress = Progress(7, 7)
    walk = progress.watch("abc", 3)
    assert next(walk) == "a"
    assert (progress.total, progress.done) == (3, 1)
    assert list(walk) == ["b", "c"]
    assert [(vars(one)["done"], vars(one)["total"]) for one in caplog.records] == [(1, 3), (2, 3), (3, 3)]


class TestHealth:
    def test_ready_is_what_can_be_written(self, tmp_path: Path) -> None:
        apps: list[FastAPI] = []
        with serving(make_directory(tmp_path / "store"), change=apps.append) as http:
            assert http.get("/health/ready").json() == {"status": "ready", "role": "leader", "epoch": 1}
            engine = apps[0].state.runtime.engine
            engine._writer.transaction_log.database.fail("the disk is gone")
            answer = problem(http.get("/health/ready"), 503, "not-ready")
            assert answer["received"] == "the disk is gone"
            assert http.get("/health/live").status_code == 200
            found = scrape(http)
            assert value(found, "ready") == 0
            assert value(found, "journal_failed") == 1

    def test_live_is_whether_the_engine_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        apps: list[FastAPI] = []
        with serving(make_directory(tmp_path / "store"), change=apps.append) as http:
            assert http.get("/health/live").status_code == 200
            engine = apps[0].state.runtime.engine
            with monkeypatch.context() as patch:
                patch.setattr(type(engine), "crashed", property(lambda _: True))
                problem(http.get("/health/live"), 503, "not-ready")
            assert not engine.crashed
        assert not engine.crashed  # stopped, as it should


class TestLogs:
    def test_json_lines_with_ids_and_sequence_numbers(self, tmp_path: Path, captured: Callable[..., Captured]) -> None:
        logs = captured(log_format="json", log_level="debug")
        with serving(make_directory(tmp_path / "store"), access_log="all") as http:
            register(http, "digits")
            answer = http.post("/v1/update", json=UPDATE, headers={"X-Request-Id": "mine-1"})
            assert answer.headers["x-request-id"] == "mine-1"
            given = http.get("/v1/tasks/digits?x=secret").headers["x-request-id"]
            http.post("/v1/snapshots")
        [recovered] = logs.events("store opened")
        assert (recovered["sequence"], recovered["replayed"]) == (0, 0)
        changes = [(one["sequence"], one["kind"], one["outcome"]) for one in logs.events("change")]
        assert changes == [(1, "register", "applied"), (2, "update", "applied")]
        assert logs.events("change")[1]["request_id"] == "mine-1"
        lines = logs.events("request")
        assert [(one["path"], one["status_code"]) for one in lines] == [
            ("/v1/tasks", 201), ("/v1/update", 200), ("/v1/tasks/{key}", 200), ("/v1/snapshots", 200),
        ]  # fmt: skip
        assert [one["request_id"] for one in lines[1:3]] == ["mine-1", given]
        assert {"timestamp", "level", "logger", "duration_ms", "method"} <= set(lines[0])
        assert logs.events("snapshot taken")[0]["sequence"] == 2
        assert logs.events("engine stopped")[0]["sequence"] == 2

    def test_a_quiet_access_log_leaves_hot_routes_and_probes_out(
        self, tmp_path: Path, captured: Callable[..., Captured]
    ) -> None:
        logs = captured(log_format="json")
        with serving(make_directory(tmp_path / "store")) as http:
            register(http, "digits")
            http.post("/v1/infer", json={"context": "digits", "inputs": [ROW]})
            http.get("/health/ready")
            http.get("/metrics")
        assert [one["path"] for one in logs.events("request")] == ["/v1/tasks"]

    def test_none_at_all(self, tmp_path: Path, captured: Callable[..., Captured]) -> None:
        logs = captured(log_format="json")
        with serving(make_directory(tmp_path / "store"), access_log="off") as http:
            register(http, "digits")
        assert logs.events("request") == []

    def test_uvicorn_writes_the_same_lines(self, captured: Callable[..., Captured]) -> None:
        logs = captured(log_format="json")
        logging.getLogger("uvicorn.error").info("Running on %s", "here", extra={"color_message": "coloured"})
        [line] = logs.events("Running on here")
        assert (line["logger"], line["level"]) == ("uvicorn.error", "info")
        assert "color_message" not in line

    def test_a_bug_is_one_problem_and_one_line(self, tmp_path: Path, captured: Callable[..., Captured]) -> None:
        def add(app: FastAPI) -> None:
            app.add_api_route("/v1/bug", lambda: {}["nothing"])  # type: ignore[misc]
            app.state.routes.append(app.routes[-1])

        logs = captured(log_format="json")
        with serving(make_directory(tmp_path / "store"), change=add) as http:
            problem(http.get("/v1/bug", headers={"X-Request-Id": "mine-2"}), 500, "internal")
        [failed] = logs.events("request failed")
        assert failed["request_id"] == "mine-2"
        assert "KeyError" in failed["exception"]
        assert logs.text.count("Traceback") == 1

    def test_lines_for_people(self, tmp_path: Path, captured: Callable[..., Captured]) -> None:
        logs = captured(log_format="console")
        with serving(make_directory(tmp_path / "store")):
            pass
        assert "store opened" in logs.text
        assert "sequence=0" in logs.text


Traced = tuple[httpx.Client, InMemorySpanExporter]


class TestTraces:
    @pytest.fixture
    def traced(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[tuple[httpx.Client, InMemorySpanExporter]]:
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))

        def api(settings: Settings, directory: DataDirectory) -> FastAPI:
            return create_api(settings, directory, Tracing(provider))

        monkeypatch.setattr("tests.conftest.create_api", api)
        with serving(make_directory(tmp_path / "store")) as http:
            register(http, "digits")
            exporter.clear()
            yield http, exporter

    def spans(self, exporter: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
        return [span for span in exporter.get_finished_spans() if span.name == name]

    def test_an_update_from_http_to_apply(self, traced: Traced) -> None:
        http, exporter = traced
        trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
        headers = {"traceparent": f"00-{trace}-{parent}-01", "X-Request-Id": "mine-3"}
        assert http.post("/v1/update", json=UPDATE, headers=headers).status_code == 200
        [server] = self.spans(exporter, "POST /v1/update")
        assert f"{server.context.trace_id:032x}" == trace
        assert server.parent is not None
        assert f"{server.parent.span_id:016x}" == parent
        assert dict(server.attributes or {}) == {
            "http.request.method": "POST",
            "http.route": "/v1/update",
            "http.response.status_code": 200,
            "superposed.request_id": "mine-3",
        }
        inner = [self.spans(exporter, name)[0] for name in ("queue", "journal", "apply")]
        for span in inner:
            assert span.parent is not None
            assert span.parent.span_id == server.context.span_id
        times = [moment for span in inner for moment in (span.start_time or 0, span.end_time or 0)]
        assert times == sorted(times)
        assert (server.start_time or 0) - 1_000_000 <= times[0]
        assert (inner[2].attributes or {})["superposed.sequence"] == 2

    def test_an_inference_from_http_to_its_batch(self, traced: Traced) -> None:
        http, exporter = traced
        http.post("/v1/infer", json={"context": "digits", "inputs": [ROW] * 3})
        [server] = self.spans(exporter, "POST /v1/infer")
        [batch] = self.spans(exporter, "batch")
        assert batch.context.trace_id == server.context.trace_id
        assert dict(batch.attributes or {}) == {"superposed.batch.rows": 3, "superposed.batch.requests": 1}
        assert len(self.spans(exporter, "queue")) == 1

    def test_a_trace_that_is_not_sampled_has_no_spans(self, traced: Traced) -> None:
        http, exporter = traced
        headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
        http.post("/v1/update", json=UPDATE, headers=headers)
        assert exporter.get_finished_spans() == ()

    def test_without_the_extra_the_setting_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "superposed_service.observability.opentelemetry", None)
        path = make_directory(tmp_path / "store")
        with DataDirectory(path) as directory, pytest.raises(ConfigError, match=r"superposed\[otel\]"):
            create_api(Settings(traces=True), directory)
