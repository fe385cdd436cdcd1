"""Bodies of lines that are answered line by line, while they are still being sent."""

import asyncio
import math
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.api.middleware.gateway import too_large
from superposed_service.api.problems import problem_document
from superposed_service.api.v1 import codec
from superposed_service.api.v1.schemas import StreamLine
from superposed_service.observability.request_ids import STREAM

Answers: TypeAlias = asyncio.Queue[asyncio.Task[bytes] | None]  # in the order of their lines; None ends them
_MOST_LINES = 32  # that are worked on at once


class LinesResponse(StreamingResponse):
    """A response that is sent as it is made, while the request's body is still being read."""

    media_type = "application/x-ndjson"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines; a client that leaves is noticed by what reads its lines."""
        await self.stream_response(send)


async def answered(read: Callable[[Answers], Coroutine[Any, Any, None]]) -> AsyncIterator[bytes]:
    """Yield the answers that `read` begins, in order; the problem of what it raises is the last one."""
    begun: Answers = asyncio.Queue(_MOST_LINES)

    async def read_all() -> None:
        try:
            await read(begun)
        finally:
            await begun.put(None)

    reading = asyncio.create_task(read_all())
    try:
        while (task := await begun.get()) is not None:
            yield await task
            begun.task_done()
        await reading
    except SuperposedError as error:
        yield dump_line(None, problem=problem_document(error, STREAM))
    except ClientDisconnect:
        return  # what was begun is finished; no client reads an answer
    finally:
        reading.cancel()
        while not begun.empty():  # so that the reading can end
            begun.get_nowait()


async def split_lines(parts: AsyncIterable[bytes], most: float = math.inf) -> AsyncIterator[bytes]:
    """Yield the lines of a body that are not empty; raise `PayloadTooLarge` for one of more than `most` bytes."""
    line = bytearray()
    async for part in parts:
        *ends, rest = part.split(b"\n")
        for end in ends:
            if text := bytes(line + end).strip():
                yield text
            line.clear()
        line += rest
        if len(line) > most:
            raise too_large(len(line), int(most), "a line")
    if text := bytes(line).strip():
        yield text


def dump_line(line: StreamLine | None, **told: Any) -> bytes:
    """Return the answer to a line, with its `id` if it has one."""
    head = {"id": line.id} if line is not None and line.id else {}
    return codec.dump(head | told) + b"\n"
