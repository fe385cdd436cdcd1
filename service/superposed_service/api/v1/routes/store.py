"""The store as a whole."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import json_response, principal, runtime
from superposed_service.api.v1.schemas import StoreBody
from superposed_service.api.v1.serializers import store_body, tenants_view

router = APIRouter(prefix="/v1", tags=["store"])


@router.get("/store", response_model=StoreBody, summary="Describe the store")
@requires("infer")
async def get_store(request: Request) -> Response:
    """Return family, network, optimizer, memory, sequence, and what the arithmetic ran on.

    An API key with a pattern of tasks is shown the number of its own tasks, and their newest record.
    """
    service, asker = runtime(request), principal(request)
    body = await service.engine.call_writer(
        lambda writer: store_body(writer, service.settings, service.recovery)
    )
    if not asker.sees_all:
        body = await service.engine.call(lambda store: tenants_view(body, store, asker.may_name))
    return json_response(body)
