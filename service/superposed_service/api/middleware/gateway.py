"""The request gateway in pure ASGI: every request passes it first, and rejections leave it later."""

import asyncio
import itertools
import logging
import re
import secrets
import time
from collections.abc import Callable, Hashable, Sequence
from typing import TypeAlias

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.api.middleware.admission import MIN_SEQUENCE, SEQUENCE, Freshness
from superposed_service.api.problems import INTERNAL, problem_response
from superposed_service.errors import Overloaded, PayloadTooLarge
from superposed_service.observability.request_ids import AUTHOR, PROBES, STATUS, STREAM, header, request_id

# Longest delay of a rejection, in delays.
_MOST_PAUSES = 20


class RejectionDelay:
    """Delays the rejections (429 and 503) of one source, so that floods cost little. On the event loop only.

    A rejection leaves `pause_s` later at least. For one source `per_s` a second leave at most, while none of them
    waits twenty pauses.
    """

    def __init__(self, pause_s: float, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s, self._gap_s, self._clock = pause_s, 1 / per_s, clock
        self._next: dict[Hashable, float] = {}  # sources are API keys: there are not many

    def wait_s(self, source: Hashable) -> float:
        """Return the seconds that the next rejection of a source is delayed."""
        now = self._clock()
        earliest = now + self._pause_s
        leaves = min(max(earliest, self._next.get(source, 0.0)), now + _MOST_PAUSES * self._pause_s)
        self._next[source] = leaves + self._gap_s
        return leaves - now


_log = logging.getLogger("superposed")
Check: TypeAlias = Callable[[Scope], None]
# Where an ASGI scope keeps what its request is refused with, if that was found before it came here.
REFUSAL = "superposed.refusal"
# Statuses that ask the client to come again later.
_PACED = frozenset({429, 503})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestGateway:
    """Takes in every request: gives it an id, has it checked before its body is read, caps the body's bytes.

    Every answer carries an `X-Request-Id`, a problem document for an unexpected exception too.
    The `checks` are called with the ASGI scope in this order; a `SuperposedError` is the answer. One body has up to
    `max_bytes`, and all requests that are being worked on together `most_held`.
    """

    def __init__(
        self,
        app: ASGIApp,
        checks: Sequence[Check],
        *,
        max_bytes: int,
        most_held: int,
        rejection_delay: RejectionDelay,
        freshness: Freshness,
    ) -> None:
        self._app = app
        self._checks = (_raise_refusal, *checks, self._check_length)
        self.max_bytes, self.most_held, self.held = max_bytes, most_held, 0
        self.rejection_delay, self.freshness = rejection_delay, freshness
        self._prefix = f"{secrets.token_hex(8)}-"  # of this process; then its requests are counted
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send, self.identifier(scope))
        request_id.set(exchange.identifier)
        try:
            for check in self._checks:
                check(scope)
            await self._pass_on(scope, exchange)
        except SuperposedError as error:
            await problem_response(error, scope["path"])(scope, receive, exchange.send)
        except ClientDisconnect:
            _log.debug("request %s: the client left before its body was here", exchange.identifier)
        except Exception:
            # The last resort: a bug. Its trace is in the log under the id that the client gets.
            known = {"method": scope["method"], "path": scope["path"], "request_id": exchange.identifier}
            _log.exception("request failed", extra=known)
            if exchange.started and not exchange.finished:
                raise
            if not exchange.started:
                await problem_response(500, scope["path"], INTERNAL)(scope, receive, exchange.send)
        finally:
            exchange.release()

    async def _pass_on(self, scope: Scope, exchange: "_Exchange") -> None:
        if (token := header(scope, MIN_SEQUENCE)) is not None:
            await self.freshness.wait(token)
        if scope["method"] == "HEAD":  # every GET route has one
            await self._app({**scope, "method": "GET"}, exchange.receive, exchange.send_head)
        else:
            await self._app(scope, exchange.receive, exchange.send)

    def identifier(self, scope: Scope) -> str:
        """Return the request's own id where it is a plain token, else a new one."""
        given = header(scope, b"x-request-id")
        return given if given and _REQUEST_ID.fullmatch(given) else f"{self._prefix}{next(self._count):x}"

    def _check_length(self, scope: Scope) -> None:
        declared = header(scope, b"content-length") or "0"
        if declared.isdecimal() and int(declared) > self.max_bytes and scope["path"] != STREAM:
            raise too_large(int(declared), self.max_bytes)


class _Exchange:
    """One request's messages on their way through `RequestGateway`."""

    __slots__ = ("_gateway", "_receive", "_scope", "_send", "finished", "identifier", "received", "started")

    def __init__(self, gateway: RequestGateway, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        self._gateway, self._scope, self._receive, self._send = gateway, scope, receive, send
        self.identifier = name
        self.received = 0
        self.started = self.finished = False

    async def receive(self) -> Message:
        """Receive a message and count its body's bytes."""
        message = await self._receive()
        gateway, body, whole = self._gateway, message.get("body", b""), "the request's body"
        if self._scope["path"] == STREAM:  # bounded is a line that has no end yet
            whole = "a line"
            if b"\n" in body:
                self.release()
                body = body.rpartition(b"\n")[2]
        self.received += len(body)
        gateway.held += len(body)
        if self.received > gateway.max_bytes:
            raise too_large(self.received, gateway.max_bytes, whole)
        if gateway.held > gateway.most_held:
            raise Overloaded("too many bytes are coming in", expected=f"{gateway.most_held} at most, of all requests")
        return message

    def release(self) -> None:
        """Release its body's bytes from the total."""
        self._gateway.held -= self.received
        self.received = 0

    async def send_head(self, message: Message) -> None:
        """Send what a GET would be answered, without its body; a stream ends there."""
        if message["type"] == "http.response.start":
            await self.send(message)
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        elif message.get("more_body"):
            raise ClientDisconnect

    async def send(self, message: Message) -> None:
        """Add the id to the answer's head; delay rejections."""
        self.started = True
        if message["type"] == "http.response.start":
            status = self._scope[STATUS] = message["status"]
            token = self._gateway.freshness.token().encode()
            message.setdefault("headers", []).extend([(b"x-request-id", self.identifier.encode()), (SEQUENCE, token)])
            if status in _PACED and self._scope["path"] not in PROBES:
                self.release()  # a delayed rejection keeps no other body out
                await asyncio.sleep(self._gateway.rejection_delay.wait_s(self._scope.get(AUTHOR)))
        else:
            self.finished = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)


def _raise_refusal(scope: Scope) -> None:
    if REFUSAL in scope:
        raise scope[REFUSAL]


def too_large(received: int, most: int, whole: str = "the request's body") -> PayloadTooLarge:
    """Return the error of a body, or of another whole, with more than `most` bytes."""
    return PayloadTooLarge(f"{whole} is too large", expected=f"{most} bytes at most", received=received)
