"""A request that asks for another protocol is answered as it is, and its body is never the next request."""

from __future__ import annotations

import hashlib
import inspect
import json
import socket
import time
from collections.abc import Sequence

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

UPGRADES = [
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n",
    b"Connection: keep-alive, Upgrade\r\nUpgrade: anything/1\r\n",
    b"Connection: close\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
]
SMUGGLED = b'POST /v1/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 31\r\n\r\n{"key": "smuggled", "outputs":2}'


def exchange(http: httpx.Client, parts: Sequence[bytes]) -> bytes:
    """Send parts one after another, and read until the server has nothing more to say."""
    with socket.create_connection((http.base_url.host, http.base_url.port), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while more := connection.recv(65_536):
            received += more
        return received


def keys(http: httpx.Client) -> set[str]:
    return {one["key"] for one in http.get("/v1/tasks").json()["tasks"]}


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket", "other", "two headers"])
@pytest.mark.parametrize("cut", ["together", "body later", "in pieces"])
def test_the_body_of_an_upgrade_is_read_as_its_body(http: httpx.Client, upgrade: bytes, cut: str) -> None:
    body = json.dumps({"key": "mine", "outputs": 2, "description": SMUGGLED.decode()}).encode()
    head = b"POST /v1/tasks HTTP/1.1\r\nHost: x\r\n" + upgrade
    head += b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n"
    whole = head + body
    parts = {
        "together": [whole],
        "body later": [head, body],
        "in pieces": [whole[place : place + 90] for place in range(0, len(whole), 90)],
    }[cut]
    received = exchange(http, parts)
    assert received.startswith(b"HTTP/1.1 201 ")
    assert keys(http) == {"mine"}


@pytest.mark.parametrize("upgrade", UPGRADES, ids=["h2c", "websocket", "other", "two headers"])
def test_a_body_that_looks_like_a_request_is_not_one(http: httpx.Client, upgrade: bytes) -> None:
    head = b"POST /v1/infer HTTP/1.1\r\nHost: x\r\n" + upgrade
    for framing, body in (
        (b"Content-Length: " + str(len(SMUGGLED)).encode(), SMUGGLED),
        (b"Transfer-Encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)),
    ):
        for parts in ([head + framing + b"\r\n\r\n" + body], [head + framing + b"\r\n\r\n", body]):
            received = exchange(http, parts)
            assert received.startswith(b"HTTP/1.1 422 ")
            assert keys(http) == set()


def test_an_upgrade_without_a_body_is_answered(http: httpx.Client) -> None:
    for upgrade in UPGRADES:
        received = exchange(http, [b"GET /v1/store HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n"])
        assert received.startswith(b"HTTP/1.1 200 ")


def test_pipelined_requests_before_and_after_an_upgrade(http: httpx.Client) -> None:
    plain = b"GET /v1/store HTTP/1.1\r\nHost: x\r\n\r\n"
    upgrade = b"GET /v1/capacity HTTP/1.1\r\nHost: x\r\n" + UPGRADES[0] + b"\r\n"
    assert exchange(http, [plain + upgrade + plain + upgrade]).count(b"HTTP/1.1 200 OK") == 5


def test_a_proxy_request_is_refused(http: httpx.Client) -> None:
    received = exchange(http, [b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n"])
    assert received.startswith(b"HTTP/1.1 405 ")
    assert received.count(b"HTTP/1.1") == 1


def test_the_web_servers_protocol_is_the_one_that_is_subclassed() -> None:
    """Pin uvicorn's parser by hash. On failure: read the changes, rerun the tests above, note its hash."""
    source = inspect.getsource(HttpToolsProtocol)
    assert hashlib.sha256(source.encode()).hexdigest()[:16] == "18fdf324b11bf160"
