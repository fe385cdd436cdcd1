"""The store as a whole."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.describe import store_body
from superposed_service.routes.common import json_response, running
from superposed_service.schemas import StoreBody

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["store"])


@router.get("/store", response_model=StoreBody, summary="What this store is")
async def get_store(request: Request) -> Response:
    """Family, network, optimizer, memory, sequence, and what the arithmetic ran on."""
    service = running(request)
    body = await service.engine.call_writer(
        lambda writer: store_body(writer, service.settings, service.recovery)
    )
    return json_response(body)
