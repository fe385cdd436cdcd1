"""What the routes share: the service behind a request, and bodies documented but read by the codec."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from superposed_service import codec
from superposed_service.changes import Change, JsonObject
from superposed_service.origin import Origin
from superposed_service.running import Running
from superposed_service.security import Principal, principal_of

__all__ = ["documented_body", "json_response", "origin", "principal", "running", "submit"]


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
    author = principal(request).author
    return Origin.of(key, author, request.method, request.url.path, await request.body())


async def submit(request: Request, change: Change) -> JsonObject:
    """Has a change made in the name of whoever asks."""
    return await running(request).engine.change(change, await origin(request), principal(request).author)


def principal(request: Request) -> Principal:
    """Whoever asks."""
    return principal_of(request.scope)


def documented_body(model: type[BaseModel]) -> dict[str, Any]:
    """The OpenAPI entry of a body that the route reads raw."""
    schema = model.model_json_schema(by_alias=True)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json_response(value: object, status: int = 200) -> Response:
    """A JSON answer."""
    return Response(codec.dump(value), status, media_type="application/json")
