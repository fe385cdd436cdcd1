"""The asynchronous client: the same operations as `Client`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from superposed_client import _operations as operations
from superposed_client._async_handle import AsyncTask
from superposed_client._contexts import ContextLike
from superposed_client._core import (
    Operation,
    Request,
    Response,
    RetryPolicy,
    credentials,
    refuse_errors,
    unreachable,
)
from superposed_client._errors import ConnectionFailed
from superposed_client._events import EventReader, events_params
from superposed_client._keys import AsyncKeys
from superposed_client._models import (
    Capacity,
    Consolidation,
    Erasure,
    EvaluatedAccuracy,
    Evaluation,
    Event,
    Inference,
    Interference,
    LearnedModel,
    Located,
    Quarantine,
    Relabelling,
    Rollback,
    Snapshot,
    StoreInfo,
    TaskInfo,
    Update,
)
from superposed_client._operations import Inputs, Targets
from superposed_client._task import TaskCore, TaskFields, TaskSchema

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """Talks to one superposed service.

    Args:
        base_url: Where it is, for example `http://127.0.0.1:8000`.
        api_key: The server's API key for this client; default `$SUPERPOSED_API_KEY`, if that is set.
        timeout_s: How long one request may take.
        retries: When requests are sent again.
        transport: An httpx transport, for tests.

    Attributes:
        keys: The server's API keys.

    Every call raises `ApiError` (its class says which problem), `ConnectionFailed`, or
    `UnexpectedAnswer`.

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
        self._retries = retries or RetryPolicy()
        self._http = httpx.AsyncClient(
            base_url=base_url, headers=credentials(api_key), timeout=timeout_s, transport=transport
        )
        self.keys = AsyncKeys(self._run)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
                response = await self._send_once(request)
            except httpx.TransportError as error:
                if (pause := next(pauses, None)) is None:
                    raise ConnectionFailed(unreachable(str(self._http.base_url), request, error)) from None
            else:
                if not self._retries.again(response) or (pause := next(pauses, None)) is None:
                    return response
                pause = self._retries.after(response, pause)
            await asyncio.sleep(pause)

    async def _send_once(self, request: Request) -> Response:
        content, headers = request.encoded()
        answer = await self._http.request(
            request.method,
            request.path,
            content=content,
            params=dict(request.params),
            headers=headers,
        )
        return Response(answer.status_code, answer.content, answer.headers)

    def task(self, context: ContextLike, **schema: Unpack[TaskFields]) -> AsyncTask:
        """Return a handle on a task, or on any composed context, in scikit-learn's habit.

        Nothing is sent yet: with labels or outputs the task is registered with its first rows.

        Args:
            context: A task key, a text expression, or a composed context.
            schema: What to register the task with: see `TaskFields`.
        """
        return AsyncTask(self, TaskCore(context, TaskSchema(**schema)))

    async def infer(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        *,
        contexts: Iterable[ContextLike] | None = None,
        fields: Sequence[str] | None = None,
        k: int | None = None,
    ) -> Inference:
        """Answer rows of one context (`context`), or of one each (`contexts`, with `context=None`)."""
        return await self._run(operations.infer(context, inputs, contexts, fields, k))

    async def update(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        targets: Targets,
        *,
        contexts: Iterable[ContextLike] | None = None,
        steps: int = 1,
        grow_labels: bool = False,
        sample_weight: Any = None,
        idempotency_key: str | None = None,
    ) -> Update:
        """Learn rows; the answer is what the model knew before.

        Sent again with the same idempotency key it is still learned once; each call has a new key unless
        it is given one.
        """
        return await self._run(
            operations.update(
                context,
                inputs,
                targets,
                contexts,
                steps,
                idempotency_key,
                grow_labels=grow_labels,
                sample_weight=sample_weight,
            )
        )

    async def relabel(self, sequence: int, targets: Sequence[Any]) -> Relabelling:
        """Correct the targets of an update: it is taken out, and its rows are learned with these.

        Args:
            sequence: The update's sequence number, as its answer gave it.
            targets: One a row; None for a row whose target was right.
        """
        return await self._run(operations.relabel(sequence, targets))

    async def evaluate(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        targets: Targets,
        *,
        contexts: Iterable[ContextLike] | None = None,
    ) -> Evaluation:
        """Return loss and accuracy on labelled rows."""
        return await self._run(operations.evaluate(context, inputs, targets, contexts))

    async def register_task(self, key: str, **schema: Any) -> TaskInfo:
        """Register a task: the fields of `POST /v1/tasks`, as plain values or as `task` takes them."""
        return await self._run(operations.register({"key": key, **schema}))

    async def alter_task(
        self,
        key: str,
        *,
        add_labels: Sequence[Any] | None = None,
        offset: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        schema_version: int | None = None,
    ) -> TaskInfo:
        """Add labels to a task, or scale its rows otherwise.

        Args:
            key: The task.
            add_labels: Labels to add after those that the task has; present ones are passed over.
            offset: Subtracted from each feature, (inputs,).
            scale: Each feature is divided by it, (inputs,).
            schema_version: Version of the schema that is changed; another one raises `SchemaChanged`.
        """
        return await self._run(operations.alter_task(key, add_labels, offset, scale, schema_version))

    async def get_task(self, key: str) -> TaskInfo:
        """Return a task's schema and counters."""
        return await self._run(operations.get_task(key))

    async def list_tasks(self, prefix: str = "") -> list[TaskInfo]:
        """Return every task whose key starts with `prefix`."""
        return await self._run(operations.list_tasks(prefix))

    async def evaluations(self, key: str) -> list[EvaluatedAccuracy]:
        """Return the evaluations of a task at different numbers of tasks."""
        return await self._run(operations.evaluations(key))

    async def interference(self, keys: Sequence[str]) -> Interference:
        """Return overlap and crosstalk of up to 24 tasks."""
        return await self._run(operations.interference(keys))

    async def delete_task(self, key: str) -> None:
        """Forget a task."""
        await self._run(operations.delete_task(key))

    async def store(self) -> StoreInfo:
        """Return the store's description."""
        return await self._run(operations.store())

    async def capacity(self) -> Capacity:
        """Return the store's fill level."""
        return await self._run(operations.capacity())

    async def model(self, context: ContextLike) -> bytes:
        """Return a context's model as an ordinary network: a safetensors file's bytes."""
        return await self._run(operations.model(context))

    async def learn_model(
        self, key: str, model: bytes | Mapping[str, Any], rows: Inputs, *, epochs: int = 10, **facts: str
    ) -> LearnedModel:
        """Have a task learn a trained network from what that answers to unlabelled rows.

        Args:
            key: The task.
            model: What `model` gave; or the tensors `layers.{i}.weight` (outputs, inputs) and
                `layers.{i}.bias` (outputs,) of an ordinary network.
            rows: (rows, inputs); some of them are held out, to measure how well the two agree.
            epochs: How often the rows are gone through.
            facts: For tensors: `activation` (default relu) and `normalisation` (none, or layer).
        """
        return await self._run(operations.learn_model(key, model, rows, epochs, **facts))

    async def locate(
        self,
        inputs: Inputs,
        targets: Targets | None = None,
        *,
        candidates: Iterable[ContextLike] | None = None,
        exponent_of: str | None = None,
        exponents: tuple[float, float] | None = None,
    ) -> Located:
        """Find the context that rows of one stream fit best: of all tasks, of candidates, or a power."""
        return await self._run(operations.locate(inputs, targets, candidates, exponent_of, exponents))

    async def consolidate(self, steps: int) -> Consolidation:
        """Have the server rehearse the rows that it keeps of all tasks."""
        return await self._run(operations.consolidate(steps))

    async def take_snapshot(self) -> Snapshot:
        """Have the server write a snapshot."""
        return await self._run(operations.take_snapshot())

    async def list_snapshots(self) -> list[Snapshot]:
        """Return the snapshots on the server's disk, oldest first."""
        return await self._run(operations.list_snapshots())

    async def restore_snapshot(self, identifier: str) -> Rollback:
        """Go back to a snapshot: a rollback to its sequence number."""
        return await self._run(operations.restore_snapshot(identifier))

    async def roll_back(
        self,
        *,
        to_sequence: int | None = None,
        task: str | None = None,
        sequences: tuple[int, int] | None = None,
        api_key: str | None = None,
    ) -> Rollback:
        """Take records out of the store's past; give exactly one.

        Args:
            to_sequence: All that came after this sequence number.
            task: Every update of this task, also of compositions that contain it.
            sequences: First and last of a range, both included.
            api_key: Every update that the API key of this id sent.
        """
        return await self._run(operations.roll_back(to_sequence, task, sequences, api_key))

    async def erase_rows(self, key: str) -> Erasure:
        """Erase a task's rows from the server's disk; what they taught stays in the weights."""
        return await self._run(operations.erase_rows(key))

    async def quarantine(self, source: str, *, reason: str = "") -> Quarantine:
        """Have a source's updates recorded and not learned from; `source` is a task key or `key:<id>`."""
        return await self._run(operations.quarantine(source, reason))

    async def release(self, source: str) -> None:
        """Have a source's updates learned from again."""
        await self._run(operations.release(source))

    async def list_quarantine(self) -> list[Quarantine]:
        """Return the sources in quarantine, since when, and why."""
        return await self._run(operations.list_quarantine())

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

    async def ready(self) -> bool:
        """Return True if the server admits requests."""
        return await self._run(operations.ready())
