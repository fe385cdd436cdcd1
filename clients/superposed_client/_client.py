"""The synchronous client: a thin shell that sends what the core builds."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx
from numpy.typing import NDArray

from superposed_client import _operations as operations
from superposed_client._contexts import ContextLike
from superposed_client._core import Operation, Request, Response, RetryPolicy, credentials
from superposed_client._errors import ConnectionFailed
from superposed_client._models import (
    Capacity,
    Evaluation,
    Inference,
    Quarantine,
    Rollback,
    Snapshot,
    StoreInfo,
    TaskInfo,
    Update,
)
from superposed_client._operations import Inputs, Targets
from superposed_client._task import TaskCore, TaskFields, TaskSchema

__all__ = ["Client", "Task"]

T = TypeVar("T")


class Client:
    """Talks to one superposed service.

    Args:
        base_url: Where it is, for example `http://127.0.0.1:8000`.
        api_key: The server's API key for this client; default `$SUPERPOSED_API_KEY`, if that is set.
        timeout_s: How long one request may take.
        retries: When requests are sent again.
        transport: An httpx transport, for tests.

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
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
                    raise ConnectionFailed(f"{request.method} {request.path}: {error!r}") from error
            else:
                if not self._retries.again(response) or (pause := next(pauses, None)) is None:
                    return response
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
        """A handle on a task, or on any composed context, in scikit-learn's habit.

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
    ) -> Inference:
        """Answers rows of one context (`context`), or of one each (`contexts`, with `context=None`)."""
        return self._run(operations.infer(context, inputs, contexts, fields))

    def update(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        targets: Targets,
        *,
        contexts: Iterable[ContextLike] | None = None,
        steps: int = 1,
        idempotency_key: str | None = None,
    ) -> Update:
        """Learns rows; the answer is what the model knew before.

        Sent again with the same idempotency key it is still learned once; each call has a new key unless
        it is given one.
        """
        return self._run(operations.update(context, inputs, targets, contexts, steps, idempotency_key))

    def evaluate(
        self,
        context: ContextLike | None,
        inputs: Inputs,
        targets: Targets,
        *,
        contexts: Iterable[ContextLike] | None = None,
    ) -> Evaluation:
        """Loss and accuracy on labelled rows."""
        return self._run(operations.evaluate(context, inputs, targets, contexts))

    def register_task(self, key: str, **schema: Any) -> TaskInfo:
        """Registers a task: `labels` or `outputs`; optionally inputs, loss, offset, scale, description."""
        return self._run(operations.register({"key": key, **schema}))

    def get_task(self, key: str) -> TaskInfo:
        """A task's schema and counters."""
        return self._run(operations.get_task(key))

    def list_tasks(self, prefix: str = "") -> list[TaskInfo]:
        """Every task whose key starts with `prefix`."""
        return self._run(operations.list_tasks(prefix))

    def delete_task(self, key: str) -> None:
        """Forgets a task."""
        self._run(operations.delete_task(key))

    def store(self) -> StoreInfo:
        """What the store is."""
        return self._run(operations.store())

    def capacity(self) -> Capacity:
        """How full the store is."""
        return self._run(operations.capacity())

    def model(self, context: ContextLike) -> bytes:
        """A context's model as an ordinary network: a safetensors file's bytes."""
        return self._run(operations.model(context))

    def take_snapshot(self) -> Snapshot:
        """Has the server write a snapshot."""
        return self._run(operations.take_snapshot())

    def list_snapshots(self) -> list[Snapshot]:
        """The snapshots on the server's disk, oldest first."""
        return self._run(operations.list_snapshots())

    def restore_snapshot(self, identifier: str) -> Rollback:
        """Goes back to a snapshot: a rollback to its sequence number."""
        return self._run(operations.restore_snapshot(identifier))

    def roll_back(
        self,
        *,
        to_sequence: int | None = None,
        task: str | None = None,
        sequences: tuple[int, int] | None = None,
        api_key: str | None = None,
    ) -> Rollback:
        """Takes records out of the store's past; give exactly one.

        Args:
            to_sequence: All that came after this sequence number.
            task: Every update of this task, also of compositions that contain it.
            sequences: First and last of a range, both included.
            api_key: Every update that the API key of this id sent.
        """
        return self._run(operations.roll_back(to_sequence, task, sequences, api_key))

    def erase_rows(self, key: str) -> None:
        """Erases a task's rows from the server's disk; what they taught stays in the weights."""
        self._run(operations.erase_rows(key))

    def quarantine(self, source: str, *, reason: str = "") -> Quarantine:
        """Has a source's updates recorded and not learned from; `source` is a task key or `key:<id>`."""
        return self._run(operations.quarantine(source, reason))

    def release(self, source: str) -> None:
        """Has a source's updates learned from again."""
        self._run(operations.release(source))

    def list_quarantine(self) -> list[Quarantine]:
        """Who is in quarantine, since when and why."""
        return self._run(operations.list_quarantine())

    def ready(self) -> bool:
        """Whether the server admits requests."""
        return self._run(operations.ready())


class Task:
    """A handle on one context, in scikit-learn's habit. Made by `Client.task`.

    Attributes:
        last_update: What the newest update found, or None.
    """

    def __init__(self, client: Client, core: TaskCore) -> None:
        self._client = client
        self._core = core

    @property
    def context(self) -> ContextLike:
        """The context that rows are bound with."""
        return self._core.context

    @property
    def last_update(self) -> Update | None:
        """What the newest update found, or None."""
        return self._core.last_update

    def partial_fit(self, X: Inputs, y: Targets, *, steps: int = 1) -> Self:  # noqa: N803 - as scikit-learn
        """One online update on rows (B, features) and B targets."""
        self._client._run(self._core.partial_fit(X, y, steps))
        return self

    def fit(
        self,
        X: Inputs,  # noqa: N803
        y: Targets,
        *,
        batch_size: int = 32,
        epochs: int = 1,
        seed: int | None = None,
        progress: bool = False,
    ) -> Self:
        """Updates over shuffled rows, `epochs` times; goes on from what the task knows already."""
        self._client._run(self._core.fit(X, y, batch_size, epochs, seed, progress))
        return self

    def predict(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Labels (rows,) for cross-entropy; values (rows,) or (rows, outputs) for mse."""
        return self._client._run(self._core.predict(X))

    def predict_proba(self, X: Inputs) -> NDArray[Any]:  # noqa: N803
        """Probabilities (rows, classes)."""
        return self._client._run(self._core.predict_proba(X))

    def score(self, X: Inputs, y: Targets) -> float:  # noqa: N803
        """Accuracy for cross-entropy, R² for mse."""
        return self._client._run(self._core.score(X, y))
