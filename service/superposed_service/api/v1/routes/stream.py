"""Streams: one request that teaches and asks line by line, answered line by line."""

from fastapi import APIRouter
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import ApiRequest, ApiRoute
from superposed_service.api.v1.stream_lines import StreamLines, StreamResponse
from superposed_service.observability.request_ids import STREAM

router = APIRouter(route_class=ApiRoute, tags=["rows"])

_CONTENT = {"application/x-ndjson": {"schema": {"type": "string"}}}


@router.post(
    STREAM,
    response_class=Response,
    responses={200: {"content": _CONTENT, "description": "One JSON answer a line, in the order of the lines."}},
    openapi_extra={"requestBody": {"required": True, "content": _CONTENT}},
)
@requires("update")
async def stream(request: ApiRequest) -> Response:
    """Take lines of JSON for as long as the client sends some, each an update or an inference, and answer each.

    A line is `{"id", "update": {…}}` or `{"id", "infer": {…}}` with the fields of `POST /v1/update` or `/v1/infer`;
    its answer is `{"id", "answer": {…}}` or `{"id", "problem": {…}}`. An update is answered once it is on the disk;
    its `id`, if it has one, is its idempotency key. Where lines come faster than they are worked on, they are not
    read: nothing is rejected for lack of room.
    """
    request.runtime.engine.check_leads()
    return StreamResponse(StreamLines(request).answers())
