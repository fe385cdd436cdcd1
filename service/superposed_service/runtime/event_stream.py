"""Events of the store for its listeners: bounded, and never waited for.

The engine's thread publishes and goes on. Each listener has a queue of its own; one whose queue is full is too slow,
and is dropped. The newest events are remembered, so that a listener that lost its connection catches up.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from superposed.errors import SuperposedError
from superposed_service.changes.base import JsonObject, keys_of
from superposed_service.errors import NotReady, Overloaded
from superposed_service.settings import Settings
from superposed_service.storage import Record

_log = logging.getLogger("superposed")

# Newest events that are sent again to a listener that has missed them.
REMEMBERED = 2048
# Contexts that one event names at most, and how much it says of each.
_NAMED, _LONGEST = 8, 256
# Events that name more tasks are sent and not remembered.
_REMEMBERED_KEYS = 64


@dataclass(frozen=True)
class Event:
    """One thing that happened."""

    kind: str  # a record's kind (`update`, `register`, …), or `load`
    data: JsonObject  # JSON values
    sequence: int | None = None  # the record's; None for what is not in the journal, which is not remembered
    keys: frozenset[str] = frozenset()  # a listener that may not name all of these does not see the event


def event_of(record: Record, answer: Mapping[str, Any]) -> Event:
    """Return the event of an applied record."""
    head = record.head
    data: JsonObject = {"sequence": record.sequence}
    if "context" in head or "contexts" in head:
        contexts = [head["context"]] if "context" in head else head["contexts"]
        named = [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in contexts[:_NAMED]]
        data |= {"contexts": named, "more_contexts": len(contexts) - len(named)}
        data |= {name: answer[name] for name in ("rows", "loss", "accuracy") if name in answer}
    keys = frozenset(keys_of(head))
    if "source" in head:
        data["source"], keys = head["source"], frozenset({head["source"]})
    elif len(keys) == 1 and "contexts" not in data:
        [data["task"]] = keys
    data |= {name: answer[name] for name in ("excluded", "accepted", "refused") if name in answer}
    return Event(record.kind, data, record.sequence, keys)


class Subscription:
    """One listener's events, on its event loop: iterate until it ends.

    Up to `most` events may wait, beside those that it begins with. `source` is the API key's id; None where there are
    no keys.
    """

    def __init__(self, most: int, backlog: list[Event], source: str | None = None) -> None:
        self.source = source
        self._loop = asyncio.get_running_loop()
        self._most = most + len(backlog)
        self._waiting = deque(backlog)
        self._wake = asyncio.Event()
        self._ended = False
        self.dropped = False  # whether it ended because events were not taken in time

    def offer(self, event: Event) -> bool:
        """Add an event, from any thread; False where the queue is full and the listener is dropped."""
        if self._ended:
            return False
        if len(self._waiting) >= self._most:
            self.dropped = True
            self.end()
            return False
        self._waiting.append(event)
        self._rouse()
        return True

    def end(self) -> None:
        """End it, from any thread."""
        self._ended = True
        self._rouse()

    def _rouse(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: no client listens any more
            self._loop.call_soon_threadsafe(self._wake.set)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Return the events in order."""
        while not self.dropped:
            while self._waiting and not self.dropped:
                yield self._waiting.popleft()
            if self._ended:
                return
            await self._wake.wait()
            self._wake.clear()


class Events:
    """Everybody who listens to one service."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._newest: deque[Event] = deque(maxlen=REMEMBERED)
        self._subscriptions: set[Subscription] = set()
        self.closed = False

    @property
    def listeners(self) -> int:
        """Number of listeners."""
        return len(self._subscriptions)

    def applied(self, record: Record, outcome: Future[JsonObject]) -> None:
        """Publish a record and its outcome. Any thread; never blocks."""
        try:
            error = outcome.exception()
            # The message of a bug stays inside.
            reason = str(error) if isinstance(error, SuperposedError) else "something went wrong inside the service"
            self.publish(event_of(record, outcome.result() if error is None else {"refused": reason}))
        except Exception:  # noqa: BLE001 - the change itself is applied and answered
            _log.exception("record %s could not be told of", record.sequence)

    def publish(self, event: Event) -> None:
        """Publish an event. Any thread; never blocks."""
        with self._lock:
            if event.sequence is not None and len(event.keys) <= _REMEMBERED_KEYS:
                self._newest.append(event)
            self._subscriptions = {one for one in self._subscriptions if one.offer(event)}

    def subscribe(self, after: int | None, source: str | None = None) -> Subscription:
        """Begin to listen, on the running event loop.

        Remembered events after the sequence number `after` come first; without one none of them. `source` is the API
        key's id; None where there are no keys. Raise `Overloaded` where as many listen as may, in all or by this API
        key, and `NotReady` while the service is stopping.
        """
        with self._lock:
            if self.closed:
                raise NotReady("the service is stopping")
            self._check_room(source)
            missed = [] if after is None else [one for one in self._newest if (one.sequence or 0) > after]
            subscription = Subscription(self._settings.event_queue, missed, source)
            self._subscriptions.add(subscription)
            return subscription

    def _check_room(self, source: str | None) -> None:
        text = "too many are listening to events"
        if len(self._subscriptions) >= (most := self._settings.event_subscribers):
            raise Overloaded(text, expected=f"{most} in all at most")
        mine = sum(one.source == source for one in self._subscriptions)
        if source is not None and mine >= (most := self._settings.event_subscribers_per_key):
            raise Overloaded(text, expected=f"{most} by one API key at most")

    def unsubscribe(self, subscription: Subscription) -> None:
        """Forget a listener."""
        with self._lock:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every subscription and refuse new ones: the service is stopping."""
        with self._lock:
            self.closed = True
            for subscription in self._subscriptions:
                subscription.end()
            self._subscriptions = set()
