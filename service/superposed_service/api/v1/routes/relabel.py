"""Correcting the targets of an update."""

from __future__ import annotations

from functools import partial

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
from superposed_service.api.v1.schemas import RelabelAnswer, RelabelBody
from superposed_service.api.v1.serializers import update_head
from superposed_service.errors import UnknownUpdate

router = APIRouter(prefix="/v1/updates", tags=["history"])


@router.post(
    "/{sequence}/relabel",
    response_model=RelabelAnswer,
    openapi_extra=documented_body(RelabelBody),
    summary="Correct the targets of an update",
)
@requires("update")
async def relabel(request: Request, sequence: int) -> Response:
    """Take an update out of the store's past and learn its rows with other targets, as one record.

    The store is rebuilt from a snapshot without the update; other requests wait meanwhile. So every record
    since counts against the quota of rows. 409 `beyond-horizon` where the journal does not reach back.
    """
    body, service, asker = await read(request, RelabelBody), runtime(request), principal(request)
    head, since = await service.engine.call_writer(partial(update_head, sequence=sequence))
    contexts = [head["context"]] if "context" in head else head["contexts"]
    if not all(asker.may_address(context) for context in contexts):
        raise UnknownUpdate("the record is no update of this API key's tasks", received=sequence)
    asker.spend(rows=head["rows"] + since, updates=1)
    answer = await service.relabel(sequence, body.targets, await idempotency_key(request), asker.author)
    return json_response(answer)
