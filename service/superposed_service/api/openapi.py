"""The OpenAPI document: what the framework makes of the routes, and how one says who one is."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from superposed_service.api.middleware.route_table import access_rules
from superposed_service.api.v1.schemas import ProblemBody

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
        components["securitySchemes"] = {
            _SCHEME: {
                "type": "http",
                "scheme": "bearer",
                "description": "`Authorization: Bearer sp-…`; a server without API keys needs none.",
            }
        }
        rules = access_rules(app.state.routes)
        for path, methods in made["paths"].items():
            for method, operation in methods.items():
                _describe(operation, rules.get((method.upper(), path)))
        return made

    app.openapi = document  # type: ignore[method-assign]  # the framework's own way to extend it


def _describe(operation: dict[str, Any], scope: str | None) -> None:
    if scope is None:
        return
    operation["security"] = [{_SCHEME: []}]
    operation["x-scope"] = scope
    parameters = operation.setdefault("parameters", [])
    if _TIMEOUT not in parameters:  # the framework keeps the document that it made
        parameters.append(_TIMEOUT)
