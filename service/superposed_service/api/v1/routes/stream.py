"""Streams: one request that teaches and asks line by line, answered line by line."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from superposed.errors import SuperposedError
from superposed_service.api.problems import problem_document
from superposed_service.api.v1 import codec
from superposed_service.api.v1.line_stream import Answers, LinesResponse, answered, dump_line, split_lines
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
# Bytes of a line that is worked on alone.
_LARGE = 2**20
# Pauses between two looks at a server that stops, and before a line is tried again.
_LOOK_S, _AGAIN_S = 0.5, 0.05


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


def _answers(request: ApiRequest) -> AsyncIterator[bytes]:
    """Yield the answers to the lines of a stream, in their order."""

    async def read(begun: Answers) -> None:
        alone, order = False, _Order()
        async for line in split_lines(_parts(request)):  # the request gateway bounds the bytes of one
            before, alone = alone, len(line) > _LARGE or not (b'"inputs"' in line or b'"records"' in line)
            if alone or before:  # it takes room, or waits for an encoder before it takes its place among updates
                await begun.join()
            await begun.put(asyncio.create_task(_answer(request, line, order)))

    return answered(read)


class _Order:
    """The order of a stream's lines: each is submitted after those before it."""

    def __init__(self) -> None:
        self.turn = asyncio.Lock()  # which lines get in the order in which they ask for it
        self.taught: asyncio.Task[dict[str, Any]] | None = None  # the newest update


async def _parts(request: ApiRequest) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await _message(request)
        more = message.get("more_body", False)
        yield message.get("body", b"")


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
            return dump_line(line, answer=await _worked_on(request, line, data, order))
    except SuperposedError as error:
        return dump_line(line, problem=problem_document(error, STREAM))


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
