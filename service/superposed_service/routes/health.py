"""Liveness and readiness."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.errors import NotReady
from superposed_service.routes.common import json_response, running

__all__ = ["router"]

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Is the process up?")
async def live() -> Response:
    """200 while the process can answer at all; asks neither the engine nor the disk."""
    return json_response({"status": "live"})


@router.get("/ready", summary="Are requests admitted?")
async def ready(request: Request) -> Response:
    """200 while inference and updates are admitted; 503 `not-ready` while starting or stopping.

    Also once the journal's disk has failed: inference goes on then, but nothing is learned.
    """
    engine = running(request).engine
    if not engine.ready:
        raise NotReady("the service is starting or stopping")
    if engine.failure is not None:
        raise NotReady("the journal failed: inference goes on, updates do not", received=engine.failure)
    return json_response({"status": "ready"})
