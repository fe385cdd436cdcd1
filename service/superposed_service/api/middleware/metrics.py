"""HTTP requests counted, timed, traced and logged: outside of everything else, in pure ASGI."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from functools import lru_cache
from time import perf_counter
from typing import Any

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from superposed_service.observability.metrics import Metrics
from superposed_service.observability.request_ids import AUTHOR, CLIENT_LEFT, STATUS, request_id
from superposed_service.observability.tracing_protocol import Tracing

__all__ = ["Observed", "Templates"]

_log = logging.getLogger("superposed.access")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# What stands for a path that no route has, and for a method that HTTP does not have: labels are bounded.
_OTHER = "other"
# Longer paths are matched each time: whoever asks is not known yet, and memory is not for anybody to fill.
_LONGEST_KEPT = 256


class Templates:
    """From a path to its route's template.

    Args:
        templates: The templates of all routes.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        self._plain: dict[str, str] = {}
        self._patterns = []
        for template in dict.fromkeys(templates):
            if "{" in template:
                shown = template.replace(":path}", "}")
                self._patterns.append((compile_path(template)[0], shown))
            else:
                self._plain[template] = template
        self._search = lru_cache(maxsize=4096)(self._match)

    def labels(self, scope: Scope) -> tuple[str, str]:
        """Return a request's method and route template; `other` for unknown ones."""
        path: str = scope["path"]
        method: str = scope["method"]
        search = self._search if len(path) <= _LONGEST_KEPT else self._match
        return method if method in _METHODS else _OTHER, self._plain.get(path) or search(path)

    def _match(self, path: str) -> str:
        return next((template for pattern, template in self._patterns if pattern.fullmatch(path)), _OTHER)


class Observed:
    """Counts and times requests; traces them where `tracing` is given; logs them where a setting says so.

    A log line has the route's template and not the path, and nothing that a client wrote but the request id.

    Args:
        app: What comes after; `RequestGateway` notes the answer's status.
        metrics: Where counts and times go.
        templates: The routes'.
        tracing: Where spans go; None costs nothing.
        log: Which requests get a log line.
        hot: The templates that `quiet` leaves out.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        templates: Templates,
        *,
        tracing: Tracing | None = None,
        log: str = "off",
        hot: Collection[str] = (),
    ) -> None:
        self._app = app if tracing is None else _Traced(app, templates, tracing)
        self._metrics = metrics
        self._templates = templates
        self._log = log
        self._hot = frozenset(hot)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        try:
            await self._app(scope, receive, send)
        finally:
            method, path = self._templates.labels(scope)
            status, seconds = scope.get(STATUS, CLIENT_LEFT), perf_counter() - began
            self._metrics.request(method, path, status, seconds)
            if self._log == "all" or (self._log == "quiet" and path not in self._hot):
                known: dict[str, Any] = {"method": method, "path": path, "status_code": status}
                known |= {"duration_ms": round(seconds * 1000, 3), "api_key": scope.get(AUTHOR)}
                _log.info("request", extra=known)


class _Traced:
    """Puts each request into a span; `Observed` stands outside of it."""

    def __init__(self, app: ASGIApp, templates: Templates, tracing: Tracing) -> None:
        self._app = app
        self._templates = templates
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = self._templates.labels(scope)
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with self._tracing.request(method, path, headers) as span:
            try:
                await self._app(scope, receive, send)
            finally:
                span.end(scope.get(STATUS, CLIENT_LEFT), request_id.get())
