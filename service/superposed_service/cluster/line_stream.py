"""`POST /v1/stream` at the ingress: each line is a request of its own to its cell, answered in the order of lines."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from starlette.responses import Response

from superposed.errors import SuperposedError
from superposed_service.api.problems import problem_document
from superposed_service.api.v1 import codec
from superposed_service.api.v1.schemas import StreamLine
from superposed_service.cluster.cell import Call
from superposed_service.observability.request_ids import STREAM

_MOST_LINES, _AGAIN_S = 32, 0.1
Send = Callable[[Call], Awaitable[Response]]


async def answer_lines(send: Send, call: Call, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the answer of each line of a body, in order; the lines of one stream are worked on in order too."""
    begun: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_MOST_LINES)
    turn = asyncio.Lock()

    async def read() -> None:
        try:
            async for line in _lines(body):
                await begun.put(asyncio.create_task(_answer(send, call, line, turn)))
        finally:
            await begun.put(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await begun.get()) is not None:
            yield await task
        await reading
    finally:
        reading.cancel()


async def _lines(body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for part in body:
        *lines, rest = (rest + part).split(b"\n")
        for line in filter(None, map(bytes.strip, lines)):
            yield line
    if rest.strip():
        yield rest.strip()


async def _answer(send: Send, call: Call, data: bytes, turn: asyncio.Lock) -> bytes:
    head: dict[str, Any] = {}
    try:
        line, values = codec.read_body(StreamLine, data, None), codec.read_object(data)
        head = {"id": line.id} if line.id else {}
        kind = "infer" if line.update is None else "update"
        key = {"idempotency-key": line.id} if line.id and kind == "update" else {}
        one = Call("POST", STREAM, headers=call.headers).with_json(codec.dump(values[kind]), f"/v1/{kind}", **key)
        async with turn:  # a lock is taken in the order in which it is asked for
            while b":overloaded" in (response := await send(one)).body and response.status_code == 503:
                await asyncio.sleep(_AGAIN_S)
        answered = "answer" if response.status_code < 400 else "problem"
        return codec.dump(head | {answered: orjson.loads(response.body)}) + b"\n"
    except SuperposedError as error:
        return codec.dump(head | {"problem": problem_document(error, STREAM)}) + b"\n"
