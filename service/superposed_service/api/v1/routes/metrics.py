"""Metrics, for Prometheus."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client.exposition import choose_encoder

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import runtime

router = APIRouter(tags=["metrics"])


@router.get("/metrics", summary="Show metrics for Prometheus")
@requires("monitor")
async def metrics(request: Request) -> Response:
    """Return counts, times and gauges, as text or OpenMetrics; task keys and layers are among the labels."""
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    # Aside: it reads the disk, and goes through all tasks.
    body = await asyncio.to_thread(encode, runtime(request).telemetry.metrics.registry)
    return Response(body, headers={"Content-Type": media_type})
