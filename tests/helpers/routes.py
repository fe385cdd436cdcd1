"""The routes of the service, and the scope that each needs."""

from __future__ import annotations

from starlette.routing import Route

from superposed_service.api import v2
from superposed_service.api.middleware.route_table import access_rules
from superposed_service.api.v1.routes import routers

ROUTES = [route for router in (*routers, v2.router) for route in router.routes if isinstance(route, Route)]
# By method and template; the framework adds the OpenAPI document.
ACCESS_RULES = access_rules(ROUTES) | {("GET", "/openapi.json"): "infer"}
