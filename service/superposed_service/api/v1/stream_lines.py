"""The lines of a stream, and their answers in the same order."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from superposed.errors import SuperposedError
from superposed_service.api.problems import problem_document
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import ApiRequest
from superposed_service.api.v1.routes.inference import answer_infer, answer_update
from superposed_service.api.v1.schemas import StreamLine
from superposed_service.engine.request_metadata import ANYONE, calling
from superposed_service.errors import NotReady, Overloaded, PayloadTooLarge, Unauthenticated
from superposed_service.observability.request_ids import STREAM
from superposed_service.storage.idempotency import IdempotencyKey

# Lines that are worked on at once, and bytes of one that is worked on alone.
_MOST_LINES, _LARGE = 32, 2**20
# Pauses between two looks at a server that stops, and before a line is tried again.
_LOOK_S, _AGAIN_S = 0.5, 0.05


class StreamResponse(Response):
    """A response that is sent as it is made, while the request's body is still being read."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for line in self._lines:
            await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class StreamLines:
    """The lines of one stream, and their answers in the same order."""

    def __init__(self, request: ApiRequest) -> None:
        self._request, self._rest = request, b""
        self._most = request.runtime.settings.max_body_bytes
        self._queue: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_MOST_LINES)

    async def answers(self) -> AsyncIterator[bytes]:
        """Yield the answers."""
        reading = asyncio.create_task(self._read())
        try:
            while (task := await self._queue.get()) is not None:
                yield await task
                self._queue.task_done()
            await reading
        except SuperposedError as error:
            yield _problem(None, error)
        finally:
            reading.cancel()

    async def _read(self) -> None:
        """Begin to answer line after line, in their order."""
        alone = False
        try:
            async for line in self._lines():
                before, alone = alone, len(line) > _LARGE or not (b'"inputs"' in line or b'"records"' in line)
                if alone or before:  # it takes room, or waits for an encoder before it takes its place among updates
                    await self._queue.join()
                await self._queue.put(asyncio.create_task(self._answer(line)))
        finally:
            await self._queue.put(None)

    async def _lines(self) -> AsyncIterator[bytes]:
        ended = False
        while not ended:
            message = await self._message()
            ended = not message.get("more_body")
            *lines, self._rest = (self._rest + message.get("body", b"")).split(b"\n")
            if len(self._rest) > self._most:
                raise PayloadTooLarge("a line is too long", expected=f"{self._most} bytes at most")
            for line in [*lines, self._rest] if ended else lines:
                if line.strip():
                    yield line.strip()

    async def _message(self) -> Any:
        """Return the body's next message; raise `NotReady` where the service stops meanwhile."""
        while True:
            try:
                message = await asyncio.wait_for(self._request.receive(), _LOOK_S)
            except TimeoutError:
                if self._request.runtime.events.closed:
                    raise NotReady("the service is stopping") from None
                continue
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            return message

    async def _answer(self, data: bytes) -> bytes:
        identifier: str | None = None
        try:
            line = codec.read_body(StreamLine, data, None)
            identifier = line.id
            with calling(self._request.principal.author or ANYONE):
                answer = await self._worked_on(line, data)
            return _line({"id": identifier} if identifier else {}, {"answer": answer})
        except SuperposedError as error:
            return _problem(identifier, error)

    async def _worked_on(self, line: StreamLine, data: bytes) -> dict[str, Any]:
        request, asker = self._request, self._request.principal
        key = IdempotencyKey.of(line.id, asker.author, "POST", STREAM, data)
        while True:
            if not asker.is_still_good(request.runtime.directory.transaction_log().api_keys):
                raise Unauthenticated("the API key was revoked, rotated or is over; what was done before counts")
            try:
                if line.update is not None:
                    return await answer_update(request, line.update, key)
                return await answer_infer(request, line.infer)  # type: ignore[arg-type]  # a line has one of the two
            except Overloaded:
                await asyncio.sleep(_AGAIN_S)


def _problem(identifier: str | None, error: SuperposedError) -> bytes:
    return _line({"id": identifier} if identifier else {}, {"problem": problem_document(error, STREAM)})


def _line(head: dict[str, Any], rest: dict[str, Any]) -> bytes:
    return codec.dump(head | rest) + b"\n"
