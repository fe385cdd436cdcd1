"""Expectations of every HTTP client: HEAD, a root, documents that need no internet, encodings."""

from __future__ import annotations

import gzip
import json
import re
import socket
import subprocess
import sys
import zlib
from pathlib import Path

import httpx
import pytest

from tests.conftest import make_directory, serving
from tests.helpers.http import ROW, problem, register
from tests.helpers.routes import ACCESS_RULES


def test_every_get_route_has_its_head(http: httpx.Client) -> None:
    register(http)
    seen = 0
    for method, path in ACCESS_RULES:
        if method != "GET" or path == "/v1/events":  # a stream has no end to compare
            continue
        url = re.sub(r"\{(model|key).*?\}", "digits", path)
        url = re.sub(r"\{version\}", "0", url).replace("{path}", "js/app.js")
        if path == "/v1/interference":
            url += "?tasks=digits"
        if path == "/v1/model":
            url += "?context=digits"
        got, head = http.get(url), http.head(url)
        assert head.status_code == got.status_code, path
        assert head.content == b""
        if path != "/metrics":  # the numbers go on
            assert head.headers.get("content-length") == got.headers.get("content-length"), path
        assert head.headers.get("content-type") == got.headers.get("content-type"), path
        seen += 1
    assert seen > 25


def test_the_head_of_a_stream_ends(http: httpx.Client) -> None:
    answer = http.head("/v1/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert http.get("/health/live").status_code == 200  # on the same connection


def test_head_of_what_has_no_get_is_refused(http: httpx.Client) -> None:
    assert http.head("/v1/infer").status_code == 405
    assert http.head("/nothing").status_code == 404


def test_the_root_leads_to_the_console(http: httpx.Client) -> None:
    answer = http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "console")
    assert http.get("/", follow_redirects=True).url.path == "/console"


def test_the_api_page_needs_nothing_from_elsewhere(http: httpx.Client) -> None:
    page = http.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(links) >= 4
    for link in links:
        assert not link.startswith(("/", "http"))  # relative: it works behind a path prefix
        assert http.get(f"/{link}").status_code == 200
    assert http.get("/redoc").status_code == 404


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_bodies_are_read(http: httpx.Client, encoding: str) -> None:
    register(http)
    body = json.dumps({"context": "digits", "inputs": [ROW]}).encode()
    packed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    answer = http.post("/v1/infer", content=packed, headers={"Content-Encoding": encoding})
    assert answer.json() == http.post("/v1/infer", content=body).json()
    taught = json.dumps({"context": "digits", "inputs": [ROW], "targets": ["1"]}).encode()
    packed = gzip.compress(taught) if encoding == "gzip" else zlib.compress(taught)
    headers = {"Content-Encoding": encoding, "Idempotency-Key": "packed"}
    answer = http.post("/v1/update", content=packed, headers=headers)
    assert answer.status_code == 200
    assert http.post("/v1/update", content=packed, headers=headers).json() == answer.json()


def test_other_encodings_and_bombs_are_refused(http: httpx.Client) -> None:
    register(http)
    body = json.dumps({"context": "digits", "inputs": [ROW]}).encode()
    answer = http.post("/v1/infer", content=body, headers={"Content-Encoding": "br"})
    assert "gzip" in str(problem(answer, 415, "unsupported-media-type")["expected"])
    headers = {"Content-Encoding": "gzip"}
    problem(http.post("/v1/infer", content=body, headers=headers), 422, "invalid-request")
    problem(http.post("/v1/infer", content=gzip.compress(body)[:-9], headers=headers), 422, "invalid-request")
    bomb = gzip.compress(b"[" * 10**7)
    problem(http.post("/v1/infer", content=bomb, headers=headers), 413, "payload-too-large")


def test_connections_stay_open_as_long_as_the_setting_says(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    with (
        serving(path, keep_alive_s=1.0) as http,
        socket.create_connection((http.base_url.host, http.base_url.port), timeout=30) as connection,
    ):
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while more := connection.recv(65_536):  # until the server closes it
            received += more
        assert received.startswith(b"HTTP/1.1 200 ")
    code = "from superposed_service.settings import Settings; print(Settings().keep_alive_s)"
    default = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert default.stdout.strip() == "75.0"
