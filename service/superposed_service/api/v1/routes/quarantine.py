"""Routes of the quarantine."""

from fastapi.responses import Response

from superposed_client import models
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.api.v1.schemas import QuarantineBody
from superposed_service.api.v1.serializers import check_source, quarantine_list
from superposed_service.changes.quarantine import Quarantine, Release

router = ApiRouter(prefix="/v1/quarantine", tags=["quarantine"])


@router.serve("GET", "", "admin", response_model=list[models.Quarantine])
async def list_all(request: ApiRequest) -> Response:
    """List quarantined sources: since which sequence number, and why."""
    return json_response(await request.runtime.engine.call_writer(quarantine_list))


@router.serve("POST", "", "admin", response_model=models.Quarantine, body=QuarantineBody)
async def quarantine(request: ApiRequest) -> Response:
    """Quarantine a source, as the poison detector does."""
    body = await request.read(QuarantineBody)
    if (known := await request.answered_before()) is None:
        await request.runtime.engine.call_writer(lambda writer: check_source(writer, body.source))
        known = await request.submit(Quarantine(body.source, {"by": "request", "text": body.reason}))
    return json_response(known)


@router.serve("DELETE", "/{source}", "admin", status_code=204)
async def release(request: ApiRequest, source: str) -> Response:
    """Release a source. Updates held back stay so, unless the quarantine is rolled back."""
    if await request.runtime.engine.call(lambda store: source in store.tasks.quarantined):
        await request.submit(Release(source))
    return Response(status_code=204)
