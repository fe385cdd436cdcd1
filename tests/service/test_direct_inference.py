"""Small inference requests answered on the connection: as the usual way answers them, byte for byte."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from superposed_client._core import HEAD_LENGTH, MEDIA_TYPE, dump
from superposed_service.api.server.direct_inference import DirectInference
from superposed_service.engine.engine import Engine
from superposed_service.engine.inference_executor import InferenceExecutor
from superposed_service.errors import Overloaded
from tests.conftest import make_directory, serving
from tests.helpers.http import ROW, problem, register

# A header that the connection does not know: such a request takes the usual way.
USUAL = {"X-Usual": "1"}
BODIES: list[dict[str, Any]] = [
    {"context": "digits", "inputs": [ROW]},
    {"context": "digits", "inputs": [ROW, [2.0] * 64], "return": ["labels", "logits", "probabilities"]},
    {"context": "digits", "inputs": [ROW], "return": ["top_k"], "k": 3},
    {"context": "mix(digits:0.5,letters:0.5)", "inputs": [ROW]},
    {"context": {"task": "digits"}, "inputs": [ROW]},
    {"contexts": ["digits", "letters"], "inputs": [ROW, ROW]},
    {"context": "digits", "inputs": [[1] * 64]},
    {"context": "digits", "inputs": [[True] + [0.5] * 63]},
]
WRONG: list[tuple[bytes, int]] = [
    (b"{", 422),
    (b'{"context": "digits", "inputs": [[NaN]]}', 422),
    (b'{"context": "digits"}', 422),
    (b'{"context": "digits", "inputs": [[1, 2]]}', 422),
    (b'{"context": "digits", "inputs": [["a"]]}', 422),
    (b'{"context": "digits", "inputs": [], "k": 1}', 422),
    (b'{"context": "nobody", "inputs": [[1]]}', 404),
    (b'{"context": "digits", "inputs": [[1]], "return": ["everything"]}', 422),
    (json.dumps({"context": "digits", "inputs": [ROW], "return": ["values"]}).encode(), 422),
    (json.dumps({"context": "digits", "inputs": [ROW] * 65}).encode(), 413),
]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the requests that were answered on the connection, however slow the machine is."""
    monkeypatch.setattr(InferenceExecutor, "measure", lambda self: setattr(self, "_loop_rows", 64))
    written: list[str] = []
    write = DirectInference.write

    def noted(self: DirectInference, reply: Any, *rest: Any) -> None:
        written.append(reply.cycle.scope["path"])  # before the client goes on
        write(self, reply, *rest)

    monkeypatch.setattr(DirectInference, "write", noted)
    return written


@pytest.fixture
def taught(tmp_path: Path, taken: list[str]) -> Iterator[httpx.Client]:
    with serving(make_directory(tmp_path / "store")) as http:
        for key in ("digits", "letters"):
            register(http, key=key)
            update = {"context": key, "inputs": [ROW, [0.0] * 64], "targets": ["1", "2"]}
            assert http.post("/v1/update", json=update).status_code == 200
        for key in ("digits", "letters"):  # from then on their contexts are at hand
            asked = {"context": key, "inputs": [ROW]}
            assert http.post("/v1/infer", json=asked, headers=USUAL).status_code == 200
        yield http


def rest(answer: httpx.Response) -> tuple[int, bytes, list[str]]:
    """An answer but for what differs by request."""
    body = re.sub(rb'"request_id":"[^"]*"', b"", answer.content)
    return answer.status_code, body, sorted(set(answer.headers) - {"x-request-id"})


@pytest.mark.parametrize("body", BODIES)
def test_it_is_answered_as_on_the_usual_way(taught: httpx.Client, taken: list[str], body: dict[str, Any]) -> None:
    usual = taught.post("/v1/infer", json=body, headers=USUAL)
    assert usual.status_code == 200
    assert not taken
    direct = taught.post("/v1/infer", json=body)
    assert rest(direct) == rest(usual)
    assert taken == (["/v1/infer"] if isinstance(body.get("context"), str) else [])


def test_tensors(taught: httpx.Client, taken: list[str]) -> None:
    import numpy as np

    content, length = dump({"context": "digits", "inputs": np.asarray([ROW], dtype="<f4")})
    headers = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE, HEAD_LENGTH: str(length)}
    usual = taught.post("/v1/infer", content=content, headers=headers | USUAL)
    direct = taught.post("/v1/infer", content=content, headers=headers)
    assert rest(direct) == rest(usual)
    assert direct.headers[HEAD_LENGTH] == usual.headers[HEAD_LENGTH]
    assert taken == ["/v1/infer"]


@pytest.mark.parametrize(("body", "status"), WRONG)
def test_what_is_wrong_is_said_as_on_the_usual_way(taught: httpx.Client, body: bytes, status: int) -> None:
    headers = {"Content-Type": "application/json"}
    usual = taught.post("/v1/infer", content=body, headers=headers | USUAL)
    direct = taught.post("/v1/infer", content=body, headers=headers)
    assert direct.status_code == status
    assert rest(direct) == rest(usual)


def test_a_client_that_names_its_request(taught: httpx.Client, taken: list[str]) -> None:
    answer = taught.post("/v1/infer", json=BODIES[0], headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert taken == ["/v1/infer"]


def test_it_is_counted(taught: httpx.Client, taken: list[str]) -> None:
    def counted() -> float:
        pattern = r'requests_total\{method="POST",path="/v1/infer",status_code="200"\} ([0-9.]+)'
        found = re.search(pattern, taught.get("/metrics").text)
        return float(found[1]) if found else 0.0

    before = counted()
    for headers in ({}, USUAL):
        taught.post("/v1/infer", json=BODIES[0], headers=headers)
    assert counted() == before + 2
    assert len(taken) == 1


@pytest.fixture
def guarded_store(tmp_path: Path, taken: list[str]) -> Iterator[httpx.Client]:
    with serving(make_directory(tmp_path / "store"), quota_burst_s=1.0) as http:
        register(http, key="digits")
        register(http, key="other")
        update = {"context": "digits", "inputs": [ROW], "targets": ["1"]}
        assert http.post("/v1/update", json=update).status_code == 200
        yield http


def key(http: httpx.Client, admin: dict[str, str], **fields: Any) -> dict[str, str]:
    made = http.post("/v1/keys", json=fields, headers=admin)
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


def test_keys_and_quotas(guarded_store: httpx.Client, taken: list[str]) -> None:
    http = guarded_store
    admin = key(http, {}, scope="admin")
    monitor = key(http, admin, scope="monitor")
    tenant = key(http, admin, scope="infer", tasks="digits")
    few = key(http, admin, scope="infer", requests_per_second=0.001, rows_per_second=0.001)
    body = BODIES[0]
    for headers, status in (({}, 401), ({"Authorization": "Bearer no"}, 401), (monitor, 403)):
        for more in ({}, USUAL):
            assert http.post("/v1/infer", json=body, headers=headers | more).status_code == status
    problem(http.post("/v1/infer", json=body | {"context": "other"}, headers=tenant), 404, "unknown-task")
    assert http.post("/v1/infer", json=body, headers=tenant).status_code == 200
    taken.clear()
    # One request fills the quota of requests: it is spent once, on whichever way.
    assert http.post("/v1/infer", json=body, headers=few).status_code == 200
    assert taken == ["/v1/infer"]
    problem(http.post("/v1/infer", json=body, headers=few), 429, "quota-exceeded")


def test_what_the_engine_refuses_is_spent_once(
    tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise Overloaded("too much is waiting")

    with serving(make_directory(tmp_path / "store"), quota_burst_s=3000.0) as http:
        register(http, key="digits")
        admin = key(http, {}, scope="admin")
        # Three requests of a row; a fourth comes in after a quarter of an hour.
        few = key(http, admin, scope="infer", rows_per_second=0.001, requests_per_second=0.001)
        assert http.post("/v1/infer", json=BODIES[0], headers=few | USUAL).status_code == 200
        with monkeypatch.context() as refusing:
            refusing.setattr(Engine, "infer_soon", full)
            problem(http.post("/v1/infer", json=BODIES[0], headers=few), 503, "overloaded")
        assert http.post("/v1/infer", json=BODIES[0], headers=few).status_code == 200
        problem(http.post("/v1/infer", json=BODIES[0], headers=few), 429, "quota-exceeded")
    assert taken == ["/v1/infer"]


@pytest.mark.parametrize("way", [{}, USUAL])
def test_a_body_has_its_limit_and_a_stranger_is_refused_before_it(
    tmp_path: Path, taken: list[str], way: dict[str, str]
) -> None:
    with serving(make_directory(tmp_path / "store"), max_body_bytes=1024) as http:
        register(http, key="digits")
        large = {"context": "digits", "inputs": [ROW] * 6}
        problem(http.post("/v1/infer", json=large, headers=way), 413, "payload-too-large")
        key(http, {}, scope="admin")
        lines = [b"POST /v1/infer HTTP/1.1", b"Host: x", b"Content-Length: 500"]
        lines += [f"{name}: {value}".encode() for name, value in way.items()]
        with socket.create_connection((http.base_url.host, http.base_url.port)) as connection:
            connection.sendall(b"\r\n".join([*lines, b"", b""]))  # and no body
            connection.settimeout(30)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 401")
    assert not taken


def test_pipelined_requests_and_a_closed_connection(taught: httpx.Client, taken: list[str]) -> None:
    body = json.dumps(BODIES[0]).encode()
    head = b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    one = head % len(body) + b"\r\n" + body
    last = head % len(body) + b"Connection: close\r\n\r\n" + body
    with socket.create_connection((taught.base_url.host, taught.base_url.port)) as connection:
        connection.sendall(one[:40])
        connection.sendall(one[40:] + one + last)
        received = b""
        while more := connection.recv(65_536):
            received += more
    assert received.count(b"HTTP/1.1 200 OK") == 3
    assert received.count(b"connection: close") == 1
    assert len(taken) == 3


def test_a_bug_on_the_connection_is_survived(tmp_path: Path, taken: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that cannot be written is answered 500; what fails before it takes the usual way."""
    with serving(make_directory(tmp_path / "store")) as http:
        register(http, key="digits")
        update = {"context": "digits", "inputs": [ROW], "targets": ["1"]}
        assert http.post("/v1/update", json=update).status_code == 200
        for place, name in ((DirectInference, "write"), (Engine, "answers_soon")):
            with monkeypatch.context() as broken:

                def fails(*_: Any) -> None:
                    raise RuntimeError("a bug")

                broken.setattr(place, name, fails)
                expected = 500 if name == "write" else 200
                assert http.post("/v1/infer", json=BODIES[0]).status_code == expected
        assert http.post("/v1/infer", json=BODIES[0]).status_code == 200


def test_traces_and_full_access_logs_take_the_usual_way(tmp_path: Path, taken: list[str]) -> None:
    seen: list[object] = []

    def look(api: FastAPI) -> None:
        seen.append(api)

    with serving(make_directory(tmp_path / "store"), change=look, access_log="all") as http:
        register(http, key="digits")
        assert http.post("/v1/infer", json=BODIES[0]).status_code == 200
        assert seen[0].state.direct is None  # type: ignore[attr-defined]
    assert not taken
