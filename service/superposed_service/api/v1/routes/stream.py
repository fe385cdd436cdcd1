"""Streams: one request that teaches and asks line by line, answered line by line."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.api.problems import problem_document
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter
from superposed_service.api.v1.routes.inference import admitted, answer_infer, answer_update, located
from superposed_service.api.v1.schemas import StreamLine
from superposed_service.engine.request_queues import ANYONE, calling
from superposed_service.errors import NotReady, Overloaded
from superposed_service.observability.request_ids import STREAM
from superposed_service.storage.idempotency import IdempotencyKey

router = ApiRouter(tags=["rows"])

_CONTENT = {"application/x-ndjson": {"schema": {"type": "string"}}}
_LINES = {"requestBody": {"required": True, "content": _CONTENT}}
_ANSWERS = {200: {"content": _CONTENT, "description": "One JSON answer a line, in the order of the lines."}}
# Lines that are worked on at once, and bytes of one that is worked on alone.
_MOST_LINES, _LARGE = 32, 2**20
# Pauses between two looks at a server that stops, and before a line is tried again.
_LOOK_S, _AGAIN_S = 0.5, 0.05


class LinesResponse(StreamingResponse):
    """A response that is sent as it is made, while the request's body is still being read."""

    media_type = "application/x-ndjson"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines; a client that leaves is noticed by what reads its lines."""
        await self.stream_response(send)


@router.serve("POST", STREAM, "update", response_class=Response, responses=_ANSWERS, openapi_extra=_LINES)
async def stream(request: ApiRequest) -> Response:
    """Take lines of JSON for as long as the client sends some, each an update or an inference, and answer each.

    A line is `{"id", "update": {…}}` or `{"id", "infer": {…}}` with the fields of `POST /v1/update` or `/v1/infer`;
    its answer is `{"id", "answer": {…}}` or `{"id", "problem": {…}}`. An update is answered once it is on the disk;
    its `id`, if it has one, is its idempotency key. Where lines come faster than they are worked on, they are not
    read: nothing is rejected for lack of room.
    """
    request.runtime.engine.check_leads()
    return LinesResponse(_answers(request))


async def _answers(request: ApiRequest) -> AsyncIterator[bytes]:
    """Yield the answers to the lines of a stream, in their order."""
    begun: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_MOST_LINES)
    reading = asyncio.create_task(_read(request, begun))
    try:
        while (task := await begun.get()) is not None:
            yield await task
            begun.task_done()
        await reading
    except SuperposedError as error:
        yield _line(None, problem=problem_document(error, STREAM))
    except ClientDisconnect:
        return  # what was begun is finished; no client reads an answer
    finally:
        reading.cancel()
        while not begun.empty():  # so that the reading can end
            begun.get_nowait()


class _Order:
    """The order of a stream's lines: each is submitted after those before it."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()  # which lines get in the order in which they ask for it
        self.taught: asyncio.Task[dict[str, Any]] | None = None  # the newest update


async def _read(request: ApiRequest, begun: asyncio.Queue[asyncio.Task[bytes] | None]) -> None:
    """Begin to answer line after line, in their order."""
    alone, order = False, _Order()
    try:
        async for line in _lines(request):
            if not line:
                continue
            before, alone = alone, len(line) > _LARGE or not (b'"inputs"' in line or b'"records"' in line)
            if alone or before:  # it takes room, or waits for an encoder before it takes its place among updates
                await begun.join()
            await begun.put(asyncio.create_task(_answer(request, line, order)))
    finally:
        await begun.put(None)


async def _lines(request: ApiRequest) -> AsyncIterator[bytes]:
    """Yield the lines; the request gateway bounds the bytes of one."""
    line, more = bytearray(), True
    while more:
        message = await _message(request)
        more = message.get("more_body", False)
        *ends, rest = message.get("body", b"").split(b"\n")
        for end in ends:
            yield bytes(line + end).strip()
            line.clear()
        line += rest
    yield bytes(line).strip()


async def _message(request: ApiRequest) -> Any:
    """Return the body's next message; raise `NotReady` where the service stops meanwhile."""
    while True:
        try:
            message = await asyncio.wait_for(request.receive(), _LOOK_S)
        except TimeoutError:
            if request.runtime.events.closed:
                raise NotReady("the service is stopping") from None
            continue
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        return message


async def _answer(request: ApiRequest, data: bytes, order: _Order) -> bytes:
    line: StreamLine | None = None
    try:
        line = codec.read_body(StreamLine, data, None)
        with calling(request.principal.author or ANYONE):
            return _line(line, answer=await _worked_on(request, line, data, order))
    except SuperposedError as error:
        return _line(line, problem=problem_document(error, STREAM))


async def _worked_on(request: ApiRequest, line: StreamLine, data: bytes, order: _Order) -> dict[str, Any]:
    """Return the answer to a line, tried until there is room; its rows are admitted, and spend a quota, once."""
    key = IdempotencyKey.of(line.id, request.principal.author, "POST", STREAM, data)
    learned = asked = None

    async def submit(taught: asyncio.Task[dict[str, Any]] | None) -> dict[str, Any]:
        nonlocal learned, asked
        if line.update is not None:
            learned = learned or await admitted(request, line.update, updates=1)
            return await answer_update(request, line.update, learned, key)
        assert line.infer is not None  # noqa: S101 - a line has one of the two
        if taught is not None:
            await asyncio.wait([taught])  # it answers as new as the lines before it
        asked = asked or await located(request, line.infer)
        return await answer_infer(request, line.infer, *asked)

    while True:
        async with order.turn:
            task = await _begun(request, submit, order.taught)
            order.taught = order.taught if line.update is None else task
        try:
            return await task
        except Overloaded:
            await asyncio.sleep(_AGAIN_S)


async def _begun(
    request: ApiRequest,
    submit: Callable[[asyncio.Task[dict[str, Any]] | None], Coroutine[Any, Any, dict[str, Any]]],
    taught: asyncio.Task[dict[str, Any]] | None,
) -> asyncio.Task[dict[str, Any]]:
    """Submit a line, again and again while there is no room: no later one is submitted before it."""
    while True:
        request.check_key()
        task = asyncio.create_task(submit(taught))
        await asyncio.sleep(0)  # now it was refused, or waits for its answer
        if not task.done() or not isinstance(task.exception(), Overloaded):
            return task
        await asyncio.sleep(_AGAIN_S)


def _line(line: StreamLine | None, **told: Any) -> bytes:
    head = {"id": line.id} if line is not None and line.id else {}
    return codec.dump(head | told) + b"\n"
