"""Every limit of what may come in: each its own setting, and its own answer."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from demo.server_process import Server
from superposed_service.api.server.connections import _WriteBuffer
from tests.conftest import make_directory, serving, wait_for
from tests.helpers.http import ROW, problem, register

CAP = 8 * 2**20


def raw(http: httpx.Client, data: bytes, timeout_s: float = 20) -> bytes:
    """Return the server's response to bytes, until it closes the connection."""
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=timeout_s) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65_536):
            answer += more
    return answer


class TestSizes:
    def test_rows_and_numbers_in_a_row(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, max_rows=3, max_row_values=70) as http:
            register(http)
            for rows in ([ROW] * 4, [[0.0] * 71], [ROW, [0.0] * 71]):
                body = {"context": "digits", "inputs": rows}
                found = problem(http.post("/v1/infer", json=body), 413, "batch-too-large")
                assert found["expected"] in {"3 at most", "70 at most"}
            problem(http.post("/v1/infer", json={"context": "digits", "inputs": [[0.0] * 70]}), 422, "shape-mismatch")
            head = json.dumps({"context": "digits", "inputs": {"datatype": "UINT8", "shape": [1, 71]}})
            headers = {
                "Content-Type": "application/vnd.superposed.tensors",
                "Inference-Header-Content-Length": str(len(head)),
            }
            content = head.encode() + bytes(71)
            problem(http.post("/v1/infer", content=content, headers=headers), 413, "batch-too-large")
            v2 = {"inputs": [{"name": "input", "shape": [1, 71], "datatype": "UINT8", "data": [0] * 71}]}
            assert http.post("/v2/models/digits/infer", json=v2).status_code == 413

    def test_tasks_and_api_keys(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, max_tasks=2, max_api_keys=1) as http:
            for key in "ab":
                register(http, key)
            problem(http.post("/v1/tasks", json={"key": "c", "outputs": 2}), 409, "limit-reached")
            same = {"key": "a", "labels": [str(number) for number in range(10)]}
            assert http.post("/v1/tasks", json=same).status_code == 200  # is there already
            http.delete("/v1/tasks/a")
            two = {"key": "c", "outputs": 2, "group": "new"}
            problem(http.post("/v1/tasks", json=two), 409, "limit-reached")
            register(http, "c")
            key = http.post("/v1/keys", json={"scope": "admin"}).json()["key"]
            again = http.post("/v1/keys", json={"scope": "infer"}, headers={"Authorization": f"Bearer {key}"})
            problem(again, 409, "limit-reached")

    def test_heads(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, max_header_bytes=2000) as http:
            assert http.get("/health/live", headers={"X-Long": "x" * 1000}).status_code == 200
            problem(http.get("/health/live", headers={"X-Long": "x" * 2000}), 431, "headers-too-large")
            problem(http.get("/health/live?" + "x" * 2000), 431, "headers-too-large")
            answer = raw(http, b"GET /health/live HTTP/1.1\r\nX: " + b"y" * 4000)  # a head without an end
            assert answer.startswith(b"HTTP/1.1 431 ")
            assert b"connection: close" in answer
            assert raw(http, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
            assert http.get("/health/live").status_code == 200

    def test_nesting(self, tmp_path: Path) -> None:
        with serving(make_directory(tmp_path / "store")) as http:
            register(http)
            deep: Any = "digits"
            for _ in range(5):
                deep = {"power": {"context": deep, "exponent": 1.0}}
            found = http.post("/v1/infer", json={"context": deep, "inputs": [ROW]})
            problem(found, 422, "expression-invalid")
            for content in (b"[" * 100_000, b'{"context":' + b'{"power":' * 10_000):
                problem(http.post("/v1/infer", content=content), 422, "invalid-request")

    def test_all_bodies_together(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, max_inflight_bytes=150_000) as http:
            half = b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 120000\r\n\r\n" + b"x" * 100_000
            with socket.create_connection((http.base_url.host, http.base_url.port)) as holder:
                holder.sendall(half)
                wait_for(lambda: http.post("/v1/infer", content=b"x" * 60_000).status_code == 503)
                answer = http.post("/v1/infer", content=b"x" * 60_000)
                assert int(answer.headers["retry-after"]) >= 1
                assert "too many bytes" in str(problem(answer, 503, "overloaded")["detail"])
                assert http.get("/v1/store").status_code == 200
            wait_for(lambda: http.post("/v1/infer", content=b"x" * 60_000).status_code == 422)  # room again


def busy(http: httpx.Client) -> socket.socket:
    """A connection with a request in progress."""
    connection = socket.create_connection((http.base_url.host, http.base_url.port), timeout=5)
    connection.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
    return connection


class TestConnections:
    def test_beyond_the_limit_only_probes_are_answered(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, max_connections=3) as http:
            assert http.get("/v1/store").status_code == 200
            held = [busy(http) for _ in range(3)]
            with httpx.Client(base_url=http.base_url) as other:
                assert other.get("/health/ready").status_code == 200
                answer = other.get("/v1/store")
                problem(answer, 503, "overloaded")
                assert answer.headers["retry-after"] == "1"
            for connection in held:
                connection.close()
            wait_for(lambda: httpx.get(http.base_url.join("/v1/store")).status_code == 200)
            crowd = [busy(http) for _ in range(3 + 64)]  # past the reserve
            late = busy(http)
            assert late.recv(100).startswith(b"HTTP/1.1 503 ")
            for connection in [*crowd, late]:
                connection.close()

    def test_connections_that_send_nothing_keep_nobody_out(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, max_connections=20) as http:
            address = (http.base_url.host, http.base_url.port)
            silent = [socket.create_connection(address, timeout=5) for _ in range(400)]
            with httpx.Client(base_url=http.base_url) as other:
                assert other.get("/health/live").status_code == 200
                assert other.get("/v1/store").status_code == 200
            idle = [httpx.Client(base_url=http.base_url) for _ in range(40)]
            assert {one.get("/health/live").status_code for one in idle} == {200}  # kept alive
            assert httpx.get(http.base_url.join("/v1/store")).status_code == 200
            half = busy(http)  # one with a request in progress is not closed for them
            more = [socket.create_connection(address, timeout=5) for _ in range(40)]
            half.sendall(b"x" * 999)
            assert half.recv(100).startswith(b"HTTP/1.1 422 ")
            for connection in [*silent, *idle, *more, half]:
                connection.close()

    def test_a_client_that_does_not_read_its_answer_is_cut_off(self, tmp_path: Path) -> None:
        path = make_directory(tmp_path / "store")
        with serving(path, response_timeout_s=1, max_rows=4096, max_body_bytes=2**22) as http:
            register(http)
            http.post("/v1/update", json={"context": "digits", "inputs": [ROW], "targets": ["1"]})
            body = json.dumps({"context": "digits", "inputs": [ROW] * 4000, "return": ["logits"]}).encode()
            head = f"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            with socket.socket() as slow:
                slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                slow.connect((http.base_url.host, http.base_url.port))
                slow.settimeout(15)
                for _ in range(12):  # more than the kernel holds for it
                    slow.sendall(head + body)
                time.sleep(4)
                with pytest.raises(OSError, match="reset"):  # noqa: PT012 - any of these reads
                    while slow.recv(4096):
                        pass
                    raise ConnectionResetError("closed without a reset")


class TestDeadlines:
    @pytest.mark.parametrize("value", ["", "0", "-1", "1e3", "soon", "٣", "1" * 20])
    def test_a_header_that_is_none(self, http: httpx.Client, value: str) -> None:
        answer = http.get("/v1/store", headers={"Request-Timeout": value.encode()})
        assert "Request-Timeout" in str(problem(answer, 422, "invalid-request")["detail"])

    def test_it_holds_while_a_request_waits(self, tmp_path: Path) -> None:
        path, apis = make_directory(tmp_path / "store"), []
        with serving(path, change=apis.append) as http:
            register(http)
            opened = threading.Event()
            engine = apis[0].state.runtime.engine
            entered = threading.Event()

            def hold(_: object) -> None:
                entered.set()
                opened.wait(60)

            holding = threading.Thread(target=lambda: asyncio.run(engine.call(hold)))
            holding.start()
            assert entered.wait(60)
            try:
                for route, more in (("/v1/infer", {}), ("/v1/update", {"targets": ["0"]})):
                    body: dict[str, Any] = {"context": "digits", "inputs": [ROW]}
                    answer = http.post(route, json=body | more, headers={"Request-Timeout": "0.3"})
                    assert "dropped" in str(problem(answer, 504, "deadline-exceeded")["detail"])
                    assert answer.headers["retry-after"] == "1"
            finally:
                opened.set()
                holding.join()
            assert http.get("/v1/tasks/digits").json()["updates"] == 0


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in a process of its own, so that its memory can be looked at."""
    path = make_directory(tmp_path_factory.mktemp("slow") / "store")
    values = {"HEADER_TIMEOUT_S": "6", "BODY_TIMEOUT_S": "6", "MAX_BODY_BYTES": str(CAP)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(f"SUPERPOSED_{name}", value)
        with Server(path) as server:
            yield server


def memory(server: Server) -> int:
    process = server._process
    assert process is not None
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_five_hundred_slow_connections(slow_server: Server) -> None:
    """A third send their head one byte a second, a third their body, a third nothing at all."""
    beginnings = [
        b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /v1/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{",
        b"",
    ]

    async def slow(number: int) -> float:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection("127.0.0.1", slow_server.port)
        beginning = beginnings[number % 3]
        writer.write(beginning)

        async def trickle() -> None:
            while beginning:
                await asyncio.sleep(1)
                writer.write(b"x")

        trickling = asyncio.create_task(trickle())
        try:
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 408 "), answer[:100]
        except ConnectionError:
            pass
        finally:
            trickling.cancel()
            writer.close()
        return time.monotonic() - started

    async def everyone() -> list[float]:
        return await asyncio.gather(*(slow(number) for number in range(500)))

    with ThreadPoolExecutor(1) as pool, slow_server.client() as client:
        client.register_task("meanwhile", outputs=10)
        crowd = pool.submit(lambda: asyncio.run(everyone()))
        answered = 0
        while not crowd.done():
            assert client.infer("meanwhile", [ROW]).labels is not None
            assert client.update("meanwhile", [ROW], [1]).rows == 1
            assert httpx.get(f"{slow_server.url}/health/ready").status_code == 200
            answered += 1
        lasted = crowd.result()
    assert answered  # how many depends on the machine
    assert min(lasted) > 5  # none was cut off before its time


@pytest.mark.parametrize("chunked", [False, True])
def test_one_byte_over_the_cap_costs_no_more_than_the_cap(slow_server: Server, chunked: bool) -> None:
    chunk = bytes(2**16)

    def chunks() -> Iterator[bytes]:
        for _ in range(CAP // len(chunk)):
            yield chunk
        yield b"x"

    with httpx.Client(base_url=slow_server.url, timeout=30) as http:
        problem(http.post("/v1/infer", content=bytes(CAP)), 422, "invalid-request")  # the cap itself is read
        before, most, done = memory(slow_server), 0, threading.Event()

        def watch() -> None:
            nonlocal most
            while not done.wait(0.005):
                most = max(most, memory(slow_server))

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            for _ in range(5):
                content = chunks() if chunked else bytes(CAP + 1)
                problem(http.post("/v1/infer", content=content), 413, "payload-too-large")
        finally:
            done.set()
            watching.join()
    assert most - before <= 2 * CAP


class TestCorked:
    """Bytes of one turn of the event loop leave together."""

    class Transport:
        def __init__(self) -> None:
            self.written: list[bytes] = []
            self.closed = False

        def write(self, data: bytes) -> None:
            assert not self.closed
            self.written.append(data)

        def close(self) -> None:
            self.closed = True

        def is_closing(self) -> bool:
            return self.closed

    def test_head_and_body_leave_together_and_nothing_is_lost(self) -> None:
        async def scenario() -> None:
            transport = self.Transport()
            corked = _WriteBuffer(transport, asyncio.get_running_loop())  # type: ignore[arg-type]  # as much as is used
            corked.write(b"head")
            corked.write(b"body")
            assert transport.written == []
            await asyncio.sleep(0)
            assert transport.written == [b"headbody"]
            corked.write(b"large" * 20_000)
            assert len(transport.written) == 2
            for _ in range(100):  # a stream to a slow client: the transport is to know
                corked.write(b"x" * 1000)
            assert sum(map(len, transport.written[2:])) > 60_000
            await asyncio.sleep(0)
            assert sum(map(len, transport.written[2:])) == 100_000
            transport.written.clear()
            corked.write(b"last")
            corked.close()
            assert corked.is_closing()
            assert transport.written == [b"last"]
            corked.write(b"to nobody")  # the client has left: nothing raises
            await asyncio.sleep(0)
            assert transport.written == [b"last"]

        asyncio.run(scenario())


def test_too_many_candidates_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(_: object) -> list[str]:
        raise AssertionError("the candidates were parsed before the limit was checked")

    monkeypatch.setattr("superposed_service.api.v1.routes.inference.named", named)
    with serving(make_directory(tmp_path / "store"), max_rows=8) as http:
        body = {"inputs": [ROW], "candidates": ["a"] * 9}
        problem(http.post("/v1/locate", json=body), 413, "batch-too-large")
        body = {"inputs": [ROW] * 9, "context": "auto"}
        problem(http.post("/v1/infer", json=body), 413, "batch-too-large")
