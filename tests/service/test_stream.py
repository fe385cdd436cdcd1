"""`POST /v1/stream`: lines both ways over a real connection."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest

from demo.server_process import Server
from superposed_client import Client
from superposed_service.api.auth.rate_limits import Quotas
from superposed_service.engine.engine import Engine
from superposed_service.errors import Overloaded
from tests.conftest import make_directory, serving, wait_for
from tests.service.test_follower import CONFIG, X, Y, register

ROWS, TARGETS = X[:2].tolist(), list(Y[:2])


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    Line.close_all()


@pytest.fixture
def http(tmp_path: Path) -> Iterator[httpx.Client]:
    with serving(make_directory(tmp_path / "store", CONFIG), keep_alive_s=20.0, body_timeout_s=0.5) as http:
        register(http, "a")
        yield http


class Line:
    """A stream that is read while it is written."""

    opened: ClassVar[list[Line]] = []

    def __init__(self, http: httpx.Client, headers: dict[str, str] | None = None) -> None:
        self.opened.append(self)
        url = urlsplit(str(http.base_url))
        self.socket = socket.create_connection((url.hostname, url.port), timeout=30)
        head = {"host": "x", "transfer-encoding": "chunked"} | (headers or {})
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        self.socket.sendall(f"POST /v1/stream HTTP/1.1\r\n{lines}\r\n".encode())
        self.file = self.socket.makefile("rb")

    @classmethod
    def close_all(cls) -> None:
        while cls.opened:
            line = cls.opened.pop()
            line.file.close()
            line.socket.close()

    def send(self, *lines: Any) -> None:
        data = b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        self.socket.sendall(b"0\r\n\r\n")

    def begin(self) -> int:
        status = int(self.file.readline().split()[1])
        while self.file.readline().strip():
            pass
        return status

    def answer(self) -> dict[str, Any] | None:
        size = int(self.file.readline(), 16)
        data = self.file.read(size + 2)
        return json.loads(data) if size else None


def update(identifier: str | None = None, **fields: Any) -> dict[str, Any]:
    body = {"context": "a", "inputs": ROWS, "targets": TARGETS} | fields
    return ({"id": identifier} if identifier else {}) | {"update": body}


def test_each_line_is_answered_while_the_client_still_sends(http: httpx.Client) -> None:
    line = Line(http)
    line.send(update("one"))
    assert line.begin() == 200
    first = line.answer()
    assert first is not None
    assert (first["id"], first["answer"]["rows"]) == ("one", 2)
    time.sleep(1.5)  # longer than other bodies may take
    line.send({"id": "two", "infer": {"context": "a", "inputs": ROWS}}, update())
    second, third = line.answer(), line.answer()
    assert second is not None
    assert len(second["answer"]["probabilities"]) == 2
    assert third is not None
    assert third["answer"]["sequence"] == first["answer"]["sequence"] + 1
    line.end()
    assert line.answer() is None


def test_lines_sent_again_are_learned_once(http: httpx.Client) -> None:
    content = "\n".join(json.dumps(update(f"line-{number}")) for number in range(100))
    first = [json.loads(line) for line in http.post("/v1/stream", content=content).text.splitlines()]
    assert [one["id"] for one in first] == [f"line-{number}" for number in range(100)]
    sequences = [one["answer"]["sequence"] for one in first]
    assert sequences == list(range(sequences[0], sequences[0] + 100))
    again = [json.loads(line) for line in http.post("/v1/stream", content=content).text.splitlines()]
    assert again == first
    other = http.post("/v1/stream", content=json.dumps(update("line-0", steps=2))).json()
    assert other["problem"]["type"].endswith(":idempotency-mismatch")
    assert http.get("/v1/store").json()["sequence"] == sequences[-1]


def test_a_bad_line_does_not_end_the_stream(http: httpx.Client) -> None:
    lines: list[Any] = [
        b"no json",
        {"id": "both", "update": update()["update"], "infer": {"context": "a", "inputs": ROWS}},
        update("unknown", context="nobody"),
        update("nan", inputs=[[1.0] * 5, [1.0] * 6]),
        {"id": "bad key \u00e4", "update": update()["update"]},
        update("good"),
    ]
    line = Line(http)
    line.send(*lines)
    line.end()
    assert line.begin() == 200
    answers = [line.answer() for _ in lines]
    slugs = [one and one.get("problem", {}).get("type", "").rpartition(":")[2] for one in answers]
    assert slugs == ["invalid-request"] * 2 + ["unknown-task", "shape-mismatch", "invalid-request", ""]
    assert answers[-1] is not None
    assert answers[-1]["answer"]["sequence"] == 2


def test_a_line_without_end_is_refused_and_what_was_before_it_counts(http: httpx.Client) -> None:
    line = Line(http)
    line.send(update("one"))
    assert line.begin() == 200
    assert line.answer() is not None
    for _ in range(5):
        line.socket.sendall(b"%x\r\n%s\r\n" % (100_000, b"x" * 100_000))
    refused = line.answer()
    assert refused is not None
    assert refused["problem"]["type"].endswith(":payload-too-large")


def test_far_more_lines_than_are_worked_on_at_once(http: httpx.Client) -> None:
    line, count, answers = Line(http), 3000, []
    reader = threading.Thread(target=lambda: (line.begin(), answers.extend(line.answer() for _ in range(count))))
    reader.start()
    for start in range(0, count, 100):
        line.send(*({"id": str(n), "infer": {"context": "a", "inputs": ROWS}} for n in range(start, start + 100)))
    line.end()
    reader.join(60)
    assert [one["id"] for one in answers] == [str(number) for number in range(count)]
    assert all("answer" in one for one in answers)


def test_keys_scopes_and_an_end_of_the_key(http: httpx.Client) -> None:
    admin = {"authorization": f"Bearer {http.post('/v1/keys', json={'scope': 'admin'}).json()['key']}"}
    made = http.post("/v1/keys", json={"scope": "update", "tasks": "a"}, headers=admin).json()
    line = Line(http, {"authorization": f"Bearer {made['key']}"})
    line.send(update("one"), update("two", context="b"))
    assert line.begin() == 200
    assert line.answer() is not None
    foreign = line.answer()
    assert foreign is not None
    assert "problem" in foreign
    http.delete(f"/v1/keys/{made['id']}", headers=admin).raise_for_status()
    line.send(update("three"))
    ended = line.answer()
    assert ended is not None
    assert ended["problem"]["status"] == 401
    assert Line(http).begin() == 401


def test_the_client_sends_streams(http: httpx.Client) -> None:
    with Client(str(http.base_url)) as client:
        lines: list[dict[str, Any]] = [
            {"id": f"u{number}", "update": {"context": "a", "inputs": X[:3], "targets": Y[:3]}} for number in range(300)
        ]
        lines.append({"infer": {"context": "a", "inputs": X[:3], "return": ["labels"]}})
        answers = client.stream(iter(lines))
        assert [one["id"] for one in answers[:300]] == [line["id"] for line in lines[:300]]
        assert len(answers[-1]["answer"]["labels"]) == 3
        assert client.stream(lines[:300]) == answers[:300]
        assert client.store().sequence == answers[299]["answer"]["sequence"]


def test_a_stream_that_a_crash_cut_goes_on_where_it_was(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [update(f"line-{number}") for number in range(400)]
    with Server(make_directory(tmp_path / "store", CONFIG)) as server:
        with server.client() as client:
            client.register_task("a", inputs=6, outputs=3)
        with httpx.Client(base_url=server.url) as http:
            stream = Line(http)
            stream.send(*lines[:200])
            assert stream.begin() == 200
            first = [stream.answer() for _ in range(50)]
        assert server._process is not None
        server._process.kill()
        server._process.wait()
    with Server(tmp_path / "store", server.port) as again, again.client() as client:
        answers = client.stream(lines)
        assert answers[:50] == first
        [asked] = client.stream([{"infer": {"context": "a", "inputs": ROWS}}])
        assert asked["answer"]["sequence"] == answers[-1]["answer"]["sequence"]
        sequences = [one["answer"]["sequence"] for one in answers]
        assert sequences == sorted(set(sequences))
        assert client.store().sequence == sequences[-1] == 401


def test_inference_is_as_new_as_the_lines_before_it(http: httpx.Client) -> None:
    lines: list[dict[str, Any]] = []
    for number in range(60):
        lines += [update(str(number)), {"infer": {"context": "a", "inputs": ROWS}}]
    with Client(str(http.base_url)) as client:
        answers = [one["answer"]["sequence"] for one in client.stream(lines)]
    taught, asked = answers[::2], answers[1::2]
    assert taught == sorted(set(taught))
    assert all(one >= other for one, other in zip(asked, taught, strict=True))


def test_a_server_that_stops_ends_its_streams(tmp_path: Path) -> None:
    with serving(make_directory(tmp_path / "store", CONFIG)) as http:
        register(http, "a")
        line = Line(http)
        line.send(update("one"))
        assert line.begin() == 200
        assert line.answer() is not None
        began = time.monotonic()
    assert time.monotonic() - began < 20
    last = line.answer()
    assert last is not None
    assert last["problem"]["type"].endswith(":not-ready")


def test_a_stream_may_be_longer_than_other_bodies(http: httpx.Client) -> None:
    content = "\n".join(json.dumps({"infer": {"context": "a", "inputs": ROWS}}) for _ in range(2000))
    assert len(content) > 200_000
    answers = http.post("/v1/stream", content=content, timeout=60).text.splitlines()
    assert len(answers) == 2000
    assert all("answer" in json.loads(one) for one in answers)


def test_a_line_that_is_tried_again_spends_its_rows_once(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    spent: list[int] = []
    refusals = iter([True, True, False])
    spend, real = Quotas.spend, Engine.update

    def noted(self: Quotas, key: Any, **costs: int) -> None:
        spent.extend(costs[name] for name in costs if name == "rows")
        spend(self, key, **costs)

    async def full(self: Engine, *args: Any, **kwargs: Any) -> Any:
        if next(refusals):
            raise Overloaded("too many requests are waiting")
        return await real(self, *args, **kwargs)

    monkeypatch.setattr(Quotas, "spend", noted)
    monkeypatch.setattr(Engine, "update", full)
    answer = http.post("/v1/stream", content=json.dumps(update("one"))).json()
    assert answer["answer"]["rows"] == 2
    assert spent == [2]


def test_lines_without_end_are_bounded_together(tmp_path: Path) -> None:
    with serving(make_directory(tmp_path / "store", CONFIG), max_inflight_bytes=150_000) as http:
        register(http, "a")
        first, second = Line(http), Line(http)
        for line in (first, second):
            line.send(update())
            assert line.begin() == 200
            assert line.answer() is not None
            line.socket.sendall(b"%x\r\n%s\r\n" % (100_000, b"x" * 100_000))
            time.sleep(0.5)
        refused = second.answer()
        assert refused is not None
        assert refused["problem"]["type"].endswith(":overloaded")
        first.send(b"")
        ended = first.answer()
        assert ended is not None
        assert ended["problem"]["type"].endswith(":invalid-request")


def test_a_client_that_leaves_costs_nothing(http: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    line = Line(http)
    line.send(*(update(str(number)) for number in range(10)))
    line.begin()
    line.answer()
    line.file.close()
    line.socket.close()
    assert http.post("/v1/update", json=update()["update"]).is_success
    wait_for(lambda: 'path="/v1/stream"' in http.get("/metrics").text)
    assert "request failed" not in caplog.text
    assert np.isfinite(http.post("/v1/update", json=update()["update"]).json()["loss"])
