"""The asynchronous client: the same operations as `Client`, awaited."""

import asyncio
from collections.abc import AsyncIterator
from typing import Self, TypeVar, Unpack

import httpx

from superposed_client import _operations as operations
from superposed_client._calls import async_call
from superposed_client._contexts import ContextLike
from superposed_client._core import Operation, Request, Response, RetryPolicy, credentials, refuse_errors, unreachable
from superposed_client._errors import ConnectionFailed
from superposed_client._events import EventReader, events_params
from superposed_client._keys import AsyncKeys
from superposed_client._servers import Servers
from superposed_client._task import AsyncTask, TaskCore, TaskFields, TaskSchema
from superposed_client.models import Event

T = TypeVar("T")


class AsyncClient:
    """Talks to one superposed service, asynchronously; arguments, attributes and errors as `Client`.

    Example:
        >>> async with AsyncClient("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     digits = client.task("digits", labels=range(10))
        ...     await digits.fit(X_train, y_train, epochs=5, progress=True)
        ...     await digits.score(X_test, y_test)
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries, self._servers = retries or RetryPolicy(), Servers()
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=credentials(api_key), timeout=timeout_s, transport=transport
        )
        self.keys = AsyncKeys(self._run)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _run(self, operation: Operation[T]) -> T:
        try:
            request = next(operation)
            while True:
                request = operation.send(await self._send(request))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, request: Request) -> Response:
        pauses = self._retries.pauses(request)
        while True:
            try:
                answer = await self._http.request(**self._servers.arguments(request))
            except httpx.TransportError as error:
                self._servers.failed()
                if (pause := next(pauses, None)) is None:
                    raise ConnectionFailed(unreachable(str(self._http.base_url), request, error)) from None
            else:
                response = Response(answer.status_code, answer.content, answer.headers)
                if self._servers.moved(request, response) and next(pauses, None) is not None:
                    continue
                if not self._retries.again(response) or (pause := next(pauses, None)) is None:
                    return self._servers.answered(response)
                pause = self._retries.after(response, pause)
            await asyncio.sleep(pause)

    infer = async_call(operations.infer)
    update = async_call(operations.update)
    relabel = async_call(operations.relabel)
    evaluate = async_call(operations.evaluate)
    register_task = async_call(operations.register_task)
    alter_task = async_call(operations.alter_task)
    get_task = async_call(operations.get_task)
    list_tasks = async_call(operations.list_tasks)
    evaluations = async_call(operations.evaluations)
    interference = async_call(operations.interference)
    delete_task = async_call(operations.delete_task)
    store = async_call(operations.store)
    capacity = async_call(operations.capacity)
    model = async_call(operations.model)
    locate = async_call(operations.locate)
    consolidate = async_call(operations.consolidate)
    server_state = async_call(operations.server_state)
    promote = async_call(operations.promote)
    take_snapshot = async_call(operations.take_snapshot)
    list_snapshots = async_call(operations.list_snapshots)
    restore_snapshot = async_call(operations.restore_snapshot)
    roll_back = async_call(operations.roll_back)
    erase_rows = async_call(operations.erase_rows)
    quarantine = async_call(operations.quarantine)
    release = async_call(operations.release)
    list_quarantine = async_call(operations.list_quarantine)
    ready = async_call(operations.ready)

    def task(self, context: ContextLike, **schema: Unpack[TaskFields]) -> AsyncTask:
        """Return a handle on a task, or on any composed context; as `Client.task`."""
        return AsyncTask(self, TaskCore(context, TaskSchema(**schema)))

    async def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """Iterate over events, first those after a sequence number, until the server ends the stream."""
        reader = EventReader()
        try:
            async with self._http.stream("GET", "/v1/events", params=events_params(after)) as answer:
                if answer.status_code != 200:
                    refuse_errors(Response(answer.status_code, await answer.aread(), answer.headers))
                async for line in answer.aiter_lines():
                    for event in reader.read(line):
                        yield event
        except httpx.TransportError as error:
            raise ConnectionFailed(f"GET /v1/events: {error!r}") from error
