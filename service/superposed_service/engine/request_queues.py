"""The two request queues of the engine, inference requests and jobs: admission and eviction.

A request whose estimated wait exceeds `queue_delay_ms` or its deadline is rejected on arrival, before it has
cost anything. In a full queue the newest request of the source with most requests is evicted.
"""

from __future__ import annotations

import heapq
import itertools
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from superposed_service.engine.work import InferenceRequest, Work
from superposed_service.errors import DeadlineExceeded, InvalidRequest, Overloaded
from superposed_service.settings import Settings

ANYONE = "anyone"
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


@dataclass(frozen=True)
class RequestMetadata:
    """API key and deadline of a request, for the queues.

    It is set where a request comes in, HTTP or gRPC, and follows the request through its task: what lies between need
    not hand it on.
    """

    source: str = ""  # an API key's id, `ANYONE` on a server without keys; empty for the service itself
    deadline: float | None = None  # on the monotonic clock, seconds; None leaves it to the settings

    def left_s(self, most: float) -> float:
        """Return seconds until the deadline, from 0 to `most`."""
        return most if self.deadline is None else min(most, max(0.0, self.deadline - time.monotonic()))


_SERVICE = RequestMetadata()
_caller: ContextVar[RequestMetadata] = ContextVar("superposed_caller", default=_SERVICE)


def current_request() -> RequestMetadata:
    """Return the metadata of the request that this task works on; of the service itself without a request."""
    return _caller.get()


@contextmanager
def calling(source: str, timeout_s: float | None = None) -> Iterator[None]:
    """Set the metadata of a request for as long as it is worked on; its answer is of use for `timeout_s` seconds."""
    token = enter(source, timeout_s)
    try:
        yield
    finally:
        _caller.reset(token)


def enter(source: str, timeout_s: float | None = None) -> Token[RequestMetadata]:
    """Set the metadata to the end of the task; see `calling`."""
    return _caller.set(RequestMetadata(source, None if timeout_s is None else time.monotonic() + timeout_s))


def timeout_of(header: str | None) -> float | None:
    """Return the seconds of a `Request-Timeout` header, or None; raise `InvalidRequest` for no number above 0."""
    if header is None:
        return None
    text = header.strip()
    if not _SECONDS.fullmatch(text) or float(text) == 0:
        wrong, given = "Request-Timeout: not a number of seconds", header[:100]
        raise InvalidRequest(wrong, expected="a number above 0", received=given)
    return float(text)


W = TypeVar("W")

# How much of what is known about the pace each new turn replaces.
_FORGETTING = 0.05
_ENOUGH_TURNS, _UNUSUAL = 20, 4.0


class ServiceTimeModel:
    """Service time of turns: `fixed + size * each`, by weighted least squares over recent turns."""

    def __init__(self) -> None:
        self._turns = 0
        self._fixed_s = self._each_s = 0.0
        # Of all turns, older ones less: their number, sizes, seconds, squares of sizes, and sizes times seconds
        self._sums = [0.0] * 5

    @property
    def is_known(self) -> bool:
        """True if there were enough turns to go by."""
        return self._turns >= _ENOUGH_TURNS

    def note(self, size: int, seconds: float) -> None:
        """Learn from one turn. One that took much longer than it should counts as several times as long."""
        keep = 1 - _FORGETTING
        if self.is_known:
            seconds = min(seconds, _UNUSUAL * self.seconds(1, size))
        self._turns += 1
        turn = (1.0, size, seconds, size * size, size * seconds)
        self._sums = [keep * before + now for before, now in zip(self._sums, turn, strict=True)]
        if not self.is_known:
            return
        mean_size, mean_seconds, mean_square, mean_product = (one / self._sums[0] for one in self._sums[1:])
        spread = mean_square - mean_size**2
        slope = (mean_product - mean_size * mean_seconds) / spread if spread > 0.25 else 0.0
        self._each_s = min(max(slope, 0.0), mean_seconds / mean_size)
        self._fixed_s = mean_seconds - self._each_s * mean_size

    def seconds(self, turns: int, size: int) -> float:
        """Return the estimated seconds of `turns` turns over `size` rows in total; 0 while unknown."""
        return turns * self._fixed_s + size * self._each_s


@dataclass(slots=True)
class QueueEntry(Generic[W]):
    """A place in a queue."""

    tag: float  # the lowest is next
    number: int  # of equal tags, the oldest is next
    work: W
    source: str
    size: int  # what it costs: rows, or 1
    deadline: float  # on the monotonic clock, seconds; the client no longer waits after it

    def __lt__(self, other: QueueEntry[W]) -> bool:
        return self.tag < other.tag or (self.tag == other.tag and self.number < other.number)


class FairQueue(Generic[W]):
    """Requests that wait, by source: every source gets its share. Not thread-safe: callers hold a lock.

    Self-clocked fair queueing (Golestani, INFOCOM 1994): each request gets a tag, the source's last tag plus what
    the request costs, and the lowest tag is next. A source that sends more than its share waits behind itself. One
    turn takes `turn_size` at most; None where each turn takes one request.
    """

    def __init__(self, turn_size: int | None = None) -> None:
        self._turn_size = turn_size
        self._heap: list[QueueEntry[W]] = []
        self._numbers = itertools.count()
        self._tag = 0.0  # of the newest entry that was taken out
        self._last: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self.service_time = ServiceTimeModel()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[QueueEntry[W]]:
        return iter(self._heap)

    @property
    def size(self) -> int:
        """Total cost of all entries."""
        return sum(self._sizes.values())

    def push(self, work: W, source: str, size: int, deadline: float) -> None:
        """Let work wait for its turn."""
        tag = max(self._tag, self._last.get(source, 0.0)) + size
        heapq.heappush(self._heap, QueueEntry(tag, next(self._numbers), work, source, size, deadline))
        self._last[source] = tag
        self._sizes[source] = self._sizes.get(source, 0) + size
        self._counts[source] = self._counts.get(source, 0) + 1

    def peek(self) -> QueueEntry[W] | None:
        """Return the next entry."""
        return self._heap[0] if self._heap else None

    def pop(self) -> QueueEntry[W]:
        """Take the next one out; there must be one."""
        entry = heapq.heappop(self._heap)
        self._tag = entry.tag
        self._leave(entry)
        if not self._heap:
            self._tag = 0.0
            self._last.clear()
        return entry

    def _leave(self, entry: QueueEntry[W]) -> None:
        source = entry.source
        self._sizes[source] -= entry.size
        self._counts[source] -= 1
        if not self._counts[source]:
            del self._sizes[source], self._counts[source]
            if self._last[source] <= self._tag:
                del self._last[source]

    def count(self, source: str) -> int:
        """Return the number of waiting requests of a source."""
        return self._counts.get(source, 0)

    def wait_s(self, source: str, size: int) -> float:
        """Return the seconds that `size` more rows wait: of each other source no more than this one's go first."""
        ahead = _ahead(self._sizes, source, size)
        turns = math.ceil(ahead / self._turn_size) if self._turn_size else _ahead(self._counts, source, 1)
        return self.service_time.seconds(turns, ahead)

    def check_wait(self, caller: RequestMetadata, size: int, most_s: float, late: str, *, more_s: float = 0.0) -> None:
        """Raise `Overloaded`, which says `late`, where the turn of `size` more rows would come too late.

        The limit is `most_s` seconds or the caller's deadline; `more_s` seconds are added to this queue's wait. A
        source without a waiting request is always admitted: no source starves.
        """
        if not self.count(caller.source):
            return
        wait_s, most_s = self.wait_s(caller.source, size) + more_s, caller.left_s(most_s)
        if wait_s > most_s:
            most, wait = f"{most_s:.3g} s in line at most", f"{wait_s:.3g} s"
            raise Overloaded(late, expected=most, received=wait, retry_after_s=wait_s)

    def drop(self, gone: list[QueueEntry[W]]) -> None:
        """Take some out, wherever they stand."""
        if not gone:
            return
        numbers, saved = {place.number for place in gone}, Counter[str]()
        kept = []
        for place in sorted(self._heap, key=lambda place: place.number):
            if place.number in numbers:
                saved[place.source] += place.size
            else:  # work that is not done costs nothing
                place.tag -= saved[place.source]
                kept.append(place)
        heapq.heapify(kept)
        self._heap = kept
        for source, size in saved.items():
            self._last[source] -= size
        for place in gone:
            self._leave(place)

    def newest_of_largest(self, than: str) -> QueueEntry[W] | None:
        """Return the newest entry of the source with most requests, if it has more than `than` would have."""
        largest = max(self._counts, key=self._counts.__getitem__, default=than)
        if self._counts.get(largest, 0) <= self.count(than) + 1:
            return None
        return max(entry for entry in self._heap if entry.source == largest)


def _ahead(waiting: Mapping[str, int], source: str, more: int) -> int:
    own = waiting.get(source, 0) + more
    others = list(waiting.items())  # a copy: another thread may be changing it
    return own + sum(min(own, size) for other, size in others if other != source)


WorkKind = TypeVar("WorkKind", bound=Work)


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

    def _next_wanted(self, line: FairQueue[WorkKind]) -> QueueEntry[WorkKind] | None:
        """Return the next entry whose client still waits; a late job is told so, a late read by its own timer."""
        while (entry := line.peek()) is not None:
            late = entry.deadline <= time.monotonic()
            if not (late or entry.work.future.done()):
                return entry
            line.pop()
            if late and not isinstance(entry.work, InferenceRequest):
                entry.work.reject(DeadlineExceeded("no answer in time; it was dropped"))
        return None
