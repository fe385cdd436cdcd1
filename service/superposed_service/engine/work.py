"""Work that waits for the engine: inference requests, changes with their checks at the door, and anything else."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from superposed.store.store import WeightStore
from superposed_service.changes.base import Change, JsonObject, PreparedChange, rejected
from superposed_service.changes.quarantine import AUTHOR
from superposed_service.changes.rows import RowBatch
from superposed_service.engine.batcher import InferenceResult
from superposed_service.engine.telemetry import RequestTiming
from superposed_service.errors import IdempotencyInFlight, IdempotencyMismatch
from superposed_service.storage import Record, TransactionLog
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


# Gets a record and its outcome.
Observer: TypeAlias = Callable[[Record, Future[JsonObject]], None]


@dataclass(frozen=True)
class PreparedWrite:
    """A write whose change was prepared, and may be journalled; its idempotency key has the owner."""

    write: PendingWrite
    change: PreparedChange
    idempotency_key: IdempotencyKey | None = None


def admit(writes: Sequence[PendingWrite], store: WeightStore, log: TransactionLog) -> list[PreparedWrite]:
    """On the engine's thread, while none is journalled: return the changes that may be, and answer the others."""
    entering: dict[str, IdempotencyKey] = {}
    waiting = (write for write in writes if write.future.set_running_or_notify_cancel())
    found = (_let_in(write, store, log, entering) for write in waiting)
    return [write for write in found if write is not None]


def _let_in(
    write: PendingWrite, store: WeightStore, log: TransactionLog, entering: dict[str, IdempotencyKey]
) -> PreparedWrite | None:
    try:
        answer = settled(log, write.idempotency_key, entering)
        if answer is None:
            log.check_writable()
            log.epochs.check_open()
            prepared = write.change.prepare(store)
            if isinstance(prepared, PreparedChange):
                if (key := write.idempotency_key) is not None:  # count it among its owner's
                    owner = prepared.task if write.change.author is None else AUTHOR + write.change.author
                    log.answers.check_room(owner, sum(one.owner == owner for one in entering.values()))
                    key = entering[key.key] = replace(key, owner=owner)
                return PreparedWrite(write, prepared, key)
            answer = prepared
        write.future.set_result(answer)
    except Exception as error:  # noqa: BLE001 - belongs to this request, not to the engine
        write.future.set_exception(error)
    return None


def settled(
    log: TransactionLog, idempotency_key: IdempotencyKey | None, entering: Mapping[str, IdempotencyKey]
) -> JsonObject | None:
    """Return the answer that a request had when it came before; raises what it was refused with.

    `entering` holds the requests of the same group, by key. Raise `IdempotencyMismatch` where the key came with
    another request, `IdempotencyInFlight` while the same request is being worked on.
    """
    if idempotency_key is None:
        return None
    kept = log.answers.find(idempotency_key)
    unanswered = kept is not None and kept.answer is None
    twin = entering.get(idempotency_key.key)
    if twin is not None and twin != idempotency_key:
        raise IdempotencyMismatch("this Idempotency-Key came with another request", received=idempotency_key.key)
    if unanswered:
        log.check_writable()  # after a failed commit no thread works on it any more
    if twin is not None or unanswered:
        text = "the same request is being worked on: ask again for its answer"
        raise IdempotencyInFlight(text, received=idempotency_key.key)
    return None if kept is None or kept.answer is None else rejected(kept.answer)
