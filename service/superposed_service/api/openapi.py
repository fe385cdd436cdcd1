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
