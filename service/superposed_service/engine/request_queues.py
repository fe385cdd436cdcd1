"""The two request queues of the engine, inference requests and jobs: admission and eviction.

A request whose estimated wait exceeds `queue_delay_ms` or its deadline is rejected on arrival, before it has
cost anything. In a full queue the newest request of the source with most requests is evicted.
"""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

from superposed_service.engine.fair_queue import FairQueue, QueueEntry
from superposed_service.engine.request_metadata import RequestMetadata
from superposed_service.engine.work import InferenceRequest, Work
from superposed_service.errors import DeadlineExceeded, Overloaded
from superposed_service.settings import Settings

W = TypeVar("W", bound=Work)


class RequestQueues:
    """Both queues. Callers hold a lock, except for `check_wait`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.reads: FairQueue[InferenceRequest] = FairQueue(settings.batch_rows)
        self.jobs: FairQueue[Work] = FairQueue()

    def __len__(self) -> int:
        return len(self.reads) + len(self.jobs)

    def join(self, work: Work, caller: RequestMetadata, committed: int) -> None:
        """Let work wait for its turn; `committed` changes have left the queue and are not applied yet.

        Raise `Overloaded` where there is no room, or its turn would come too late.
        """
        size, reads = work.cost, isinstance(work, InferenceRequest)
        deadline = math.inf if caller.deadline is None else caller.deadline
        self.check_wait(caller, committed, reads=reads, size=size)
        if len(self) >= self._settings.queue_requests:
            self._make_room(caller)
        line: FairQueue[Any] = self.reads if reads else self.jobs
        line.push(work, caller.source, size, deadline)

    def check_wait(self, caller: RequestMetadata, committed: int, *, reads: bool, size: int = 1) -> None:
        """Check whether a turn would come in time. Needs no lock. Raises as `join`."""
        line: FairQueue[Any] = self.reads if reads else self.jobs
        more_s = 0.0 if reads else line.service_time.seconds(committed, committed)
        late = "too much is waiting: the answer would come too late"
        line.check_wait(caller, size, self._settings.queue_delay_ms / 1000, late, more_s=more_s)

    def _make_room(self, caller: RequestMetadata) -> None:
        """Evict requests whose clients have left, or else the newest request of the largest source."""
        lines: list[FairQueue[Any]] = [self.reads, self.jobs]
        for line in lines:
            line.drop([entry for entry in line if entry.work.future.done()])
        if len(self) < (most := self._settings.queue_requests):
            return
        for line in sorted(lines, key=len, reverse=True):
            if (entry := line.newest_of_largest(than=caller.source)) is not None:
                line.drop([entry])
                entry.work.reject(Overloaded("sent away for others: too many of this API key's requests are waiting"))
                return
        raise Overloaded("too many requests are waiting", expected=f"{most} at most")

    def next_read(self, rows_left: int, *, first: bool, inline: bool = False) -> InferenceRequest | None:
        """Take the next read out, if it has no more rows than that or is the first; None if not.

        With `inline` also only if it may be answered on the event loop.
        """
        entry = self._next_wanted(self.reads)
        if entry is None or (entry.size > rows_left and not first) or (inline and not entry.work.inline):
            return None
        self.reads.pop()
        entry.work.begun = True
        return entry.work

    def next_jobs(self, most: int, may_begin: Callable[[bool], bool]) -> list[Work]:
        """Take the next job out; or the changes that stand in line together, as many as share a commit.

        What is committed is past all sharing: it may take a quarter of what one may wait, no more. A commit has
        `most` changes at most. `may_begin` says whether now is the time for a change that may share its commit
        (True), or for anything else.
        """
        taken: list[Work] = []
        size, most_s = 0, self._settings.queue_delay_ms / 4000
        while (entry := self._next_wanted(self.jobs)) is not None:
            grouped = entry.work.grouped
            size += entry.size
            long = self.jobs.service_time.seconds(len(taken) + 1, size) > most_s
            enough = taken and (long or len(taken) >= most or not grouped)
            if enough or not may_begin(grouped):
                break
            self.jobs.pop()
            taken.append(entry.work)
            if not grouped:
                break
        return taken

    def _next_wanted(self, line: FairQueue[W]) -> QueueEntry[W] | None:
        """Return the next entry whose client still waits; a late job is told so, a late read by its own timer."""
        while (entry := line.peek()) is not None:
            late = entry.deadline <= time.monotonic()
            if not (late or entry.work.future.done()):
                return entry
            line.pop()
            if late and not isinstance(entry.work, InferenceRequest):
                entry.work.reject(DeadlineExceeded("no answer in time; it was dropped"))
        return None
