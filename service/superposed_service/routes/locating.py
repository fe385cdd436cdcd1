"""Which task is this?"""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.locating import find_context
from superposed_service.routes.common import documented_body, json_response, principal, read, running
from superposed_service.rows import Rows
from superposed_service.schemas import LocateAnswer, LocateBody

__all__ = ["answer_locate", "router"]

router = APIRouter(prefix="/v1", tags=["rows"])


@router.post(
    "/locate",
    response_model=LocateAnswer,
    openapi_extra=documented_body(LocateBody, tensors=True),
    summary="Find the context of rows",
)
async def locate(request: Request) -> Response:
    """Tries the rows, all of one stream, under every candidate context; nothing is learned."""
    return json_response(await answer_locate(request, await read(request, LocateBody)))


async def answer_locate(request: Request, body: LocateBody) -> dict[str, Any]:
    """What the store finds for the body of whoever asks."""
    service, asking = running(request), principal(request)
    rows = Rows(None, body.candidates, body.inputs)
    service.engine.check_rows(rows)
    asking.check_contexts(body.candidates or _powers(body))
    asking.spend(rows=len(rows))
    return await service.engine.call(
        partial(find_context, body, may_name=asking.may_name, most=service.settings.max_tries)
    )


def _powers(body: LocateBody) -> list[str]:
    """Of the powers that a search may try, the one nearest to the identity."""
    if body.exponent_of is None:
        return []
    low, high = body.exponents or (0.0, 0.0)
    return [f"{body.exponent_of}^{min(max(0.0, low), high)!r}"]
