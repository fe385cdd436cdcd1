"""Server-sent events of the store."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Header, Query
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from superposed_service.api.auth import Principal
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter
from superposed_service.errors import InvalidRequest
from superposed_service.runtime.event_stream import Event, Subscription
from superposed_service.runtime.runtime import Runtime

router = ApiRouter(prefix="/v1", tags=["events"])

_EVENT_ID = re.compile(r"\d{1,19}", re.ASCII)
_CONTENT = {"text/event-stream": {"schema": {"type": "string"}}}
_EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "Server-sent events, until either side ends them.", "content": _CONTENT}
}


class _EventStream(StreamingResponse):
    """A stream that ends where the client does not take it: `ended` is called then, also where it never began."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(content, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; the server closes the connection of a client that does not take them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


@router.serve("GET", "/events", "infer", response_class=Response, responses=_EVENT_STREAM)
async def listen(
    request: ApiRequest,
    after: Annotated[int | None, Query(ge=0)] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Stream every applied record, and the engine's load once a second (`load`).

    A record's event has its sequence number as id. `Last-Event-ID`, or `after`, asks for what was missed, as
    far as it is remembered. A client that reads too slowly gets `dropped`, and the stream ends.
    """
    service, asker = request.runtime, request.principal
    subscription = service.events.subscribe(_after(last_event_id, after), asker.author)
    told = _told(service, asker, subscription)
    return _EventStream(told, ended=lambda: service.events.unsubscribe(subscription))


def _after(last_event_id: str | None, after: int | None) -> int | None:
    if last_event_id is None:
        return after
    if not _EVENT_ID.fullmatch(last_event_id):
        text = "Last-Event-ID: not one that this service gave"
        raise InvalidRequest(text, expected="a sequence number", received=last_event_id[:100])
    return int(last_event_id)


async def _told(service: Runtime, asker: Principal, subscription: Subscription) -> AsyncIterator[bytes]:
    keys = service.directory.transaction_log().api_keys
    yield b"retry: 1000\n\n"
    async for event in subscription:
        if not asker.is_still_good(keys):
            return
        if all(map(asker.may_name, event.keys)):
            yield _text(event)
    if subscription.dropped:
        yield b"event: dropped\ndata: {}\n\n"


def _text(event: Event) -> bytes:
    identifier = b"" if event.sequence is None else b"id: %d\n" % event.sequence
    return b"event: %s\n%sdata: %s\n\n" % (event.kind.encode(), identifier, codec.dump(event.data))
