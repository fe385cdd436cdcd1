"""Work that waits for the engine: inference requests, changes, and anything else that needs the store."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from superposed_service.changes.base import Change, JsonObject
from superposed_service.changes.rows import RowBatch
from superposed_service.engine.batcher import InferenceResult
from superposed_service.engine.telemetry import RequestTiming
from superposed_service.storage.idempotency import IdempotencyKey

T = TypeVar("T")
R = TypeVar("R", contravariant=True)


class Reply(Protocol[R]):
    """Gets the result of a request, on its event loop: a future, or what is used as one."""

    def done(self) -> bool:
        """Return True if nothing waits for the result any more."""

    def set_result(self, result: R, /) -> None:
        """Take the result."""

    def set_exception(self, exception: Exception, /) -> None:
        """Take what went wrong."""


class Work(ABC):
    """A request in a queue of the engine."""

    future: Reply[Any] | Future[Any]  # gets the result; done too once its client has left
    cost: int  # rows, or 1 for work without rows
    grouped: bool = False  # True if it may share a journal transaction with the work before it

    @abstractmethod
    def reject(self, error: Exception) -> None:
        """Give it an error instead of its turn; any thread may call it."""


@dataclass
class InferenceRequest(Work):
    """Rows that wait for a result."""

    rows: RowBatch
    future: Reply[InferenceResult]
    loop: asyncio.AbstractEventLoop  # the event loop of the future
    timing: RequestTiming  # when the request began to wait
    inline: bool = False  # True if the event loop may answer it
    begun: bool = False  # True once it was taken out of the queue

    def __post_init__(self) -> None:
        self.cost = max(1, len(self.rows))

    def reject(self, error: Exception) -> None:
        """Give the future an error, on its own event loop."""
        with contextlib.suppress(RuntimeError):  # the loop was closed: no client waits there
            self.loop.call_soon_threadsafe(deliver, [(self.future, error)])


def deliver(outcomes: Sequence[tuple[Reply[T], T | Exception]]) -> None:
    """Give requests their results or errors, on their event loop."""
    for future, outcome in outcomes:
        if future.done():
            continue  # the client has left, or waited too long
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


@dataclass(eq=False)
class _FutureWork(Work, Generic[T]):
    future: Future[T] = field(default_factory=Future, kw_only=True)

    def reject(self, error: Exception) -> None:
        """Give the future an error."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(eq=False)
class PendingWrite(_FutureWork[JsonObject]):
    """A change that waits for its turn."""

    change: Change
    idempotency_key: IdempotencyKey | None = None
    timing: RequestTiming | None = None  # when its request began to wait; None for a decision of the poison detector

    def __post_init__(self) -> None:
        self.cost, self.grouped = max(1, self.change.size), self.change.grouped


@dataclass(eq=False)
class Job(_FutureWork[T]):
    """Any other work on the engine thread: a function of the writer; it costs the rows that it answers, or 1."""

    run: Callable[[Any], T]
    cost: int = 1


def resolve(future: Future[T], work: Callable[[], T]) -> None:
    """Give a future the value that a function returns, or the error that it raises."""
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - belongs to this request, not to the engine
        future.set_exception(error)
