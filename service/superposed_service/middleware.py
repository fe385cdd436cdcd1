"""What every request passes first, in pure ASGI: a request id, the cap on the body's bytes, a short way."""

from __future__ import annotations

import itertools
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.errors import Overloaded, PayloadTooLarge
from superposed_service.observability.requests import STATUS, request_id
from superposed_service.problems import INTERNAL, problem_response

__all__ = ["BodyLimit", "Direct", "RequestId"]

_log = logging.getLogger("superposed")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestId:
    """Gives every answer an `X-Request-Id`: the request's own where it is a plain token, else a new one.

    An exception that nothing else knows becomes a problem document here, so that it carries the id too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._prefix = f"{secrets.token_hex(8)}-"  # of this process; then its requests are counted
        self._count = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on and adds the header to its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = finished = False
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        identifier = (
            given if given and _REQUEST_ID.fullmatch(given) else f"{self._prefix}{next(self._count):x}"
        )

        request_id.set(identifier)

        async def send_with_id(message: Message) -> None:
            nonlocal started, finished
            started = True
            finished = message["type"] == "http.response.body" and not message.get("more_body")
            if message["type"] == "http.response.start":
                scope[STATUS] = message["status"]
                message.setdefault("headers", []).append((b"x-request-id", identifier.encode()))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            _log.debug("request %s: the client left before its body was here", identifier)
        except Exception:
            # The last resort: a bug. Its trace is in the log under the id that the client gets.
            known = {"method": scope["method"], "path": scope["path"], "request_id": identifier}
            _log.exception("request failed", extra=known)
            if started and not finished:
                raise
            if not started:
                await problem_response(500, scope["path"], INTERNAL)(scope, receive, send_with_id)


class BodyLimit:
    """Refuses bodies over the limit, by their declared length or as the bytes come in.

    Args:
        app: What comes after.
        max_bytes: Of one body.
        most_held: Of all requests that are being worked on, together.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, most_held: int) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._most_held = most_held
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts the bytes of the body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await problem_response(self._error(int(declared)), scope["path"])(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            more = len(message.get("body", b""))
            received += more
            self._held += more
            if received > self._max_bytes:
                raise self._error(received)
            if self._held > self._most_held:
                raise Overloaded(
                    "too many bytes are coming in", expected=f"{self._most_held} at most, of all requests"
                )
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._held -= received

    def _error(self, received: int) -> PayloadTooLarge:
        return PayloadTooLarge(
            "the request's body is too large", expected=f"{self._max_bytes} bytes at most", received=received
        )


Endpoint = Callable[[Request], Awaitable[Response]]


class Direct:
    """Calls the endpoints of the hot routes without what the framework does around them.

    That they take nothing but the request is what makes this possible, and it is more than half of what a
    small request costs. Everything else goes on to the application, which documents these routes too.

    Args:
        app: The application.
        endpoints: By method and path, which may have parameters.
    """

    def __init__(self, app: Starlette, endpoints: Mapping[tuple[str, str], Endpoint]) -> None:
        self._app = app
        self._endpoints = {key: endpoint for key, endpoint in endpoints.items() if "{" not in key[1]}
        self._patterns = [
            (method, compile_path(path)[0], endpoint)
            for (method, path), endpoint in endpoints.items()
            if "{" in path
        ]

    def _find(self, scope: Scope) -> Endpoint | None:
        if scope["type"] != "http":
            return None
        method, path = scope["method"], scope["path"]
        if (endpoint := self._endpoints.get((method, path))) is not None:
            return endpoint
        for known, pattern, endpoint in self._patterns:
            if known == method and (found := pattern.fullmatch(path)):
                scope["path_params"] = found.groupdict()
                return endpoint
        return None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers the request, or passes it on."""
        endpoint = self._find(scope)
        if endpoint is None:
            await self._app(scope, receive, send)
            return
        scope["app"] = self._app
        try:
            response = await endpoint(Request(scope, receive))
        except SuperposedError as error:
            response = problem_response(error, scope["path"])
        await response(scope, receive, send)
