"""Liveness and readiness."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import json_response, runtime
from superposed_service.errors import NotReady

router = APIRouter(prefix="/health", tags=["health"])


@router.get("/live", summary="Check that the process runs")
@requires(None)
async def live(request: Request) -> Response:
    """Answer 200 while the process runs and its engine works or is stopping; the disk is not asked.

    503 `not-ready` means that only a new start helps.
    """
    if runtime(request).engine.crashed:
        raise NotReady("the engine has ended: start the service again")
    return json_response({"status": "live"})


@router.get("/ready", summary="Check that requests are admitted")
@requires(None)
async def ready(request: Request) -> Response:
    """Answer 200 while inference and updates are admitted; 503 `not-ready` while starting or stopping.

    Also once the journal's disk has failed: inference goes on then, but nothing is learned.
    """
    if (not_ready := runtime(request).not_ready) is not None:
        raise not_ready
    return json_response({"status": "ready"})
