"""What the routes share: the service behind a request, and bodies documented but read by the codec."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from superposed_service import codec
from superposed_service.origin import Origin
from superposed_service.running import Running

__all__ = ["documented_body", "json_response", "origin", "running"]


def running(request: Request) -> Running:
    """The engine, settings and data directory that the request is served by."""
    service: Running = request.app.state.running
    return service


async def origin(request: Request) -> Origin | None:
    """What tells the request from others, where it has an `Idempotency-Key`.

    Raises:
        InvalidRequest: The key is no key.
    """
    key = request.headers.get("idempotency-key")
    return Origin.of(key, request.method, request.url.path, await request.body())


def documented_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI entry of a body that the route reads raw."""
    schema = model.model_json_schema(by_alias=True)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json_response(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(codec.dump(value), status, media_type="application/json")
