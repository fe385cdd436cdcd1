"""Files beside the service: compose file, Prometheus, alerts, Grafana's dashboard, nginx."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml

from demo.server_process import Server, free_port
from superposed_client import Client
from tools import reference

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ROOT / "service" / "operations"
DASHBOARD = json.loads((OPERATIONS / "grafana" / "dashboards" / "superposed.json").read_text())
ALERTS = yaml.safe_load((OPERATIONS / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
# What has nothing to show on a CPU.
DEVICE_ONLY = {"Device memory"}


def installed(program: str) -> str:
    if (found := shutil.which(program)) is None:
        pytest.skip(f"{program} is not installed (Debian's packages prometheus, docker-compose, nginx-light)")
    return found


def queries() -> list[tuple[str, str]]:
    """Every query of the dashboard with its panel's title, for the last minute of all instances."""
    return [
        (panel["title"], target["expr"].replace("$__rate_interval", "60s").replace("$instance", ".*"))
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ]


def load(client: Client) -> None:
    rows = np.random.default_rng(0).normal(size=(8, 64))
    client.register_task("watched", outputs=10)
    for _ in range(5):
        client.update("watched", rows, range(8))
        client.infer("watched", rows)


class TestNames:
    def test_queries_and_alerts_name_only_what_there_is(self, http: httpx.Client) -> None:
        with Client(str(http.base_url)) as client:
            load(client)
        names = set(re.findall(r"^# TYPE (\S+)", http.get("/metrics").text, re.MULTILINE))
        names |= {name + end for name in names for end in ("_bucket", "_sum", "_count", "_total")}
        asked = [query for _, query in queries()] + [alert["expr"] for alert in ALERTS]
        for query in asked:
            found = set(re.findall(r"\b((?:superposed|process)_\w+)", query))
            assert found <= names, found - names

    def test_metrics_page_has_every_metric_that_a_server_shows_with_its_type_and_labels(
        self, http: httpx.Client
    ) -> None:
        with Client(str(http.base_url)) as client:
            load(client)
        text, page = http.get("/metrics").text, reference.metrics()
        rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", page, re.M)}
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", text, re.M):
            assert (rows[name][0], bool(rows[name][2])) in {(kind, True), ("info", True)}, name
        for name, labels in re.findall(r"^(superposed_\w+)\{(.+)\} ", text, re.M):
            known = rows[next(one for one in (name, name.rpartition("_")[0]) if one in rows)][1]
            assert {f"`{label}`" for label in re.findall(r"(\w+)=", labels)} - {"`le`"} <= set(known.split(", ")), name
        assert "superposed_replication_lag_records" in rows  # of a follower
        assert "superposed_device_memory_bytes" in rows

    def test_every_alert_is_documented(self) -> None:
        page = (ROOT / "docs" / "operations.md").read_text()
        assert len(ALERTS) >= 10
        for alert in ALERTS:
            assert f"`{alert['alert']}`" in page, alert["alert"]
            assert alert["labels"]["severity"] in {"critical", "warning"}


class TestCompose:
    def test_every_container_is_locked_down(self) -> None:
        for name, service in COMPOSE["services"].items():
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert "healthcheck" in service, name
            assert all("127.0.0.1" in port for port in service["ports"]), name
        for name in ("superposed", "superposed-gpu"):
            assert COMPOSE["services"][name]["user"] == "10001"
            assert COMPOSE["services"][name]["volumes"] == ["store:/data"]

    def test_every_file_is_there(self) -> None:
        for service in COMPOSE["services"].values():
            for volume in service.get("volumes", []):
                if volume.startswith("./"):
                    assert (ROOT / volume.partition(":")[0]).exists(), volume

    def test_compose_reads_it(self) -> None:
        command = [installed("docker-compose"), "--profile", "gpu", "--profile", "monitoring", "--profile", "tls"]
        read = subprocess.run([*command, "config"], cwd=ROOT, capture_output=True, text=True, check=False)
        assert read.returncode == 0, read.stderr
        assert set(yaml.safe_load(read.stdout)["services"]) == set(COMPOSE["services"])


class TestPrometheus:
    def test_rules_are_sound_and_fire(self) -> None:
        promtool, folder = installed("promtool"), OPERATIONS / "prometheus"
        for arguments in (("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")):
            done = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr

    def test_the_dashboard_shows_something(self, tmp_path: Path, server: Server) -> None:
        prometheus = installed("prometheus")
        with scraping(prometheus, tmp_path, server.port) as url:
            deadline = time.monotonic() + 20
            while empty := {title for title, query in queries() if not asked(url, query)} - DEVICE_ONLY:
                assert time.monotonic() < deadline, empty
                with server.client() as client:
                    load(client)  # counters must be seen to rise
                time.sleep(0.5)
            rules = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"][0]["rules"]
            assert {rule["name"]: rule["health"] for rule in rules} == {alert["alert"]: "ok" for alert in ALERTS}
            states = {rule["name"]: rule["state"] for rule in rules}
            assert states["SuperposedDown"] == states["SuperposedNotReady"] == "inactive"


@contextmanager
def scraping(prometheus: str, folder: Path, port: int) -> Iterator[str]:
    """A Prometheus with the committed configuration, but for the address, the key and the interval."""
    config = yaml.safe_load((OPERATIONS / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    [job] = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["superposed:8000"]}]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    job["authorization"]["credentials_file"] = str(OPERATIONS / "prometheus" / "no-key")
    config["rule_files"] = [str(OPERATIONS / "prometheus" / "alerts.yml")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    own = free_port()
    process = subprocess.Popen(
        [
            prometheus,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{own}",
            "--log.level=error",
        ]
    )
    url = f"http://127.0.0.1:{own}"
    try:
        deadline = time.monotonic() + 20
        while not ready(url):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(10)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def asked(url: str, query: str) -> list[Any]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    result: list[Any] = answer["data"]["result"]
    return [one for one in result if one["value"][1] != "NaN"]


class TestNginx:
    def test_a_request_goes_through_it(self, tmp_path: Path, server: Server) -> None:
        nginx, openssl, port = installed("nginx"), installed("openssl"), free_port()
        pair = ["-keyout", str(tmp_path / "tls.key"), "-out", str(tmp_path / "tls.crt")]
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *pair],
            capture_output=True,
            check=True,
        )
        text = (OPERATIONS / "nginx" / "nginx.conf").read_text()
        for here, there in (
            ("superposed:8000", f"127.0.0.1:{server.port}"),
            ("listen 8443", f"listen 127.0.0.1:{port}"),
            ("/tmp/", f"{tmp_path}/"),
            ("/etc/nginx/tls", str(tmp_path)),
            ("/dev/stdout", f"{tmp_path}/access.log"),
        ):
            assert here in text
            text = text.replace(here, there)
        (tmp_path / "nginx.conf").write_text(text)
        command = [nginx, "-c", str(tmp_path / "nginx.conf"), "-e", "stderr", "-g", "daemon off;"]
        process = subprocess.Popen(command)
        try:
            with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False) as http:
                deadline = time.monotonic() + 10
                while not answers(http):
                    assert process.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                assert http.get("/v1/store", headers={"X-Request-Id": "mine"}).headers["x-request-id"] == "mine"
                assert http.get("/metrics").status_code == 404
                assert "x-request-id" not in http.get("/metrics").headers  # nginx's own
        finally:
            process.terminate()
            process.wait(10)
        assert "GET /v1/store 200" in (tmp_path / "access.log").read_text()


def answers(http: httpx.Client) -> bool:
    try:
        return http.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False
