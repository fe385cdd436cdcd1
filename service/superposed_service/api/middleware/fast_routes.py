"""Hot routes that skip the framework's router."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.api.problems import problem_response

__all__ = ["FastRoutes"]


Endpoint = Callable[[Request], Awaitable[Response]]


class FastRoutes:
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
        """Answer the request, or pass it on."""
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
