"""Changes on their way into the store: checked, committed to the journal in groups, applied in order.

The order is the guarantee: a change is applied only once its record is on the disk, and answered only once
it is applied.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeVar

from superposed import errors as library
from superposed.errors import SuperposedError
from superposed.store import WeightStore
from superposed_service import errors as service
from superposed_service.changes import Change, JsonObject
from superposed_service.errors import (
    IdempotencyInFlight,
    IdempotencyMismatch,
    StorageUnavailable,
)
from superposed_service.exclusions import Exclusions
from superposed_service.guard import Guard
from superposed_service.origin import Origin
from superposed_service.recovery import refusal_entry
from superposed_service.storage import Ledger, Record

__all__ = ["Image", "Write", "Writer", "resolve"]

T = TypeVar("T")
_log = logging.getLogger("superposed")

# The store's digest is noted after every so many records: what a later replay must arrive at.
DIGEST_INTERVAL = 256


@dataclass(frozen=True)
class Write:
    """A change that waits for its turn.

    Args:
        change: What is asked.
        origin: The request it came from, where that has an idempotency key.
        future: Where its answer goes.
    """

    change: Change
    origin: Origin | None = None
    future: Future[JsonObject] = field(default_factory=Future)


@dataclass(frozen=True)
class Image:
    """A store at one moment, ready to become a snapshot.

    Args:
        data: The snapshot's bytes.
        sequence: The store's sequence number.
        exclusions: What was taken out of the past by then.
    """

    data: bytes
    sequence: int
    exclusions: Exclusions


@dataclass(frozen=True)
class _Committed:
    record: Record
    write: Write | None  # None: a refusal's own record, which changes nothing


class Writer:
    """The one way into a store. The engine's thread only.

    Args:
        store: What is changed.
        ledger: Where changes are journalled first.
        guard: Judges what changes do to tasks that they are not about.
        replayed: How many records came after the newest snapshot.

    Attributes:
        store: The store; a rollback puts another in its place.
        records_since_snapshot: How many records a recovery would have to replay.
        bytes_since_snapshot: Their payloads' bytes.
    """

    def __init__(
        self, store: WeightStore, ledger: Ledger, *, guard: Guard | None = None, replayed: int = 0
    ) -> None:
        self.store = store
        self._guard = guard
        self.ledger = ledger
        self.records_since_snapshot = replayed
        self.bytes_since_snapshot = 0
        self._committed: deque[_Committed] = deque()
        self._entering: dict[str, Origin] = {}
        self._digest: tuple[int, str] | None = None

    @property
    def pending(self) -> bool:
        """Whether committed changes wait to be applied."""
        return bool(self._committed)

    def commit(self, writes: Sequence[Write]) -> None:
        """Checks changes and journals the good ones in one transaction; the others are answered at once.

        Only the first may be one that is not `grouped`.
        """
        good = [write for write in writes if self._admit(write)]
        self._entering.clear()
        if not good:
            return
        try:
            entries = [(write.change.signed_entry(), write.origin) for write in good]
            records = self.ledger.commit(entries, digest=self._digest)
        except Exception as error:  # noqa: BLE001 - belongs to these requests, not to the engine
            for write in good:
                write.future.set_exception(error)
            return
        self._digest = None
        self._count(records)
        self._committed.extend(map(_Committed, records, good))

    def _count(self, records: Sequence[Record]) -> None:
        self.records_since_snapshot += len(records)
        self.bytes_since_snapshot += sum(len(record.payload or b"") for record in records)

    def _admit(self, write: Write) -> bool:
        if not write.future.set_running_or_notify_cancel():
            return False
        try:
            answer = self._settled(write.origin)
            if answer is None:
                self._check_writable()
                answer = write.change.check(self.store)
        except Exception as error:  # noqa: BLE001 - belongs to this request, not to the engine
            write.future.set_exception(error)
            return False
        if answer is not None:
            write.future.set_result(answer)
            return False
        if write.origin is not None:
            self._entering[write.origin.key] = write.origin
        return True

    def _settled(self, origin: Origin | None) -> JsonObject | None:
        """The answer that a request had when it came before."""
        if origin is None:
            return None
        kept = self.ledger.answers.find(origin)
        entering = self._entering.get(origin.key)
        if entering is not None and entering != origin:
            raise IdempotencyMismatch("this Idempotency-Key came with another request", received=origin.key)
        if kept is not None and kept.answer is None:
            self._check_writable()  # after a failed commit nobody works on it any more
        if entering is not None or (kept is not None and kept.answer is None):
            raise IdempotencyInFlight(
                "the same request is being worked on: ask again for its answer", received=origin.key
            )
        if kept is None or kept.answer is None:
            return None
        _raise_refusal(kept.answer)
        return kept.answer

    def _check_writable(self) -> None:
        if self.ledger.failure is not None:
            raise StorageUnavailable(
                "the journal failed: nothing is learned until the service is started again",
                received=self.ledger.failure,
            )

    def apply_next(self) -> None:
        """Applies the oldest committed change and answers it."""
        committed = self._committed.popleft()
        record, write = committed.record, committed.write
        if write is None:
            self.store.sequence += 1
            return
        resolve(write.future, lambda: self._apply(record, write))
        if self._guard is not None and write.future.exception() is None:
            self._watch(self._guard, record, write.change)

    def _watch(self, guard: Guard, record: Record, change: Change) -> None:
        """Journals what the guard decides; it is applied in its turn."""
        try:
            if decisions := guard.applied(self.store, record, change):
                records = self.ledger.commit([(decision.entry(), None) for decision in decisions])
                self._count(records)
                self._committed.extend(map(_Committed, records, map(Write, decisions)))
        except Exception:  # noqa: BLE001 - the change itself is applied and answered
            _log.exception("the guard failed after record %s", record.sequence)

    def _apply(self, record: Record, write: Write) -> JsonObject:
        try:
            answer = write.change.apply(self.store)
        except SuperposedError as error:
            self.store.sequence = record.sequence
            self._refuse(record, write, error)
            raise
        except BaseException as error:
            # What it left of the store is not known: the next start builds it again from the journal.
            self.ledger.fail(f"record {record.sequence} could not be applied: {error!r}")
            raise
        if self.store.sequence != record.sequence:
            self.ledger.fail(f"record {record.sequence} was applied as {self.store.sequence}")
        self._settle(write.origin, answer)
        if self.store.sequence % DIGEST_INTERVAL == 0:
            self._digest = (self.store.sequence, self.store.digest())
        _raise_refusal(answer)
        return answer

    def _refuse(self, record: Record, write: Write, error: SuperposedError) -> None:
        entry = refusal_entry(record.sequence, error)
        records = self.ledger.commit([(entry, None)])
        self._count(records)
        self._committed.append(_Committed(records[0], None))
        self._settle(write.origin, dict(entry.head["answer"]))

    def _settle(self, origin: Origin | None, answer: JsonObject) -> None:
        if origin is not None:
            self.ledger.answers.settle(origin.key, answer)

    def answer_to(self, origin: Origin | None) -> JsonObject | None:
        """The answer that a request had when it came before; raises what it was refused with."""
        return self._settled(origin)

    def image(self) -> Image:
        """The store as a snapshot's bytes; what was answered so far is kept first.

        Raises:
            StorageUnavailable: The disk refused.
        """
        while self.pending:  # a snapshot stands between records, never among committed ones
            self.apply_next()
        self._check_writable()
        self.ledger.flush()
        self.records_since_snapshot = self.bytes_since_snapshot = 0
        exclusions = Exclusions.read(self.ledger.journal, self.ledger.journal.sequence)
        return Image(self.store.to_bytes(), self.store.sequence, exclusions)


def resolve(future: Future[T], work: Callable[[], T]) -> None:
    """Gives a future what the work returns or raises."""
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001 - belongs to this request, not to the engine
        future.set_exception(error)


def _raise_refusal(answer: JsonObject) -> None:
    if (refused := answer.get("refused")) is not None:
        name = refused["error"]
        kind: type[SuperposedError] = getattr(library, name, None) or getattr(service, name)
        raise kind(refused["message"], expected=refused["expected"], received=refused["received"])
