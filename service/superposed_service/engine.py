"""The sole owner of the store: queue in, batch out, journal, apply.

One thread touches torch. Requests wait in two queues, reads (inference) and the rest (updates,
evaluations, registry changes, snapshots). The fairness rule: each turn answers one mixed batch of the
waiting reads, as many as `batch_rows` allows, and then does one thing for the other queue: applies one
committed change, or runs one job. So neither kind waits for more than one of the other. Updates that stand
in line together are committed to the journal together, before the first of them is applied, by a second
thread: meanwhile the engine's answers reads and applies the updates that were committed before. Reads never
see half an update, because nothing else runs on the engine's thread while one is applied.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from superposed.errors import CapacityExceeded
from superposed.learning import Measured, measure_batch
from superposed.store import WeightStore
from superposed.targets import Target, read_targets
from superposed_service.batching import answer_rows
from superposed_service.changes import Change, JsonObject
from superposed_service.errors import DeadlineExceeded, NotReady, Overloaded
from superposed_service.origin import Origin
from superposed_service.rows import Answer, Rows
from superposed_service.settings import Settings
from superposed_service.updates import Update
from superposed_service.writer import Write, Writer, resolve

__all__ = ["Engine"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Job(Generic[T]):
    run: Callable[[Writer], T]
    future: Future[T]


@dataclass
class _Read:
    rows: Rows
    future: asyncio.Future[Answer]
    loop: asyncio.AbstractEventLoop
    begun: bool = False


class Engine:
    """Runs a store on a thread of its own.

    Args:
        writer: The store and the way into it; its own from `start` to `stop`.
        settings: Batch and queue limits.
    """

    def __init__(self, writer: Writer, settings: Settings) -> None:
        self._writer = writer
        self._settings = settings
        self._reads: deque[_Read] = deque()
        self._jobs: deque[_Job[Any] | Write] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._journalling = ThreadPoolExecutor(1, "superposed-journal")
        self._thread = threading.Thread(target=self._loop, name="superposed-engine", daemon=True)

    def start(self) -> None:
        """Begins to work off the queues."""
        self._thread.start()

    def stop(self) -> Writer:
        """Stops admitting, finishes what was admitted, and gives the store back. Blocks until done."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()
        self._journalling.shutdown()
        return self._writer

    @property
    def ready(self) -> bool:
        """Whether requests are admitted."""
        return self._thread.is_alive() and not self._stopping

    @property
    def failure(self) -> str | None:
        """Why nothing is learned until the next start, though inference goes on; or None."""
        return self._writer.ledger.failure

    @property
    def since_snapshot(self) -> tuple[int, int]:
        """How many records, and bytes of rows, came after the newest snapshot."""
        return self._writer.records_since_snapshot, self._writer.bytes_since_snapshot

    # Called on the event loop

    async def infer(self, rows: Rows) -> Answer:
        """Answers rows, in one mixed batch with whatever else is waiting.

        Raises:
            SuperposedError: The rows or contexts cannot be used, or the service cannot answer now.
        """
        self.check_rows(rows)
        loop = asyncio.get_running_loop()
        read = _Read(rows, loop.create_future(), loop)
        self._admit(read)
        try:
            async with asyncio.timeout(self._settings.request_timeout_s):
                return await read.future
        except TimeoutError:
            raise self._late(dropped=not read.begun) from None

    async def update(
        self,
        rows: Rows,
        targets: Sequence[Target],
        steps: int,
        origin: Origin | None = None,
        author: str | None = None,
    ) -> JsonObject:
        """Applies one update and answers what the model knew before it; raises as `change`."""
        self.check_rows(rows)
        if steps > self._settings.max_steps:
            raise CapacityExceeded(
                "more steps than one update may have",
                expected=f"{self._settings.max_steps} at most",
                received=steps,
            )
        return await self.change(Update(rows, targets, steps), origin, author)

    async def change(
        self,
        change: Change,
        origin: Origin | None = None,
        author: str | None = None,
        *,
        limited: bool = True,
    ) -> JsonObject:
        """Journals a change and applies it. When it returns, the change is on the disk.

        Args:
            change: What is asked.
            origin: The request it came from.
            author: Who asks: an API key's id.
            limited: Whether it may take no longer than a request may wait.

        Raises:
            UpdateError: Refused by the arithmetic; the store is as it was, and the refusal is recorded.
            IdempotencyMismatch: The origin's key came with another request.
            IdempotencyInFlight: The same request is being worked on.
            StorageUnavailable: The disk refused; whether the change counts is known after the next start.
            SuperposedError: As `infer`.
        """
        change.author = author
        write = Write(change, origin)
        self._admit(write)
        return await self._answer(write.future, limited=limited)

    async def evaluate(self, rows: Rows, targets: Sequence[Target]) -> Measured:
        """Measures loss and accuracy; nothing is learned. Raises as `infer`."""
        self.check_rows(rows)

        def run(store: WeightStore) -> Measured:
            batch = rows.batch(store)
            return measure_batch(store, batch, read_targets(batch, targets, store.config.network.outputs))

        return await self.call(run)

    async def call(self, run: Callable[[WeightStore], T]) -> T:
        """Runs what changes nothing on the engine's thread, in its turn among the updates."""
        return await self.call_writer(lambda writer: run(writer.store))

    async def call_writer(self, run: Callable[[Writer], T]) -> T:
        """Runs anything else on the engine's thread, in its turn among the updates."""
        future: Future[T] = Future()
        self._admit(_Job(run, future))
        return await self._answer(future)

    def check_rows(self, rows: Rows) -> None:
        """Checks how many there are, before anything looks at each of them.

        Raises:
            CapacityExceeded: More rows, or contexts, than one request may have.
        """
        count = max(len(rows), len(rows.contexts or ()))
        if count > self._settings.max_rows:
            raise CapacityExceeded(
                "more rows than one request may have",
                expected=f"{self._settings.max_rows} at most",
                received=count,
            )

    def _admit(self, request: _Read | _Job[Any] | Write) -> None:
        with self._wake:
            if not self.ready:
                raise NotReady("the service is starting or stopping")
            if len(self._reads) + len(self._jobs) >= self._settings.queue_requests:
                self._drop_cancelled()
            if len(self._reads) + len(self._jobs) >= self._settings.queue_requests:
                raise Overloaded(
                    "too many requests are waiting", expected=f"{self._settings.queue_requests} at most"
                )
            if isinstance(request, _Read):
                self._reads.append(request)
            else:
                self._jobs.append(request)
            self._wake.notify()

    def _drop_cancelled(self) -> None:
        """Makes room from requests that timed out or whose client left."""
        self._reads = deque(read for read in self._reads if not read.future.done())
        self._jobs = deque(job for job in self._jobs if not job.future.cancelled())

    async def _answer(self, future: Future[T], *, limited: bool = True) -> T:
        limit = self._settings.request_timeout_s if limited else None
        try:
            # A request that times out, or whose client left, is dropped if it has not begun.
            return await asyncio.wait_for(asyncio.wrap_future(future), limit)
        except TimeoutError:
            raise self._late(dropped=future.cancelled()) from None

    def _late(self, *, dropped: bool) -> DeadlineExceeded:
        fate = "it was dropped" if dropped else "it had begun, and what it changes is changed"
        return DeadlineExceeded(
            f"no answer in time; {fate}", expected=f"within {self._settings.request_timeout_s} s"
        )

    # On the engine's thread

    def _loop(self) -> None:
        while self._wait():
            reads = self._take_reads()
            if reads:
                self._answer_reads(reads)
            if self._writer.landed:
                self._writer.finish()
            self._take_turn()
            if self._writer.pending:
                self._writer.apply_next()

    def _wait(self) -> bool:
        """Waits for something to do; False once there is nothing left and will not be."""
        with self._wake:
            while not (busy := self._has_work()) and (self._writer.committing or not self._stopping):
                self._wake.wait()
            return busy

    def _has_work(self) -> bool:
        ready = self._writer.pending or self._writer.landed
        return bool(self._reads or ready or (self._jobs and not self._writer.committing))

    def _landed(self, _: Future[Any]) -> None:
        with self._wake:
            self._wake.notify()

    def _take_turn(self) -> None:
        """Runs the next job, or begins to commit the next changes: updates that stand in line together."""
        with self._wake:
            if not (self._jobs and self._writer.may_begin(grouped=_is_grouped(self._jobs[0]))):
                return
            first = self._jobs.popleft()
            group = [first]
            while self._joins(first, len(group)):
                group.append(self._jobs.popleft())
        if isinstance(first, Write):
            writes = [write for write in group if isinstance(write, Write)]
            if (journalled := self._writer.begin(writes, self._journalling)) is not None:
                journalled.add_done_callback(self._landed)
        elif first.future.set_running_or_notify_cancel():
            resolve(first.future, lambda: first.run(self._writer))

    def _joins(self, first: _Job[Any] | Write, taken: int) -> bool:
        """Whether the next in line is an update that may share a transaction with the first."""
        if not self._jobs or taken >= self._settings.commit_records:
            return False
        return _is_grouped(first) and _is_grouped(self._jobs[0])

    def _take_reads(self) -> list[_Read]:
        if self._reads and self._settings.batch_wait_ms:
            self._wait_for_more(time.monotonic() + self._settings.batch_wait_ms / 1000)
        taken: list[_Read] = []
        rows = 0
        with self._wake:
            while self._reads and (not taken or rows + len(self._reads[0].rows) <= self._settings.batch_rows):
                read = self._reads.popleft()
                if not read.future.done():
                    read.begun = True
                    taken.append(read)
                    rows += len(read.rows)
        return taken

    def _wait_for_more(self, until: float) -> None:
        with self._wake:
            while (left := until - time.monotonic()) > 0 and not self._stopping:
                if sum(len(read.rows) for read in self._reads) >= self._settings.batch_rows:
                    return
                self._wake.wait(left)

    def _answer_reads(self, reads: list[_Read]) -> None:
        outcomes = answer_rows(self._writer.store, [read.rows for read in reads])
        answered = list(zip(reads, outcomes, strict=True))
        for loop in {read.loop for read in reads}:  # one wake-up for all of a loop's requests
            mine = [(read.future, outcome) for read, outcome in answered if read.loop is loop]
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                loop.call_soon_threadsafe(_deliver, mine)


def _is_grouped(job: _Job[Any] | Write) -> bool:
    return isinstance(job, Write) and job.change.grouped


def _deliver(outcomes: Sequence[tuple[asyncio.Future[Answer], Answer | Exception]]) -> None:
    """Gives requests their answers, on their event loop."""
    for future, outcome in outcomes:
        if future.done():
            continue  # the client has left, or waited too long
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
