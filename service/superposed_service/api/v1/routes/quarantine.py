"""Routes of the quarantine."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_client import models
from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import (
    answered_before,
    documented_body,
    json_response,
    read,
    runtime,
    submit,
)
from superposed_service.api.v1.schemas import QuarantineBody
from superposed_service.api.v1.serializers import check_source, quarantine_list
from superposed_service.changes.quarantine import Quarantine, Release

router = APIRouter(prefix="/v1/quarantine", tags=["quarantine"])


@router.get("", response_model=list[models.Quarantine])
@requires("admin")
async def list_all(request: Request) -> Response:
    """List quarantined sources: since which sequence number, and why."""
    return json_response(await runtime(request).engine.call_writer(quarantine_list))


@router.post("", response_model=models.Quarantine, openapi_extra=documented_body(QuarantineBody))
@requires("admin")
async def quarantine(request: Request) -> Response:
    """Quarantine a source, as the poison detector does."""
    body = await read(request, QuarantineBody)
    if (known := await answered_before(request)) is None:
        await runtime(request).engine.call_writer(lambda writer: check_source(writer, body.source))
        known = await submit(request, Quarantine(body.source, {"by": "request", "text": body.reason}))
    return json_response(known)


@router.delete("/{source}", status_code=204)
@requires("admin")
async def release(request: Request, source: str) -> Response:
    """Release a source. Updates held back stay so, unless the quarantine is rolled back."""
    if await runtime(request).engine.call(lambda store: source in store.tasks.quarantined):
        await submit(request, Release(source))
    return Response(status_code=204)
