"""How full the store is."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.describe import capacity_body
from superposed_service.routes.common import json_response, running
from superposed_service.schemas import CapacityBody

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["capacity"])


@router.get("/capacity", response_model=CapacityBody, summary="How full the store is")
async def get_capacity(request: Request) -> Response:
    """Crosstalk by layer, predicted and measured, and what this store's own evaluations say."""
    return json_response(await running(request).engine.call(capacity_body))
