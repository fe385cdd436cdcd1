"""Through HTTP workers everything is as without them."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from superposed_service import codec, tensors
from superposed_service.app import create_api, guarded
from superposed_service.demo.server import Server
from superposed_service.schemas import UpdateBody
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory
from superposed_service.workers import convert, supervisor
from superposed_service.workers.supervisor import Front
from tests.conftest import make_directory, serving
from tests.service.test_access import TestAuthors as Authors
from tests.service.test_access import admin as admin
from tests.service.test_api import (
    TestInfer as Infer,
)
from tests.service.test_api import (
    TestUpdate as Update,
)

ROW = [0.25, 1, -3.5e-7, 12345678.9] * 16
TENSORS = tensors.TENSORS_MEDIA_TYPE


@contextmanager
def behind_workers(path: Path, **settings: object) -> Iterator[tuple[httpx.Client, Front]]:
    """As `serving`, with two workers in front."""
    limits = {"max_body_bytes": 200_000, "max_rows": 64, "max_steps": 10} | settings
    chosen = Settings(http_workers=2, **limits)  # type: ignore[arg-type]
    with DataDirectory(path) as directory:
        api = create_api(chosen, directory)
        app, end_streams = guarded(api, chosen, directory), api.state.events.close
        front = Front(app, chosen, "127.0.0.1", 0, end_streams)
        thread = threading.Thread(target=front.run)
        thread.start()
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{front.port}", timeout=30) as client:
                client.get("/health/ready").raise_for_status()
                yield client, front
        finally:
            front.stop()
            thread.join()


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    with behind_workers(make_directory(tmp_path / "store")) as (client, _):
        yield client


class TestSomeRoutes:
    """Tests of the routes that know nothing of workers."""

    test_contexts = Infer.test_a_context_per_row_with_own_widths_and_outputs
    test_rows_of_many_tasks = Update.test_rows_of_many_tasks_in_one_update
    test_an_update_learns = Update.test_an_update_learns_and_answers_what_was_before
    test_keys_of_authors = Authors.test_idempotency_keys_are_each_authors_own


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two servers over equal stores: one answers by itself, the other behind workers."""
    folder = tmp_path_factory.mktemp("pair")
    with ExitStack() as stack:
        direct = stack.enter_context(serving(make_directory(folder / "direct")))
        behind, _ = stack.enter_context(behind_workers(make_directory(folder / "behind")))
        for client in (direct, behind):
            client.post("/v1/tasks", json={"key": "a", "labels": ["x", "y", "z"]}).raise_for_status()
            client.post("/v1/tasks", json={"key": "m", "outputs": 2, "loss": "mse", "inputs": 3})
        yield direct, behind


def same(pair: tuple[httpx.Client, httpx.Client], method: str, path: str, **request: Any) -> httpx.Response:
    answers = []
    for client in pair:
        parts = request.get("parts")
        content = iter(parts) if parts is not None else request.get("content")
        answers.append(client.request(method, path, content=content, headers=request.get("headers")))
    one, other = answers
    assert (one.status_code, one.content) == (other.status_code, other.content)
    for answer in answers:
        assert answer.headers.pop("x-request-id")
        answer.headers.pop("date")
        if method == "HEAD":  # where its answer ends only shows when the connection does
            answer.headers.pop("connection", "")
    assert one.headers == other.headers
    return other


def body(**fields: object) -> bytes:
    return json.dumps({"context": "a", "inputs": [ROW]} | fields).encode()


BODIES: list[bytes] = [
    body(),
    body(inputs=[ROW] * 40, **{"return": ["logits"]}),
    body(inputs=[[1] * 64, [2] * 64]),
    body(inputs=[[True] * 64]),
    body(inputs=[[True, 2.5] * 32]),
    body(inputs=[[2**63] * 64]),
    body(inputs=[[2**70] * 64]),
    body(inputs=[]),
    body(inputs=[[]]),
    body(inputs=[ROW, ROW[:3]]),
    body(inputs=[["1"] * 64]),
    body(inputs=ROW),
    body(inputs=[[[1.0]]]),
    body(inputs={"datatype": "FP32", "shape": [1, 64]}),
    body(inputs=[ROW] * 65),
    body(inputs=[ROW[:5]]),
    body(context={"datatype": "FP32", "shape": [1]}),
    body(context={"mixture": [{"context": "a", "weight": 1}]}),
    body(context="nobody"),
    body(context=None),
    body(contexts=["a"], context=None),
    body(unknown=1),
    body(targets=["y"]),
    body(targets=["y"], context="nobody"),
    body(targets=["y"] * 65, inputs=[ROW] * 65),
    body(targets=[1], steps=3),
    body(targets=[1], steps=0),
    body(targets=["w"]),
    body(context="m", inputs=[[1, 2, 3]], targets=[[0.1, 1e-300]]),
    b'{"context": "a", "inputs": [[1e999]]}',
    b'{"context": "a", "inputs": [[NaN]]}',
    b'{"context": "a", "inputs": [[1], "inputs": [[2]]}',
    b'{"context": "m", "inputs": [[1, 2, 3]], "context": "a", "inputs": [' + str(ROW).encode() + b"]}",
    b"[1]",
    b"",
    b"\xff",
]


@pytest.mark.parametrize("path", ["/v1/infer", "/v1/update", "/v1/evaluate"])
def test_every_body_is_answered_the_same(pair: tuple[httpx.Client, httpx.Client], path: str) -> None:
    statuses = set()
    for content in BODIES:
        halves = [content[: len(content) // 2], content[len(content) // 2 :]]
        json_type = {"Content-Type": "application/json"}
        statuses.add(same(pair, "POST", path, content=content, headers=json_type).status_code)
        same(pair, "POST", path, content=content)
        same(pair, "POST", path, parts=halves, headers=json_type)  # chunked
        same(pair, "POST", path, content=content, headers={"Content-Type": TENSORS})
    assert statuses >= {200, 404, 413, 422}


def test_everything_else_is_answered_the_same(pair: tuple[httpx.Client, httpx.Client]) -> None:
    assert same(pair, "GET", "/nowhere").status_code == 404
    assert same(pair, "GET", "/v1/infer").status_code == 405
    assert same(pair, "GET", "/v2/models/a").status_code == 200
    assert same(pair, "HEAD", "/v2/models/a").status_code == 200
    assert same(pair, "GET", "/v1/tasks?limit=1&prefix=%61").json()["tasks"][0]["key"] == "a"
    long = [b" " * 90_000] * 3
    assert same(pair, "POST", "/v1/infer", content=b"".join(long)).status_code == 413
    for client in pair:  # how much of it has come by then is another matter
        assert client.post("/v1/infer", content=iter(long)).status_code == 413
    accepts = {"Accept": TENSORS}
    assert same(pair, "POST", "/v1/infer", content=body(), headers=accepts).headers["content-type"] == TENSORS
    assert same(pair, "POST", "/v1/infer?x=1", content=body()).status_code == 200
    keyed = {"Idempotency-Key": "one"}
    first = same(pair, "POST", "/v1/update", content=body(targets=[1]), headers=keyed)
    assert same(pair, "POST", "/v1/update", content=body(targets=[1]), headers=keyed).json() == first.json()
    other = same(pair, "POST", "/v1/update", content=body(targets=[2]), headers=keyed)
    assert other.json()["type"].endswith("idempotency-mismatch")
    stores = [client.get("/v1/store").json() for client in pair]
    assert stores[0]["sequence"] == stores[1]["sequence"] > 5


def raw(client: httpx.Client) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", client.base_url.port or 0))
    found.settimeout(10)
    return found


def read_until(connection: socket.socket, wanted: bytes, count: int = 1) -> bytes:
    data = b""
    while data.count(wanted) < count:
        more = connection.recv(65536)
        assert more, data
        data += more
    return data


def post(content: bytes, *headers: str) -> bytes:
    lines = ["POST /v1/infer HTTP/1.1", "Host: x", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def test_requests_in_one_piece_in_many_pieces_and_none_at_all(
    pair: tuple[httpx.Client, httpx.Client],
) -> None:
    request = post(body())
    for client in pair:
        with raw(client) as connection:
            connection.sendall(request * 3)
            read_until(connection, b"200 OK", 3)
            for byte in request:
                connection.send(bytes([byte]))
            read_until(connection, b"200 OK")
        with raw(client) as connection:
            connection.sendall(post(body(), "Expect: 100-continue")[: -len(body())])
            read_until(connection, b"100 Continue\r\n\r\n")
            connection.sendall(body())
            read_until(connection, b"200 OK")
        with raw(client) as connection:
            connection.sendall(post(body(), "Connection: close"))
            read_until(connection, b"probabilities")
            assert not connection.recv(100)
        with raw(client) as connection:
            connection.sendall(request + b"this is not HTTP\r\n\r\n")
            read_until(connection, b"Invalid HTTP request received.")


def test_a_body_that_takes_long_is_passed_on_as_it_comes_and_who_leaves_is_forgotten(tmp_path: Path) -> None:
    path = make_directory(tmp_path / "store")
    with behind_workers(path, request_timeout_s=0.3) as (client, front):
        client.post("/v1/tasks", json={"key": "a", "outputs": 3}).raise_for_status()
        state = front._server.server_state
        with raw(client) as connection:
            connection.sendall(post(body())[:-20])
            time.sleep(0.6)
            connection.sendall(body()[-20:])
            assert b'"sequence":1' in read_until(connection, b"sequence")
            open_now = len(state.connections)
        deadline = time.monotonic() + 10
        while len(state.connections) >= open_now:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_heads_and_connections_have_their_limits(tmp_path: Path) -> None:
    limits = {"header_timeout_s": 0.5, "max_header_bytes": 2000, "max_connections": 8}
    with behind_workers(make_directory(tmp_path / "store"), **limits) as (http, front):
        url = ("127.0.0.1", front.port)
        begun = b"GET /v1/store HTTP/1.1\r\nHost: x\r\n"
        whole = begun + b"\r\n"
        for sent, status in ((begun, b" 408 "), (begun + b"x: " + b"y" * 100, b" 408 "), (b"", b" 408 ")):
            with socket.create_connection(url, timeout=20) as slow:
                slow.sendall(sent)
                assert status in slow.recv(4096)
                assert slow.recv(4096) == b""
        with socket.create_connection(url, timeout=20) as slow:  # the second one is no better
            slow.sendall(whole)
            slow.sendall(begun)
            read = b""
            while b" 408 " not in read and (part := slow.recv(65536)):
                read += part
            assert read.count(b" 200 ") == read.count(b" 408 ") == 1
        with socket.create_connection(url, timeout=20) as long:
            long.sendall(begun)
            time.sleep(0.05)
            long.sendall((b"x: " + b"y" * 100 + b"\r\n") * 25)
            assert b" 431 " in long.recv(4096)
        with socket.create_connection(url, timeout=20) as long:
            long.sendall(begun + b"x: " + b"y" * 4000 + b"\r\n\r\n")
            assert b" 431 " in long.recv(4096)
        assert http.get("/v1/store").status_code == 200
        with ExitStack() as held:
            answers = []
            for _ in range(12):
                one = held.enter_context(socket.create_connection(url, timeout=20))
                one.sendall(whole)
                answers.append(one.recv(65536).split(b" ")[1])
            assert set(answers) == {b"200"}  # idle ones make room
            assert httpx.get(f"{http.base_url}/health/live").status_code == 200


def test_a_system_without_room_for_a_worker_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, refused = subprocess.Popen, []

    def full(*given: Any, **more: Any) -> Any:
        if len(refused) < 2:
            refused.append(1)
            raise OSError(errno.EAGAIN, "no process can be made")
        return start(*given, **more)

    monkeypatch.setattr(supervisor.subprocess, "Popen", full)
    monkeypatch.setattr(supervisor, "_RESTART_S", 0.05)
    with behind_workers(make_directory(tmp_path / "store")) as (http, _):
        assert http.get("/v1/store").status_code == 200
    assert len(refused) == 2


def test_workers_are_replaced_finish_first_and_end_with_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUPERPOSED_HTTP_WORKERS", "2")
    server = Server(make_directory(tmp_path / "store"))
    server.start()
    try:
        process = server._process
        assert process is not None
        wait_for(lambda: len(children(process.pid)) == 2)
        killed = children(process.pid)[0]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in children(process.pid) and len(children(process.pid)) == 2)

        rows = np.random.default_rng(0).normal(size=(64, 64)).tolist()
        with httpx.Client(base_url=server.url, timeout=30) as client:
            client.post("/v1/tasks", json={"key": "a", "outputs": 3}).raise_for_status()
            long = {"context": "a", "inputs": rows, "targets": [1] * 64, "steps": 100}
            answers: list[httpx.Response] = []
            asking = threading.Thread(target=lambda: answers.append(client.post("/v1/update", json=long)))
            asking.start()
            time.sleep(0.1)
            server.stop()
            asking.join()
        assert [answer.status_code for answer in answers] == [200]
        assert process.returncode == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url)

        server.start()
        process = server._process
        assert process is not None
        wait_for(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))
    finally:
        server.stop()


def test_events_come_through_and_end_with_the_service(tmp_path: Path) -> None:
    with behind_workers(make_directory(tmp_path / "store")) as (http, front):
        with http.stream("GET", "/v1/events") as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("retry: ")
            started = time.monotonic()
            front.stop()
            for _ in lines:
                pass
        assert time.monotonic() - started < 20


def test_the_names_are_the_services_own() -> None:
    assert convert.TENSORS_MEDIA_TYPE.decode() == tensors.TENSORS_MEDIA_TYPE
    assert convert.HEAD_LENGTH.decode() == tensors.HEAD_LENGTH


NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65), st.floats(allow_nan=False, allow_infinity=False), st.booleans()
)
VALUES = st.recursive(
    st.one_of(st.none(), st.text(max_size=5), NUMBERS),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(
    rows=st.one_of(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3), VALUES),
    targets=st.lists(VALUES, max_size=3),
    context=VALUES,
)
def test_a_converted_body_holds_the_same_numbers(rows: Any, targets: list[Any], context: Any) -> None:
    content = json.dumps({"inputs": rows, "context": context or "a", "targets": targets}).encode()
    converted = convert.to_tensors(content, 10_000)
    if converted is None:
        return
    plain = codec.read_body(UpdateBody, content, None)
    binary = codec.read_body(UpdateBody, converted[0], TENSORS, str(converted[1]))
    as_read = np.asarray(plain.inputs)
    assert binary.inputs.dtype == as_read.dtype
    assert binary.inputs.tobytes() == as_read.tobytes()
    assert repr((binary.context, binary.targets)) == repr((plain.context, plain.targets))
