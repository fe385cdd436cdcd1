"""Before a body is read: who asks, until when, whether there is room; and refusals that come at a walk."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.callers import ANYONE, calling, timeout_of
from superposed_service.connections import PROBES
from superposed_service.problems import problem_response
from superposed_service.running import Running
from superposed_service.security import principal_of

__all__ = ["Admission", "Paced"]

_ROWS = ("/infer", "/update", "/evaluate")


class Paced:
    """Answers 429 and 503 a moment later: whoever does not wait cannot keep the event loop busy with them.

    Args:
        app: What comes after.
        pause_s: How much later.
    """

    def __init__(self, app: ASGIApp, pause_s: float) -> None:
        self._app = app
        self._pause_s = pause_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return

        async def send_paced(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in {429, 503}:
                await asyncio.sleep(self._pause_s)
            await send(message)

        await self._app(scope, receive, send_paced)


class Admission:
    """Refuses requests about rows that could not be worked on in time, at the least possible cost.

    Args:
        app: What comes after.
        api: The application whose engine is asked.
    """

    def __init__(self, app: ASGIApp, api: Starlette) -> None:
        self._app = app
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on with its caller and deadline, or answers it with a problem."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = dict(scope["headers"]).get(b"request-timeout")
        try:
            timeout_s = timeout_of(None if header is None else header.decode("latin-1"))
        except SuperposedError as error:
            await problem_response(error, scope["path"])(scope, receive, send)
            return

        async def receive_and_check() -> Message:
            message = await receive()
            if not message.get("more_body", False):
                self._check_room(scope)  # others came meanwhile: to read what is in it costs most
            return message

        with calling(principal_of(scope).author or ANYONE, timeout_s):
            try:
                self._check_room(scope)
            except SuperposedError as error:
                await problem_response(error, scope["path"])(scope, receive, send)
                return
            await self._app(scope, receive_and_check, send)

    def _check_room(self, scope: Scope) -> None:
        if scope["method"] == "POST" and scope["path"].endswith(_ROWS):
            running: Running = self._api.state.running
            running.engine.check_room(reads=scope["path"].endswith("/infer"))
