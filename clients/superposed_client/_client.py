"""The synchronous and the asynchronous client: thin shells that send what the core builds."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, ClassVar, Generic, Self, TypeVar, Unpack

import httpx

from superposed_client._calls import Async, Sync
from superposed_client._contexts import ContextLike
from superposed_client._core import Operation, Request, RetryPolicy, Servers, credentials, refuse_errors
from superposed_client._errors import ConnectionFailed
from superposed_client._operations import AsyncKeys, Keys, Operations, TaskFields
from superposed_client._task import AsyncTask, Task
from superposed_client.models import Event

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
OfKeys = TypeVar("OfKeys")
Transport = TypeVar("Transport")
# Servers that one request is sent on to, one after the other.
_MOST_MOVES = 3


class _Calls(Operations, Generic[Http, OfKeys, Transport]):
    """The calls of both clients; runs operations in coroutines, which the synchronous client never suspends."""

    _kinds: ClassVar[tuple[Callable[..., Any], Callable[..., Any]]]  # of `_http` and `keys`
    _http: Http
    keys: OfKeys
    _run: Callable[[Any], Any]
    _request: Callable[..., Awaitable[httpx.Response]]
    _sleep: Callable[[float], Awaitable[None]]

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        cell: str | None = None,
        timeout_s: float = 60.0,
        retries: RetryPolicy | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._retries, self._servers = retries or RetryPolicy(), Servers()
        http, keys = self._kinds
        own = credentials(api_key) | ({} if cell is None else {"X-Cell": cell})
        base_url = base_url if "://" in str(base_url) else f"http://{base_url}"
        self._http = http(base_url=base_url, headers=own, timeout=timeout_s, transport=transport)
        self.keys = keys(self._run)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._http.base_url)!r})"

    async def _result(self, operation: Operation[T]) -> T:
        try:
            request = next(operation)
            while True:
                request = operation.send(await self._send(request))
        except StopIteration as done:
            result: T = done.value
            return result

    async def _send(self, request: Request) -> httpx.Response:
        pauses, moves = self._retries.pauses(request), iter(range(_MOST_MOVES))
        while True:
            try:
                response = await self._request(**self._servers.arguments(request))
            except httpx.TransportError as error:
                self._servers.failed()
                if (pause := next(pauses, None)) is None:
                    asked = f"{self._http.base_url} to {request.method} {request.path}"
                    text = f"no answer from {asked}: {str(error) or type(error).__name__}. Is a server running there?"
                    raise ConnectionFailed(f"{text} `superposed serve DIR` starts one") from None
            else:
                if self._servers.moved(request, response) and next(moves, None) is not None:
                    continue
                if not self._retries.again(response) or (pause := next(pauses, None)) is None:
                    return self._servers.answered(response)
                pause = self._retries.after(response, pause)
            await self._sleep(pause)


class _EventReader:
    """Puts lines of server-sent events together to events."""

    def __init__(self) -> None:
        self._kind = ""
        self._data: list[str] = []

    def read(self, line: str) -> Iterator[Event]:
        """Take the next line, without its end; gives an event where one is complete."""
        name, _, value = line.partition(": ")
        if name == "event":
            self._kind = value
        elif name == "data":
            self._data.append(value)
        elif not line and self._data:
            data: dict[str, Any] = json.loads("\n".join(self._data))
            yield Event(kind=self._kind, sequence=data.pop("sequence", None), data=data)
            self._kind, self._data = "", []


class Client(_Calls[httpx.Client, Keys, httpx.BaseTransport], Sync):
    """Talks to one superposed service.

    Args:
        base_url: Where it is, for example `http://127.0.0.1:8000`.
        api_key: The server's API key for this client; default `$SUPERPOSED_API_KEY`, if that is set.
        cell: Name of the cell that is meant, of a cluster: for what is about one store.
        timeout_s: How long one request may take.
        retries: When requests are sent again.
        transport: An httpx transport, for tests.

    Attributes:
        keys: The server's API keys.

    Every call raises `ApiError` (its class says which problem), `ConnectionFailed`, or `UnexpectedAnswer`.

    Example:
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     digits = client.task("digits", labels=range(10))
        ...     digits.fit(X_train, y_train, epochs=5, progress=True)
        ...     digits.score(X_test, y_test)
    """

    _kinds = (httpx.Client, Keys)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _run(self, operation: Operation[T]) -> T:
        try:
            self._result(operation).send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        raise AssertionError("the synchronous client waited for an event loop")

    async def _request(self, **arguments: Any) -> httpx.Response:
        return self._http.request(**arguments)

    async def _sleep(self, pause_s: float) -> None:
        time.sleep(pause_s)

    def task(self, context: ContextLike, **schema: Unpack[TaskFields]) -> Task:
        """Return a handle on a task, or on any composed context, in scikit-learn's habit.

        Nothing is sent yet: with labels or outputs the task is registered with its first rows.

        Args:
            context: A task key, a text expression, or a composed context.
            schema: What to register the task with: see `TaskFields`.
        """
        return Task(self._run, context, schema)

    def events(self, *, after: int | None = None) -> Iterator[Event]:
        """Iterate over events, first those after a sequence number, until the server ends the stream."""
        reader, sought = _EventReader(), {} if after is None else {"after": after}
        try:
            with self._http.stream("GET", "/v1/events", params=sought) as answer:
                if answer.status_code != 200:
                    answer.read()
                    refuse_errors(answer)
                for line in answer.iter_lines():
                    yield from reader.read(line)
        except httpx.TransportError as error:
            raise ConnectionFailed(f"GET /v1/events: {error!r}") from error


class AsyncClient(_Calls[httpx.AsyncClient, AsyncKeys, httpx.AsyncBaseTransport], Async):
    """Talks to one superposed service, asynchronously; arguments, attributes and errors as `Client`."""

    _kinds = (httpx.AsyncClient, AsyncKeys)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    _run, _sleep = _Calls._result, staticmethod(asyncio.sleep)

    async def _request(self, **arguments: Any) -> httpx.Response:
        return await self._http.request(**arguments)

    def task(self, context: ContextLike, **schema: Unpack[TaskFields]) -> AsyncTask:
        """Return a handle on a task, or on any composed context; as `Client.task`."""
        return AsyncTask(self._run, context, schema)

    async def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """Iterate over events, first those after a sequence number, until the server ends the stream."""
        reader, sought = _EventReader(), {} if after is None else {"after": after}
        try:
            async with self._http.stream("GET", "/v1/events", params=sought) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    refuse_errors(answer)
                async for line in answer.aiter_lines():
                    for event in reader.read(line):
                        yield event
        except httpx.TransportError as error:
            raise ConnectionFailed(f"GET /v1/events: {error!r}") from error
