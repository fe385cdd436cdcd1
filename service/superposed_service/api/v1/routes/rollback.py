"""Taking records out of the store's past."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import (
    documented_body,
    idempotency_key,
    json_response,
    principal,
    read,
    runtime,
)
from superposed_service.api.v1.schemas import RollbackAnswer, RollbackBody
from superposed_service.changes.rollback import Selection

router = APIRouter(prefix="/v1", tags=["history"])


@router.post(
    "/rollback",
    response_model=RollbackAnswer,
    openapi_extra=documented_body(RollbackBody),
    summary="Roll records back",
)
@requires("admin")
async def roll_back(request: Request) -> Response:
    """Rebuild the store as if the records had never been; other requests wait meanwhile.

    The store is bit for bit what a run that skipped those sequence numbers would have made. 409
    `beyond-horizon` where the journal does not reach back far enough.
    """
    body = await read(request, RollbackBody)
    without = body.without
    selection = Selection(
        to_sequence=body.to_sequence,
        task=without.task if without else None,
        sequences=without.sequences if without else None,
        api_key=without.api_key if without else None,
    )
    answer = await runtime(request).roll_back(
        selection, await idempotency_key(request), principal(request).author
    )
    return json_response(answer)
