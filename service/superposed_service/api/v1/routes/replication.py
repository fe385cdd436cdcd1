"""Routes for the followers of this server."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import runtime

router = APIRouter(prefix="/v1/replication", tags=["replication"])

_BINARY = "application/octet-stream"


@router.get("/records", response_class=Response, responses={200: {"content": {_BINARY: {}}}})
@requires("replicate")
async def records(
    request: Request,
    after: Annotated[int, Query(ge=0)],
    chain: str,
    keys: str = "",
    wait_s: Annotated[float, Query(ge=0, le=60)] = 0.0,
) -> Response:
    """Return the records after a follower's newest one, with API keys; wait for some where there are none.

    409 `beyond-horizon` where they are not there any more: the follower needs a snapshot.
    """
    return Response(await runtime(request).shipment(after, chain, keys, wait_s), media_type=_BINARY)


@router.get("/snapshot", response_class=Response, responses={200: {"content": {_BINARY: {}}}})
@requires("replicate")
async def snapshot(request: Request) -> Response:
    """Return the newest snapshot: the length of a JSON head, the head, and the file; it holds the secret."""
    return Response(await runtime(request).newest_snapshot(), media_type=_BINARY)
