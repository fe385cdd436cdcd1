"""Liveness, readiness, and metrics for Prometheus."""

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import ApiRequest, ApiRoute, json_response
from superposed_service.errors import NotReady

router = APIRouter(route_class=ApiRoute)


@router.get("/health/live", tags=["health"])
@requires(None)
async def live(request: ApiRequest) -> Response:
    """Answer 200 while the process runs and its engine works or is stopping; the disk is not asked.

    503 `not-ready` means that only a new start helps.
    """
    if request.runtime.engine.crashed:
        raise NotReady("the engine has ended: start the service again")
    return json_response({"status": "live"})


@router.get("/health/ready", tags=["health"])
@requires(None)
async def ready(request: ApiRequest) -> Response:
    """Answer 200 while inference and updates are admitted; 503 `not-ready` while starting or stopping.

    Also once the journal's disk has failed: inference goes on then, but nothing is learned.
    """
    if (not_ready := request.runtime.not_ready) is not None:
        raise not_ready
    return json_response({"status": "ready"})


@router.get("/metrics", tags=["metrics"])
@requires("monitor")
async def metrics(request: ApiRequest) -> Response:
    """Return counts, times and gauges, as text or OpenMetrics; task keys and layers are among the labels."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    # Aside: it reads the disk, and goes through all tasks.
    body = await asyncio.to_thread(encode, request.runtime.telemetry.metrics.registry)
    return Response(body, headers={"Content-Type": media_type})
