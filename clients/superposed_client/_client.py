"""The synchronous client: a thin shell that sends what the core builds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from superposed_client import _operations as operations
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
from superposed_client._handle import Task
from superposed_client._keys import Keys
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

__all__ = ["Client"]

T = TypeVar("T")


class Client:
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
        >>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
        ...     digits = client.task("digits", labels=range(10))
        ...     digits.fit(X_train, y_train, epochs=5, progress=True)
        ...     digits.score(X_test, y_test)
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._retries = retries or RetryPolicy()
        self._http = httpx.Client(
            base_url=base_url, headers=credentials(api_key), timeout=timeout_s, transport=transport
        )
        self.keys = Keys(self._run)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _run(self, operation: Operation[T]) -> T:
        try:
            request = next(operation)
            while True:
                request = operation.send(self._send(request))
        except StopIteration as done:
            result: T = done.value
            return result

    def _send(self, request: Request) -> Response:
        pauses = self._retries.pauses(request)
        while True:
            try:
                response = self._send_once(request)
            except httpx.TransportError as error:
                if (pause := next(pauses, None)) is None:
                    raise ConnectionFailed(unreachable(str(self._http.base_url), request, error)) from None
            else:
                if not self._retries.again(response) or (pause := next(pauses, None)) is None:
                    return response
                pause = self._retries.after(response, pause)
            time.sleep(pause)

    def _send_once(self, request: Request) -> Response:
        content, headers = request.encoded()
        answer = self._http.request(
            request.method,
            request.path,
            content=content,
            params=dict(request.params),
            headers=headers,
        )
        return Response(answer.status_code, answer.content, answer.headers)

    def task(self, context: ContextLike, **schema: Unpack[TaskFields]) -> Task:
        """Return a handle on a task, or on any composed context, in scikit-learn's habit.

        Nothing is sent yet: with labels or outputs the task is registered with its first rows.

        Args:
            context: A task key, a text expression, or a composed context.
            schema: What to register the task with: see `TaskFields`.
        """
        return Task(self, TaskCore(context, TaskSchema(**schema)))

    def infer(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        *,
        contexts: Iterable[ContextLike] | None = None,
        fields: Sequence[str] | None = None,
        k: int | None = None,
    ) -> Inference:
        """Answer rows of one context (`context`), or of one each (`contexts`, with `context=None`)."""
        return self._run(operations.infer(context, inputs, contexts, fields, k))

    def update(
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
        return self._run(
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

    def relabel(self, sequence: int, targets: Sequence[Any]) -> Relabelling:
        """Correct the targets of an update: it is taken out, and its rows are learned with these.

        Args:
            sequence: The update's sequence number, as its answer gave it.
            targets: One a row; None for a row whose target was right.
        """
        return self._run(operations.relabel(sequence, targets))

    def evaluate(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        targets: Targets,
        *,
        contexts: Iterable[ContextLike] | None = None,
    ) -> Evaluation:
        """Return loss and accuracy on labelled rows."""
        return self._run(operations.evaluate(context, inputs, targets, contexts))

    def register_task(self, key: str, **schema: Any) -> TaskInfo:
        """Register a task: the fields of `POST /v1/tasks`, as plain values or as `task` takes them."""
        return self._run(operations.register({"key": key, **schema}))

    def alter_task(
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
        return self._run(operations.alter_task(key, add_labels, offset, scale, schema_version))

    def get_task(self, key: str) -> TaskInfo:
        """Return a task's schema and counters."""
        return self._run(operations.get_task(key))

    def list_tasks(self, prefix: str = "") -> list[TaskInfo]:
        """Return every task whose key starts with `prefix`."""
        return self._run(operations.list_tasks(prefix))

    def evaluations(self, key: str) -> list[EvaluatedAccuracy]:
        """Return the evaluations of a task at different numbers of tasks."""
        return self._run(operations.evaluations(key))

    def interference(self, keys: Sequence[str]) -> Interference:
        """Return overlap and crosstalk of up to 24 tasks."""
        return self._run(operations.interference(keys))

    def delete_task(self, key: str) -> None:
        """Forget a task."""
        self._run(operations.delete_task(key))

    def store(self) -> StoreInfo:
        """Return the store's description."""
        return self._run(operations.store())

    def capacity(self) -> Capacity:
        """Return the store's fill level."""
        return self._run(operations.capacity())

    def model(self, context: ContextLike) -> bytes:
        """Return a context's model as an ordinary network: a safetensors file's bytes."""
        return self._run(operations.model(context))

    def learn_model(
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
        return self._run(operations.learn_model(key, model, rows, epochs, **facts))

    def locate(
        self,
        inputs: Inputs,
        targets: Targets | None = None,
        *,
        candidates: Iterable[ContextLike] | None = None,
        exponent_of: str | None = None,
        exponents: tuple[float, float] | None = None,
    ) -> Located:
        """Find the context that rows of one stream fit best: of all tasks, of candidates, or a power."""
        return self._run(operations.locate(inputs, targets, candidates, exponent_of, exponents))

    def consolidate(self, steps: int) -> Consolidation:
        """Have the server rehearse the rows that it keeps of all tasks."""
        return self._run(operations.consolidate(steps))

    def take_snapshot(self) -> Snapshot:
        """Have the server write a snapshot."""
        return self._run(operations.take_snapshot())

    def list_snapshots(self) -> list[Snapshot]:
        """Return the snapshots on the server's disk, oldest first."""
        return self._run(operations.list_snapshots())

    def restore_snapshot(self, identifier: str) -> Rollback:
        """Go back to a snapshot: a rollback to its sequence number."""
        return self._run(operations.restore_snapshot(identifier))

    def roll_back(
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
        return self._run(operations.roll_back(to_sequence, task, sequences, api_key))

    def erase_rows(self, key: str) -> Erasure:
        """Erase a task's rows from the server's disk; what they taught stays in the weights."""
        return self._run(operations.erase_rows(key))

    def quarantine(self, source: str, *, reason: str = "") -> Quarantine:
        """Have a source's updates recorded and not learned from; `source` is a task key or `key:<id>`."""
        return self._run(operations.quarantine(source, reason))

    def release(self, source: str) -> None:
        """Have a source's updates learned from again."""
        self._run(operations.release(source))

    def list_quarantine(self) -> list[Quarantine]:
        """Return the sources in quarantine, since when, and why."""
        return self._run(operations.list_quarantine())

    def events(self, *, after: int | None = None) -> Iterator[Event]:
        """Iterate over events, first those after a sequence number, until the server ends the stream."""
        reader = EventReader()
        try:
            with self._http.stream("GET", "/v1/events", params=events_params(after)) as answer:
                if answer.status_code != 200:
                    refuse_errors(Response(answer.status_code, answer.read(), answer.headers))
                for line in answer.iter_lines():
                    yield from reader.read(line)
        except httpx.TransportError as error:
            raise ConnectionFailed(f"GET /v1/events: {error!r}") from error

    def ready(self) -> bool:
        """Return True if the server admits requests."""
        return self._run(operations.ready())
