"""Route table: the one place that matches a request to its route, before anything else sees the request."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from starlette.routing import Route
from starlette.types import Scope

from superposed_service.api.auth.authorization import Endpoint, required_scope

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
