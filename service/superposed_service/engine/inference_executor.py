"""Waiting reads become answers: on the engine's thread, or at once on the event loop that they came in on.

A batch of a few rows takes less time than to hand it to the engine's thread. So while the engine has nothing to do,
small batches are answered on the event loop (docs/decisions/0031-answering-on-the-event-loop.md).
"""

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence

from superposed_service.changes.rows import RowBatch
from superposed_service.engine.batcher import answer_rows
from superposed_service.engine.request_queues import RequestQueues
from superposed_service.engine.work import InferenceRequest, deliver
from superposed_service.engine.writer import Writer
from superposed_service.settings import Settings

_log = logging.getLogger("superposed")

# So long may the arithmetic of one batch hold the event loop up.
_LOOP_S = 0.001
# How many rows are timed to find out how many take that long; with fewer than these there are none at all.
_TIMED_ROWS = 64
_FEWEST_ROWS = 8
# More than one batch may wait for the event loop where the requests have no more rows than this, on average.
_SMALL_REQUEST_ROWS = 4


class InferenceExecutor:
    """Answers the reads in line.

    `wake` is the lock of the lines, which the engine's thread waits for. `is_idle` says whether the engine has
    nothing else to do than to answer reads.
    """

    def __init__(
        self,
        writer: Writer,
        queues: RequestQueues,
        wake: threading.Condition,
        settings: Settings,
        is_idle: Callable[[], bool],
    ) -> None:
        self._writer, self._queues, self._wake = writer, queues, wake
        self._settings, self._is_idle = settings, is_idle
        # Held by the owner of the store: the engine thread for a turn, the event loop for a batch.
        self.turn = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # where a batch is due
        self._seen = 0  # reads in line when it was last looked
        self._loop_rows = 0

    def measure(self) -> None:
        """Measure the number of rows that the event loop may answer, before the first request."""
        if self._settings.batch_wait_ms or self._writer.store.device.type != "cpu":
            return  # a GPU's work is for one thread
        store = self._writer.store
        if store.answer_seconds(_FEWEST_ROWS) > 2 * _LOOP_S:
            return
        rows = int(min(self._settings.batch_rows, _TIMED_ROWS * _LOOP_S / store.answer_seconds(_TIMED_ROWS)))
        # A few rows of a wide network cost more than their part of many.
        if rows >= _FEWEST_ROWS and store.answer_seconds(rows) <= 2 * _LOOP_S:
            self._loop_rows = rows

    def is_inline(self, rows: RowBatch) -> bool:
        """Return True if the event loop may answer rows: few, of one context that is materialised."""
        few = rows.contexts is None and len(rows) <= self._loop_rows
        return few and self._writer.store.has_at_hand(rows.context)

    # On the engine's thread

    def answer(self) -> int:
        """Answer one mixed batch of waiting requests; return its number of rows."""
        if self._queues.reads and self._settings.batch_wait_ms:
            with self._wake:  # for more
                self._wake.wait_for(
                    lambda: self._queues.reads.size >= self._settings.batch_rows or not self._is_idle(),
                    self._settings.batch_wait_ms / 1000,
                )
        return self._answer(self._take(self._settings.batch_rows), None)

    def _take(self, most: int, *, inline: bool = False) -> list[InferenceRequest]:
        taken: list[InferenceRequest] = []
        with self._wake:
            while (read := self._queues.next_read(most, first=not taken, inline=inline)) is not None:
                taken.append(read)
                most -= len(read.rows)
        return taken

    def _answer(self, reads: Sequence[InferenceRequest], here: asyncio.AbstractEventLoop | None) -> int:
        if not reads:
            return 0
        began = time.perf_counter()
        outcomes = answer_rows(self._writer.store, [read.rows for read in reads])
        self._writer.telemetry.answered([read.timing for read in reads], outcomes, began)
        answered = list(zip(reads, outcomes, strict=True))
        for loop in {read.loop for read in reads}:  # one wake-up for all of a loop's requests
            mine = [(read.future, outcome) for read, outcome in answered if read.loop is loop]
            if loop is here:
                deliver(mine)
                continue
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: no client waits
                loop.call_soon_threadsafe(deliver, mine)
        return sum(len(read.rows) for read in reads)

    # On the event loop

    def soon(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Schedule waiting requests on this event loop if they are few; return False if not.

        The caller, on that event loop, holds the lock of the queues, and has put a request there.
        """
        if self._loop is loop:  # due: it is looked at then
            return True
        if self.turn.locked() or not self._suits_loop():
            return False
        self._loop, self._seen = loop, len(self._queues.reads)
        # Not in the context of the request that happened to be first.
        loop.call_soon(self._answer_here, loop, context=contextvars.Context())
        return True

    def _suits_loop(self) -> bool:
        reads = self._queues.reads
        most = max(self._loop_rows, _SMALL_REQUEST_ROWS * len(reads))
        head = reads.peek()
        return head is not None and head.work.inline and reads.size <= most and self._is_idle()

    def _answer_here(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._wake:
            seen, self._seen = self._seen, len(self._queues.reads)
            more = seen < self._seen and self._queues.reads.size < self._loop_rows
        if more:  # the next turn of the event loop may bring requests too
            loop.call_soon(self._answer_here, loop, context=contextvars.Context())
            return
        self._loop = None
        if self.turn.acquire(blocking=False):
            try:
                self._answer_few(loop)
            finally:
                self.turn.release()
        with self._wake:
            if self._queues.reads and not self.soon(loop):
                self._wake.notify()

    def _answer_few(self, loop: asyncio.AbstractEventLoop) -> None:
        began = time.monotonic()
        with self._wake:
            few = self._suits_loop()
        reads = self._take(self._loop_rows, inline=True) if few else []
        try:
            rows = self._answer(reads, loop)
        except Exception as error:  # noqa: BLE001 - a bug: the requests get it, and the loop goes on
            _log.exception("a batch failed on the event loop")
            deliver([(read.future, error) for read in reads])
            return
        if rows:
            with self._wake:
                self._queues.reads.service_time.note(rows, time.monotonic() - began)
