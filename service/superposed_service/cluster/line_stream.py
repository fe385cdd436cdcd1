"""`POST /v1/stream` at the ingress: each line is a request of its own to its cell, answered in the order of lines."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import ClientDisconnect

from superposed.errors import SuperposedError
from superposed_service.api.problems import problem_document
from superposed_service.api.v1 import codec
from superposed_service.api.v1.schemas import StreamLine
from superposed_service.cluster.cell import Call
from superposed_service.errors import PayloadTooLarge
from superposed_service.observability.request_ids import STREAM

if TYPE_CHECKING:
    from superposed_service.cluster.ingress import Ingress

_MOST_LINES, _AGAIN_S = 32, 0.1


async def answer_lines(
    ingress: "Ingress", call: Call, body: AsyncIterable[bytes], most_bytes: int
) -> AsyncIterator[bytes]:
    """Yield the answer of each line of a body, in order; the lines of one stream are worked on in order too."""
    begun: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_MOST_LINES)
    turn = asyncio.Lock()

    async def read() -> None:
        try:
            async for line in _lines(body, most_bytes):
                await begun.put(asyncio.create_task(_answer(ingress, call, line, turn)))
        finally:
            await begun.put(None)

    reading = asyncio.create_task(read())
    try:
        while (task := await begun.get()) is not None:
            yield await task
        await reading
    except SuperposedError as error:
        yield codec.dump({"problem": problem_document(error, STREAM)}) + b"\n"
    except ClientDisconnect:
        return  # what was begun is finished; no client reads an answer
    finally:
        reading.cancel()


async def _lines(body: AsyncIterable[bytes], most_bytes: int) -> AsyncIterator[bytes]:
    rest = b""
    async for part in body:
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > most_bytes:
            raise PayloadTooLarge("a line is too large", expected=f"{most_bytes} bytes at most", received=len(rest))
        for line in filter(None, map(bytes.strip, lines)):
            yield line
    if rest.strip():
        yield rest.strip()


async def _answer(ingress: "Ingress", call: Call, data: bytes, turn: asyncio.Lock) -> bytes:
    head: dict[str, Any] = {}
    try:
        line, values = codec.read_body(StreamLine, data, None), codec.read_object(data)
        head = {"id": line.id} if line.id else {}
        kind = "infer" if line.update is None else "update"
        key = {"idempotency-key": line.id} if line.id and kind == "update" else {}
        one = Call("POST", STREAM, headers=call.headers).with_json(codec.dump(values[kind]), f"/v1/{kind}", **key)
        async with turn:  # a lock is taken in the order in which it is asked for
            response = await ingress.answer(one)
            while b":overloaded" in response.body and response.status_code == 503:
                await asyncio.sleep(_AGAIN_S)
                response = await ingress.answer(one)
        answered = "answer" if response.status_code < 400 else "problem"
        return codec.dump(head | {answered: orjson.loads(response.body)}) + b"\n"
    except SuperposedError as error:
        return codec.dump(head | {"problem": problem_document(error, STREAM)}) + b"\n"
