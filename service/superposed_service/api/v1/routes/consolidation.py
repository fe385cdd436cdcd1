"""Rehearsing all tasks."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_client.models import Consolidation
from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import documented_body, json_response, read, resumable, runtime
from superposed_service.api.v1.schemas import ConsolidateBody
from superposed_service.runtime.rehearse import consolidate

router = APIRouter(prefix="/v1", tags=["history"])


@router.post(
    "/consolidate",
    response_model=Consolidation,
    openapi_extra=documented_body(ConsolidateBody),
    summary="Rehearse all tasks",
)
@requires("admin")
async def post(request: Request) -> Response:
    """Rehearse in short slices, each one record, until one would make the tasks worse.

    A slice counts where the mean accuracy over tasks, on kept rows, is no lower after it than before.
    """
    body = await read(request, ConsolidateBody)
    service = runtime(request)
    answer = await consolidate(service.engine, service.settings, body.steps, await resumable(request))
    return json_response(answer)
