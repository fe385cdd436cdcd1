"""Liveness, readiness, and metrics for Prometheus."""

import asyncio

from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder

from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.errors import NotReady

router = ApiRouter()


@router.serve("GET", "/health/live", None, tags=["health"])
async def live(request: ApiRequest) -> Response:
    """Answer 200 while the process runs and its engine works or is stopping; the disk is not asked.

    503 `not-ready` means that only a new start helps.
    """
    if request.runtime.engine.crashed:
        raise NotReady("the engine has ended: start the service again")
    return json_response({"status": "live"})


@router.serve("GET", "/health/ready", None, tags=["health"])
async def ready(request: ApiRequest) -> Response:
    """Answer 200 while inference and updates are admitted; 503 `not-ready` while starting or stopping.

    Also once the journal's disk has failed: inference goes on then, but nothing is learned. `role` and `epoch` tell
    which of a store's servers takes changes: the leader of the highest epoch.
    """
    if (not_ready := request.runtime.not_ready) is not None:
        raise not_ready
    state = request.app.state.member.state()
    return json_response({"status": "ready", "role": state.role, "epoch": state.epoch})


@router.serve("GET", "/metrics", "monitor", tags=["metrics"])
async def metrics(request: ApiRequest) -> Response:
    """Return counts, times and gauges, as text or OpenMetrics; task keys and layers are among the labels."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    # Aside: it reads the disk, and goes through all tasks.
    body = await asyncio.to_thread(encode, request.runtime.telemetry.metrics.registry)
    return Response(body, headers={"Content-Type": media_type})
