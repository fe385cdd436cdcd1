"""HTTP requests counted, timed, traced and logged: outside of everything else, in pure ASGI."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.types import ASGIApp, Receive, Scope, Send

from superposed_service.api.middleware.route_table import OTHER, ROUTE, RouteTable
from superposed_service.observability.counters import Metrics
from superposed_service.observability.request_ids import AUTHOR, CLIENT_LEFT, PROBES, STATUS

if TYPE_CHECKING:
    from superposed_service.observability.opentelemetry import Tracing

_log = logging.getLogger("superposed.access")
# Other servers of the store ask for these every second: logged where they are refused.
_POLLED = frozenset({"/v1/replication", "/v1/replication/records"})
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """Counts and times requests; traces them where `tracing` is given; logs those that `log` selects.

    A log line has the route's template and not the path, and nothing that a client wrote but the request id.
    `RequestGateway`, which comes after, notes the answer's status.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, routes: RouteTable, *, tracing: Tracing | None = None, log: str = "off"
    ) -> None:
        self._app, self._metrics, self._routes = app, metrics, routes
        self._tracing, self._log = tracing, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        route = scope[ROUTE] = self._routes.match(scope)
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        path = route.template
        try:
            with nullcontext() if self._tracing is None else self._tracing.request(scope, method, path):
                await self._app(scope, receive, send)
        finally:
            status, seconds = scope.get(STATUS, CLIENT_LEFT), perf_counter() - began
            self._metrics.request(method, path, status, seconds)
            often = route.fast or path in PROBES or (path in _POLLED and status == 200)
            if self._log == "all" or (self._log == "quiet" and not often):
                known: dict[str, Any] = {"method": method, "path": path, "status_code": status}
                known |= {"duration_ms": round(seconds * 1000, 3), "api_key": scope.get(AUTHOR)}
                _log.info("request", extra=known)
