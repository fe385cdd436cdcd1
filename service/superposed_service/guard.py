"""The guard: sees whose updates push other tasks down by more than crosstalk explains, and says so.

A few rows of every task are kept as canaries and measured at intervals. Ordinarily a task's loss rises a
little by crosstalk, and falls where it was taught itself. Where one rises further than nearly all ever did,
the interval is replayed aside, from an image taken at its beginning, with a measurement after each update.
That says whose updates did it; what a task does to itself is its own affair.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from superposed.errors import SuperposedError
from superposed.store import WeightStore
from superposed_service.canaries import measure, sample
from superposed_service.changes import Change, Delete, Quarantine, keys_of, sources_of
from superposed_service.errors import BeyondHorizon
from superposed_service.exclusions import ROLLBACK, Exclusions
from superposed_service.recovery import replay
from superposed_service.settings import Settings
from superposed_service.storage import Canary, Ledger, Record
from superposed_service.updates import Update

__all__ = ["Guard"]

_log = logging.getLogger("superposed.guard")

# Step by step, each about as long as an update, towards the sources that should be quarantined.
_Inquiry: TypeAlias = Generator[None, None, list[Quarantine]]

# What is ordinary is not known before so many rises were seen, and is told by so many of the newest.
_KNOWN_FROM = 64
_REMEMBERED = 4096
# How many robust standard deviations above the median a rise is that crosstalk does not explain.
_DEVIATIONS = 12.0
_MAD_TO_DEVIATION = 1.4826
# After a search that found nobody, so many intervals pass before the next one; twice as many each time.
_LONGEST_PAUSE = 63


@dataclass
class _Interval:
    """What is known about the time since the last measurement.

    Args:
        image: The store at its beginning.
        sequence: The store's sequence number then.
        canaries: Those that are watched, by task: the same rows at both ends.
        before: Their losses at the beginning.
        updates: How many updates there were since.
    """

    image: bytes
    sequence: int
    canaries: dict[str, tuple[Canary, ...]]
    before: dict[str, float]
    updates: int = 0


class Guard:
    """Keeps canaries and judges what updates do to them. The engine's thread only.

    Args:
        ledger: Where canaries are kept and records can be read again.
        settings: How many rows, how often, and which rise never counts.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._journal = ledger.journal
        self._canaries = ledger.canaries
        self._settings = settings
        self._ordinary: deque[float] = deque(maxlen=_REMEMBERED)
        self._turn = 0
        self._pause = self._fruitless = 0
        self._interval: _Interval | None = None
        self._inquiry: _Inquiry | None = None

    def start(self, store: WeightStore) -> None:
        """Forgets canaries of tasks that are gone: a crash may have come before that reached the disk."""
        for key in self._canaries.keys():  # noqa: SIM118 - not a mapping's
            if key not in store.tasks:
                self._canaries.drop(key)

    @property
    def due(self) -> bool:
        """Whether the next update is followed by a measurement, which may read the journal."""
        return self._interval is not None and self._interval.updates + 1 >= self._settings.guard_interval

    def applied(self, store: WeightStore, record: Record, change: Change) -> None:
        """Takes notice of a change that was just applied; at the end of an interval begins to inquire."""
        if not self._settings.canary_rows:
            return
        if not isinstance(change, Update):
            self._forget(record)
            return
        self._keep(store, record.sequence, change)
        if (interval := self._interval) is None:
            self._interval = self._begin(store)
            return
        interval.updates += 1
        if interval.updates == self._settings.guard_interval:
            self._interval = None  # should this fail, the next update starts anew
            self._inquiry = self._inquire(store, interval)

    @property
    def inquiring(self) -> bool:
        """Whether it finds out who did harm: until it has, store and journal stay as they are."""
        return self._inquiry is not None

    def step(self) -> list[Quarantine]:
        """Inquires for about as long as an update takes.

        Returns:
            Which sources should be quarantined, once that is known.
        """
        inquiry, self._inquiry = self._inquiry, None  # should this fail, it is over
        try:
            if inquiry is not None:
                next(inquiry)
        except StopIteration as end:
            return list(end.value)
        self._inquiry = inquiry
        return []

    def _inquire(self, store: WeightStore, interval: _Interval) -> _Inquiry:
        decisions = yield from self._judge(store, interval)
        self._interval = self._begin(store)
        return decisions

    def _forget(self, record: Record) -> None:
        """Canaries go with their task, and with the records that a rollback took out."""
        if record.kind == Delete.kind:
            key = record.head["key"]
            self._canaries.drop(key)
            if self._interval is not None:
                self._interval.canaries.pop(key, None)
        elif record.kind == ROLLBACK:
            out = record.head["excluded"]
            self._canaries.drop_if(lambda canary: any(a <= canary.sequence <= b for a, b in out))
            self._interval = None  # the store is another one now

    def _keep(self, store: WeightStore, sequence: int, change: Update) -> None:
        for key in change.tasks:
            if (task := store.tasks.get(key)).schema.keep_rows:
                seen, most = task.prequential.rows - len(change.places_of(key)), self._settings.canary_rows
                free = [slot for slot in range(most) if slot not in self._canaries[key]]
                for slot, canary in sample(change, key, sequence, seen, free, most):
                    self._canaries.put(key, slot, canary)

    def _begin(self, store: WeightStore) -> _Interval:
        """Starts an interval over the next few tasks in turn."""
        keys = self._canaries.keys()
        most = min(len(keys), self._settings.canary_tasks, store.contexts.capacity)
        chosen = [keys[(self._turn + number) % len(keys)] for number in range(most)]
        self._turn += most
        canaries = {key: tuple(self._canaries[key].values()) for key in chosen if key in store.tasks}
        before = self._measured(store, canaries)
        return _Interval(store.to_bytes(kept_rows=False), store.sequence, canaries, before)

    def _measured(self, store: WeightStore, canaries: dict[str, tuple[Canary, ...]]) -> dict[str, float]:
        """Measures canaries; those that do not fit their task are forgotten, as they would fail each time."""
        try:
            return measure(store, canaries)
        except SuperposedError:
            found: dict[str, float] = {}
            for key, rows in list(canaries.items()):
                try:
                    found |= measure(store, {key: rows})
                except SuperposedError as error:
                    known = {"task": key, "sequence": store.sequence, "reason": str(error)}
                    _log.warning("canaries dropped", extra=known)
                    self._canaries.drop(key)
                    del canaries[key]
            return found

    def _judge(self, store: WeightStore, interval: _Interval) -> _Inquiry:
        after = self._measured(store, interval.canaries)
        rises = {key: after[key] - interval.before[key] for key in after if key in interval.before}
        limit = self._limit()
        hurt = [key for key, rise in rises.items() if not rise <= limit]
        self._ordinary.extend(rise for key, rise in rises.items() if key not in hurt)
        self._pause = max(0, self._pause - 1)
        if not hurt or self._pause or not math.isfinite(limit):
            return []
        caused = yield from self._attribute(interval, hurt, store)
        found = [source for source, rise in caused.items() if not rise <= limit]
        known = {
            "sequence": store.sequence,
            "since": interval.sequence,
            "limit": round(limit, 3),
            "rises": {key: round(rises[key], 3) for key in hurt[:5]},
            "because_of": found,
        }
        level = logging.WARNING if found else logging.INFO
        _log.log(level, "canaries rose by more than crosstalk explains", extra=known)
        self._fruitless = 0 if found else min(_LONGEST_PAUSE, 2 * self._fruitless + 1)
        self._pause = self._fruitless
        evidence = {
            "by": "guard",
            "sequences": [interval.sequence + 1, store.sequence],
            "limit": limit,
            "tasks": hurt[:20],
        }
        return [Quarantine(source, evidence | {"rise": _finite(caused[source])}) for source in found]

    def _limit(self) -> float:
        """The rise of a task's loss that crosstalk still explains."""
        if len(self._ordinary) < _KNOWN_FROM:
            return math.inf
        rises = np.asarray(self._ordinary)
        median = float(np.median(rises))
        deviation = _MAD_TO_DEVIATION * float(np.median(np.abs(rises - median)))
        return max(self._settings.guard_rise, median + _DEVIATIONS * deviation)

    def _attribute(
        self, interval: _Interval, hurt: Sequence[str], store: WeightStore
    ) -> Generator[None, None, Mapping[str, float]]:
        """How far each source's updates raised the hurt tasks that they do not teach; a mean over the hurt.

        Of an update of several tasks each has an equal share; its author has all of it.
        """
        caused: dict[str, float] = defaultdict(float)
        watched = {key: interval.canaries[key] for key in hurt}
        aside = WeightStore.from_bytes(interval.image, device=store.device)
        before, last = measure(aside, watched), store.sequence
        try:
            for record, _ in replay(aside, self._journal, Exclusions.look_up(self._journal, last), last):
                yield
                if record.kind != Update.kind:
                    before = measure(aside, watched)
                    continue
                after, keys = measure(aside, watched), keys_of(record.head)
                rise = sum(after[key] - before[key] for key in hurt if key not in keys) / len(hurt)
                before = after
                for source in sources_of(record.head):
                    caused[source] += rise / len(keys) if source in keys else rise
                if not math.isfinite(rise):
                    break  # nothing can be told apart after it
        except BeyondHorizon:
            _log.warning("the journal was trimmed meanwhile: nobody can be blamed")
        return caused


def _finite(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)
