"""Route table: the one place that matches requests to routes; hot routes, and how OpenAPI describes access."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.api.auth.authorization import Endpoint, required_scope
from superposed_service.api.problems import problem_response
from superposed_service.api.v1.routes.common import ApiRequest
from superposed_service.api.v1.schemas import ProblemBody

# Key of the matched route in an ASGI scope.
ROUTE = "superposed.route"
# Template of a path that no route has: metric labels are bounded.
OTHER = "other"
# Longer paths are matched each time: memory is not for unknown clients to fill.
_LONGEST_KEPT = 256


@dataclass(frozen=True)
class MatchedRoute:
    """The route of a request: its path with its parameters' names, its function, and the parameters of the path.

    The function is None where no route has the path, or only with other methods, which are `allowed`.
    """

    template: str = OTHER
    endpoint: Endpoint | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()

    @property
    def fast(self) -> bool:
        """True if the endpoint is called without the framework around it."""
        return bool(getattr(self.endpoint, "fast", False))


class RouteTable:
    """The routes of an application, matched in order: where names may hold slashes, longer paths stand first."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = list(routes)
        self._plain = {
            (method, route.path): MatchedRoute(route.path, route.endpoint)
            for route in reversed(self._routes)
            if not route.param_convertors
            for method in route.methods or ()
        }
        self._search = lru_cache(maxsize=4096)(self._match)

    def match(self, scope: Scope) -> MatchedRoute:
        """Return the route of an HTTP request; a HEAD request has that of its GET."""
        path: str = scope["path"]
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        if (found := self._plain.get((method, path))) is not None:
            return found
        return (self._search if len(path) <= _LONGEST_KEPT else self._match)(method, path)

    def _match(self, method: str, path: str) -> MatchedRoute:
        template, allowed = OTHER, set[str]()
        for route in self._routes:
            if (found := route.path_regex.fullmatch(path)) is None:
                continue
            if method in (route.methods or ()):
                return MatchedRoute(route.path_format, route.endpoint, found.groupdict())
            template = route.path_format if template == OTHER else template
            allowed |= route.methods or set()
        return MatchedRoute(template, allowed=frozenset(allowed))


def access_rules(routes: Iterable[Route]) -> dict[tuple[str, str], Any]:
    """Return the scope that each method and path needs, by the path's template."""
    return {
        (method, route.path_format): required_scope(route.endpoint)
        for route in routes
        for method in sorted((route.methods or set()) - {"HEAD"})
    }


class FastRoutes:
    """Call the endpoints of hot routes without what the framework does around them.

    They take nothing but the request, and the framework is more than half of a small request's cost. Requests
    for other known routes go on to the application. Nothing else does: a route that the table does not know
    has no rule of access, and is answered 404.
    """

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on."""
        route: MatchedRoute | None = scope.get(ROUTE)
        if route is None or (route.endpoint is not None and not route.fast):
            await self._app(scope, receive, send)
            return
        if route.endpoint is None:
            await _no_route(route, scope["path"])(scope, receive, send)
            return
        scope["app"], scope["path_params"] = self._app, dict(route.params)
        try:
            response = await route.endpoint(ApiRequest(scope, receive))
        except SuperposedError as error:
            response = problem_response(error, scope["path"])
        await response(scope, receive, send)


def _no_route(route: MatchedRoute, path: str) -> Response:
    if not route.allowed:
        return problem_response(404, path, "no route has this path")
    response = problem_response(405, path, "the route does not have this method")
    response.headers["Allow"] = ", ".join(sorted(route.allowed))
    return response


_SCHEME = "apiKey"
_TIMEOUT = {
    "name": "Request-Timeout",
    "in": "header",
    "required": False,
    "description": "Seconds that an answer is of use; the server's own limit where that is shorter.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def describe_access(app: FastAPI) -> None:
    """Have the document say which routes need an API key, with which scope, and what every route reads."""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def document() -> dict[str, Any]:
        made = plain()
        components = made.setdefault("components", {})
        components["schemas"]["ProblemBody"] = ProblemBody.model_json_schema()
        text = "`Authorization: Bearer sp-…`; a server without API keys needs none."
        components["securitySchemes"] = {_SCHEME: {"type": "http", "scheme": "bearer", "description": text}}
        rules = access_rules(app.state.routes)
        for path, methods in made["paths"].items():
            for method, operation in methods.items():
                scope = rules.get((method.upper(), path))
                if scope is not None and "x-scope" not in operation:  # the framework keeps the document that it made
                    operation |= {"security": [{_SCHEME: []}], "x-scope": scope}
                    operation.setdefault("parameters", []).append(_TIMEOUT)
        return made

    app.openapi = document  # type: ignore[method-assign]  # the framework's own way to extend it
