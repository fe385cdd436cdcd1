"""Hot routes that skip the framework's router."""

from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.api.middleware.route_table import ROUTE, MatchedRoute
from superposed_service.api.problems import problem_response
from superposed_service.api.v1.routes.common import ApiRequest


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
