"""Connections do not stay open for ever: deadlines for heads, bodies and answers, and how many there may be.

One sweep a second looks at every connection, so that a request costs no timers. Beyond the limit, idle connections
make room for new ones. Requests to upgrade the protocol are answered as plain HTTP/1.1: uvicorn's parser would take
the body of such a request for the next one.
"""

import asyncio
import resource
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, Literal

import httptools
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from superposed_service.api.problems import problem_response
from superposed_service.api.server.direct_inference import DirectInference, Head
from superposed_service.errors import Overloaded
from superposed_service.observability.request_ids import PROBES, STREAM
from superposed_service.settings import Settings

_RESERVED = 64
_OTHER_FILES = 128
_SWEEP_S = 1.0
_LARGE_BYTES = 65_536
# Headers that ask for another protocol on the same connection.
_UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


class _RefusedError(Exception):
    """Ends the reading of a request."""


class _WriteBuffer:
    """A transport that sends an answer's head and body together: one system call for both, not one each.

    What is written in one turn of the event loop leaves after it, or once there is much.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Hold bytes back until this turn is over, or until there are many."""
        if len(data) > _LARGE_BYTES:  # not copied once more
            self._flush()
            self._transport.write(data)
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._bytes += len(data)
        if self._bytes > _LARGE_BYTES:  # the client may be slow: who writes is to know
            self._flush()

    def _flush(self) -> None:
        if self._held:
            held, self._held, self._bytes = b"".join(self._held), [], 0
            if not self._transport.is_closing():  # the client may have left meanwhile
                self._transport.write(held)

    def close(self) -> None:
        """Send the held bytes, then close."""
        self._flush()
        self._transport.close()


class _Bounded(HttpToolsProtocol):
    """One connection."""

    settings: ClassVar[Settings]
    sweep: ClassVar[asyncio.TimerHandle | None] = None
    direct: ClassVar[DirectInference | None] = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Refuse what is beyond the reserve, answer only probes in it, and close the oldest idle one for room."""
        super().connection_made(transport)
        self.transport = _WriteBuffer(transport, self.loop)  # type: ignore[assignment]  # it is used as a transport
        self._phase: Literal["head", "body", "rest"] = "rest"
        self._since = self._paused = 0.0
        self._bytes = 0
        self.url = b""
        self._refusal: tuple[int, str] | None = None
        self._ignoring = self._streams = False
        self._held: tuple[RequestResponseCycle, Head] | None = None  # begun once its body is here
        self._begin_head()
        surplus = self._make_room()
        self._surplus = surplus > 0
        if surplus > _RESERVED:
            self._refuse(503, "too many connections")
        elif type(self).sweep is None:
            type(self).sweep = self.loop.call_later(_SWEEP_S, self._sweep)

    def _make_room(self) -> int:
        """Close the oldest idle connection where there are too many; return the number above the limit."""
        surplus = len(self.connections) - self.settings.max_connections
        if surplus <= 0:
            return surplus
        others = [one for one in self.connections if isinstance(one, _Bounded) and one is not self]
        staying = [one for one in others if not one.transport.is_closing()]
        surplus = len(staying) + 1 - self.settings.max_connections
        idle = [one for one in staying if one._is_idle]
        if surplus > 0 and idle:
            min(idle, key=lambda one: one._since).transport.close()
            surplus -= 1
        return surplus

    @property
    def _is_idle(self) -> bool:
        """True if the client has sent nothing since it connected or since its last answer."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and (self._phase == "rest" or self._bytes == 0)

    def _begin_head(self) -> None:
        self._phase, self._since, self._bytes = "head", self.loop.time(), 0

    def data_received(self, data: bytes) -> None:
        """Count the bytes of heads and bodies."""
        if self._phase == "rest":
            self._begin_head()
        self._bytes += len(data)
        if self._streams:
            self._since = self.loop.time()
        self._feed(data)
        if self._phase == "head" and self._bytes > self.settings.max_header_bytes:
            self._refuse(431, self._too_long())

    def _feed(self, data: bytes) -> None:
        """Parse bytes; as uvicorn, but for upgrades."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again without the headers that ask for another protocol, and then what follows."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        self._ignoring = False
        if method == b"CONNECT":
            self._refuse(405, "this server is no proxy")
            return
        lines = [method + b" " + self.url + b" HTTP/" + version]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [one for one in value.split(b",") if one.strip().lower() not in _UPGRADE_HEADERS]
                value = b",".join(tokens)
            if name not in _UPGRADE_HEADERS and (name != b"connection" or value):
                lines.append(name + b": " + value)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join([*lines, b"", b""]) + rest)

    def _path(self) -> str:
        return self.url.partition(b"?")[0].decode("latin-1")

    def _too_long(self) -> str:
        return f"the request's head is too long: {self.settings.max_header_bytes} bytes at most"

    def on_headers_complete(self) -> None:
        """Hand the request on, unless it is refused, or read again without an upgrade."""
        if self.parser.should_upgrade():
            self._ignoring = True
            return
        if self._bytes > self.settings.max_header_bytes and self._head_bytes() > self.settings.max_header_bytes:
            self._refusal = (431, self._too_long())
        elif self._surplus and self._path() not in PROBES:
            self._refusal = (503, "too many connections")
        if self._refusal is not None:
            raise _RefusedError
        self._phase, self._since, self._bytes = "body", self.loop.time(), 0
        self._streams = self._path() == STREAM
        super().on_headers_complete()

    def _head_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def on_message_complete(self) -> None:
        """Note that the whole request was received."""
        if self._ignoring:
            return
        self._phase, self._since = "rest", self.loop.time()
        super().on_message_complete()
        if self._held is not None:
            (cycle, head), self._held = self._held, None
            self._begin(cycle, head)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Start a request; a small one of inference once its body is here."""
        head = None if self.direct is None else self.direct.read_head(cycle)
        if head is None:
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self._held = cycle, head
        else:
            self._begin(cycle, head)

    def _begin(self, cycle: RequestResponseCycle, head: Head) -> None:
        if self.direct is None or not self.direct.begin(cycle, head, self._hand_on):
            self._hand_on(cycle)

    def _hand_on(self, cycle: RequestResponseCycle) -> None:
        super()._start_asgi_task(cycle, self.app)

    def send_400_response(self, msg: str) -> None:
        """Say why the request was not read to its end."""
        status, detail = self._refusal or (400, msg)
        self._refuse(status, detail)

    def pause_writing(self) -> None:
        """Note that the client reads its response more slowly than it is written."""
        self._paused = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Note that the client goes on reading."""
        self._paused = 0.0
        super().resume_writing()

    def _refuse(self, status: int, detail: str) -> None:
        """Answer, where no response has begun, and close the connection."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.response_started:
            problem = Overloaded(detail) if status == 503 else status
            response = problem_response(problem, self._path()[:200] or "/", detail)
            lines = [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
            head = b"".join([STATUS_LINE[status], *lines, b"connection: close\r\n\r\n"])
            self.transport.write(head + bytes(response.body))
        self.transport.close()

    def _sweep(self) -> None:
        connections = [one for one in self.connections if isinstance(one, _Bounded)]
        for connection in connections:
            connection._end_if_late()
        type(self).sweep = self.loop.call_later(_SWEEP_S, self._sweep) if connections else None

    def _end_if_late(self) -> None:
        now, settings = self.loop.time(), self.settings
        if self._paused and now - self._paused > settings.response_timeout_s:
            self.transport.abort()
            return
        allowed = settings.header_timeout_s
        if self._phase == "body":
            allowed = settings.body_timeout_s + self._bytes / settings.body_bytes_per_s
            allowed = settings.keep_alive_s if self._streams else allowed
        if self._phase != "rest" and now - self._since > allowed:
            self._refuse(408, f"the request did not arrive in time: its {self._phase} took too long")


class HttpServer(uvicorn.Server):
    """Calls `end_streams`, on the event loop, before it waits for its connections to finish."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; a server that does not listen yet, such as a follower that catches up, ends at once."""
        if not self.started:
            raise KeyboardInterrupt
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._end_streams()
        await super().shutdown(sockets)


def allow_connections(settings: Settings) -> None:
    """Ask the system for as many open files as there may be connections, where it has a limit below that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + _RESERVED + _OTHER_FILES
    if resource.RLIM_INFINITY not in {soft, hard} and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def bounded_protocol(settings: Settings, direct: DirectInference | None = None) -> type[asyncio.Protocol]:
    """Return the protocol of every connection of one server; small inference requests go to `direct`."""
    members: dict[str, Any] = {"settings": settings, "sweep": None, "direct": direct}
    return type("Bounded", (_Bounded,), members)
