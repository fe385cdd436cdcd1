"""One client connection, and the one to the engine that belongs to it.

What the engine answers goes back byte for byte. Requests are read, because the bodies of hot ones may be
turned into tensors, and written again from what was read, so that both sides agree where each one ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import httptools

from superposed_service.workers.convert import HEAD_LENGTH, HOT_PATHS, TENSORS_MEDIA_TYPE, is_json, to_tensors
from superposed_service.workers.refusals import refusal

__all__ = ["Client", "Limits"]

# What no HTTP server takes for a request: the engine answers it as it answers anything else that is none.
_NOT_HTTP = b"?\r\n\r\n"
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_REWRITTEN = _FRAMING | {b"content-type", HEAD_LENGTH}


@dataclass(frozen=True)
class Limits:
    """How much of a request, and how long, a worker holds back.

    Args:
        body_bytes: Of a body; a larger one is passed on as it comes, and the engine refuses it.
        body_s: Seconds that a body may take to come, until it is passed on so.
        head_bytes: Of a head that is not here as a whole yet; a longer one is refused.
        head_s: Seconds that a head may take to come.
    """

    body_bytes: int
    body_s: float
    head_bytes: int
    head_s: float


class _Engine(asyncio.Protocol):
    """The connection to the engine: what comes from it goes to the client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client.connected(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._client.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._client.engine_lost()

    def pause_writing(self) -> None:
        self._client.hold(True)

    def resume_writing(self) -> None:
        self._client.hold(False)


class _Answers:
    """Counts the answers in what the engine sends."""

    def __init__(self) -> None:
        self.count = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.count += self._parser.get_status_code() >= 200  # what comes before is no answer yet


class Client(asyncio.Protocol):
    """The connection to a client.

    Args:
        engine: The path of the engine's socket.
        limits: What is held back.
        closed: Called once the connection has ended.
    """

    def __init__(self, engine: str, limits: Limits, closed: Callable[[Client], object]) -> None:
        self._engine_path, self._limits, self._closed = engine, limits, closed
        self._parser = httptools.HttpRequestParser(self)
        self._answers = _Answers()
        self._asked = 0
        self._draining = self._opaque = False
        self._client: asyncio.Transport | None = None
        self._engine: asyncio.Transport | None = None
        self._early: list[bytes] = []  # for an engine that is not connected yet
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._begin()

    # From the client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connects to the engine."""
        self._client, loop = cast("asyncio.Transport", transport), asyncio.get_running_loop()
        connecting = loop.create_unix_connection(lambda: _Engine(self), self._engine_path)
        self._connecting = loop.create_task(connecting)
        self._connecting.add_done_callback(self._connect_failed)
        self._await_head()

    def _connect_failed(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.engine_lost()

    def data_received(self, data: bytes) -> None:
        """Reads requests."""
        if self._opaque:
            self._pass(data)
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._opaque = True  # the engine says what it thinks of other protocols
            self._pass(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._opaque = True
            self._stop_waiting()
            self._flush()
            self._pass(_NOT_HTTP)
        if self._head_timer is not None and self._head_bytes > self._limits.head_bytes:
            self._refuse(431)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: so does what it waits for."""
        del exc
        self._client = None
        self._stop_waiting()
        self._connecting.cancel()
        if self._engine is not None:
            self._engine.abort()
        self._closed(self)

    def pause_writing(self) -> None:
        """The client reads more slowly than the engine answers."""
        _hold(self._engine, True)

    def resume_writing(self) -> None:
        """The client has caught up."""
        _hold(self._engine, False)

    # From the engine

    def connected(self, transport: asyncio.Transport) -> None:
        """The engine's connection is there."""
        self._engine = transport
        transport.writelines(self._early)
        self._early.clear()

    def answered(self, data: bytes) -> None:
        """Passes an answer on."""
        if self._client is not None and not self._client.is_closing():
            self._client.write(data)
        if not self._opaque:
            self._answers.feed(data)
            self._close_if_done()

    def engine_lost(self) -> None:
        """The engine has ended the connection."""
        if self._client is not None:
            self._client.close()

    def hold(self, paused: bool) -> None:
        """The engine reads more slowly than the client sends, or has caught up."""
        _hold(self._client, paused)

    def drain(self) -> None:
        """Ends the connection once what was asked is answered."""
        self._draining = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        idle = not self._head and self._answers.count >= self._asked
        if self._draining and idle and self._client is not None:
            self._client.close()

    def _await_head(self) -> None:
        """From now on a head has to come; its bytes are counted from the next ones on."""
        self._head_bytes = 0
        if self._head_timer is None:
            loop = asyncio.get_running_loop()
            self._head_timer = loop.call_later(self._limits.head_s, self._refuse, 408)

    def _refuse(self, status: int) -> None:
        """Answers, where no other answer is due, and closes the connection."""
        if self._client is None or self._client.is_closing():
            return
        if self._answers.count >= self._asked:
            self._client.write(refusal(status))
        self._client.close()

    # The request that is being read: callbacks of the parser

    def _begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head = False  # whether a request has begun
        self._held: list[bytes] | None = None  # its body so far, where that may become a tensor
        self._held_bytes = 0
        self._chunked = False
        self._deadline: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begin()
        self._head = True
        self._await_head()

    def on_url(self, url: bytes) -> None:
        """Its target, or a part of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Decides whether its body is held back."""
        self._stop_waiting()
        lower = {name.lower(): value for name, value in self._headers}
        self._chunked = b"chunked" in lower.get(b"transfer-encoding", b"").lower()
        length = lower.get(b"content-length", b"")
        hot = (
            self._parser.get_method() == b"POST"
            and self._url in HOT_PATHS
            and is_json(lower.get(b"content-type"))
            and (self._chunked or (length.isdigit() and int(length) <= self._limits.body_bytes))
        )
        # With a key the body stays as it is: the key is bound to its bytes. A client that expects to be
        # told first would wait for the engine.
        if hot and lower.keys().isdisjoint({b"idempotency-key", b"expect", b"upgrade"}):
            self._held = []
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(self._limits.body_s, self._flush)
        else:
            self._write_head(self._headers)

    def on_body(self, body: bytes) -> None:
        """A part of its body."""
        if self._held is None:
            self._write_body(body)
            return
        self._held.append(body)
        self._held_bytes += len(body)
        if self._held_bytes > self._limits.body_bytes:
            self._flush()

    def on_message_complete(self) -> None:
        """It is there as a whole."""
        self._stop_waiting()
        if self._held is not None:
            body = b"".join(self._held)
            tensors = to_tensors(body, self._limits.body_bytes)
            if tensors is None:
                self._flush()
            else:
                self._write_tensors(*tensors)
        if self._chunked and self._held is None:
            self._pass(b"0\r\n\r\n")
        self._head, self._held = False, None
        self._asked += 1

    def _stop_waiting(self) -> None:
        for timer in (self._deadline, self._head_timer):
            if timer is not None:
                timer.cancel()
        self._deadline = self._head_timer = None

    # To the engine

    def _flush(self) -> None:
        """Passes on what was held back, and the rest of the request as it comes."""
        self._stop_waiting()
        if self._held is None:
            return
        held, self._held = self._held, None
        self._write_head(self._headers)
        for part in held:
            self._write_body(part)

    def _write_tensors(self, body: bytes, head_length: int) -> None:
        kept = [(name, value) for name, value in self._headers if name.lower() not in _REWRITTEN]
        lengths = [(b"content-length", b"%d" % len(body)), (HEAD_LENGTH, b"%d" % head_length)]
        self._write_head([*kept, (b"content-type", TENSORS_MEDIA_TYPE), *lengths])
        self._pass(body)
        self._chunked = False

    def _write_head(self, headers: list[tuple[bytes, bytes]]) -> None:
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self._url, version)]
        lines += [b"%s: %s" % header for header in headers]
        if method == b"HEAD":  # its answer does not show where it ends
            lines.append(b"connection: close")
        self._pass(b"\r\n".join([*lines, b"", b""]))

    def _write_body(self, part: bytes) -> None:
        self._pass(b"%x\r\n%s\r\n" % (len(part), part) if self._chunked else part)

    def _pass(self, data: bytes) -> None:
        if self._engine is None:
            self._early.append(data)
        elif not self._engine.is_closing():
            self._engine.write(data)


def _hold(transport: asyncio.Transport | None, paused: bool) -> None:
    if transport is not None and not transport.is_closing():
        (transport.pause_reading if paused else transport.resume_reading)()
