"""Detect sources whose updates harm other tasks far beyond ordinary crosstalk.

A few rows of every task are kept as canaries. How badly a task answers them is measured every few optimizer steps.
Where it rises in at least two tasks, these steps are replayed aside, with a measurement after each update. Harm is
what a source does to tasks that are neither its own nor of its API key. A source is quarantined where its worst few
steps exceed twice what normal sources have ever done in this store (docs/decisions/0010-guard.md).
"""

import logging
from collections import defaultdict, deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import TypeAlias

from superposed.errors import SuperposedError, UpdateError
from superposed.store.store import WeightStore
from superposed_service.changes.base import PreparedChange, keys_of
from superposed_service.changes.exclusions import TAKING_OUT, Exclusions
from superposed_service.changes.quarantine import AUTHOR, Quarantine
from superposed_service.changes.registration import Delete
from superposed_service.changes.replay import replay
from superposed_service.changes.update import PreparedUpdate, Update
from superposed_service.engine.canary_measure import measure, sample
from superposed_service.errors import HistoryTruncated
from superposed_service.settings import Settings
from superposed_service.storage import Canary, Record, TransactionLog

_log = logging.getLogger("superposed.poison")

# Step by step, each about as long as an update, towards the sources that should be quarantined.
_Attribution: TypeAlias = Generator[None, None, list[Quarantine]]

# Rows kept of a task before it is measured, and the number of harmed tasks an accusation needs.
_FEWEST_ROWS, _FEWEST_TASKS = 4, 2
# Worst steps a source is judged by, the multiple of ordinary harm it may do, and steps remembered a source.
_WORST_STEPS, _TIMES_ORDINARY, _REMEMBERED = 8, 2.0, 256
# Steps after which, at the latest, tasks are measured again where too few could be harmed.
_MOST_PATIENCE = 16
# Intervals a window lasts.
_INTERVALS = 2
# Stored in quarantine records: the detector's name in release 0.1.0.
_DECIDED_BY = "guard"
# Steps a refused update counts as, so that the next measurement comes soon.
_REFUSED_COUNTS = 8
# Bytes of a store's image for each interval: of a larger store it is taken less often.
_IMAGE_BYTES = 64 * 2**20


@dataclass
class _Window:
    """The steps since one measurement, watched for two intervals."""

    image: bytes  # the store at its beginning
    sequence: int  # the store's, then
    canaries: dict[str, tuple[Canary, ...]]  # those that are watched, by task: the same rows at both ends
    before: dict[str, float]  # how badly each task answered them at the beginning
    intervals: int = 0  # that have passed since


@dataclass
class _Harm:
    """The harm of a source's newest steps, and of its worst few steps."""

    worst: float = 0.0
    recent: deque[tuple[int, float]] = field(default_factory=deque)

    def add(self, steps: int, harm: float) -> None:
        """Count an update's harm; that of many steps in proportion."""
        self.recent.append((min(steps, _WORST_STEPS), harm * min(1.0, _WORST_STEPS / steps)))
        while sum(count for count, _ in self.recent) > _WORST_STEPS and len(self.recent) > 1:
            self.recent.popleft()
        self.worst = max(self.worst, sum(part for _, part in self.recent))


class PoisonDetector:
    """Detect sources whose updates degrade other tasks beyond normal crosstalk. The engine's thread only.

    It is made before the first change of the store that it watches.
    """

    def __init__(self, store: WeightStore, transaction_log: TransactionLog, settings: Settings) -> None:
        self._journal = transaction_log.journal
        self._canaries = transaction_log.canaries
        self._settings = settings
        self._turn = 0
        self._steps = 0  # since the last measurement
        self._patience = 1  # steps until it is tried again to begin a window
        self._windows: deque[_Window] = deque()  # the oldest first
        self._attribution: _Attribution | None = None
        for key in self._canaries.keys():  # noqa: SIM118 - not a mapping's
            if key not in store.tasks:  # a crash has left them behind
                self._canaries.drop(key)
        self._begin(store)  # before the first update: it may be the harmful one

    @property
    def attributing(self) -> bool:
        """True while it attributes harm to a source: until it has, store and journal stay as they are."""
        return self._attribution is not None

    def observe(self, store: WeightStore, record: Record, change: PreparedChange, error: BaseException | None) -> None:
        """Take notice of a change that was applied, or rejected by the arithmetic with an error."""
        if error is None:
            self.keep(store, record, change)
        if not isinstance(change, PreparedUpdate):
            return
        if error is not None:
            if self._windows and isinstance(error, UpdateError):
                self._pass(store, _REFUSED_COUNTS)  # ruined weights reject ordinary updates too
        elif self._windows:
            self._pass(store, change.steps)
        else:
            self._steps += change.steps
            if self._steps >= self._patience:
                self._begin(store)

    def keep(self, store: WeightStore, record: Record, change: PreparedChange) -> None:
        """Keep and forget canaries after an applied change, as every server of the store does; judge nothing."""
        if not isinstance(change, PreparedUpdate):
            self._forget(record)
            return
        for key in change.tasks:
            if (task := store.tasks.get(key)).schema.keep_rows:
                seen, most = task.prequential.rows - len(change.places_of(key)), self._settings.canary_rows
                free = [slot for slot in range(most) if slot not in self._canaries[key]]
                for slot, canary in sample(change, key, record, seen, free, most):
                    self._canaries.put(key, slot, canary)

    def _pass(self, store: WeightStore, steps: int) -> None:
        self._steps += steps
        interval = self._settings.poison_interval_steps * (1 + len(self._windows[0].image) // _IMAGE_BYTES)
        if self._steps >= interval:
            for window in self._windows:
                window.intervals += 1
            windows, self._windows = self._windows, deque()  # should this fail, the next update starts anew
            self._attribution = self._attributing(store, windows)

    def attribute(self) -> list[Quarantine]:
        """Take a step of the attribution, about as long as an update; return the sources to quarantine."""
        try:
            if self._attribution is not None:
                next(self._attribution)
        except StopIteration as end:
            self._attribution = None
            return list(end.value or ())  # none after a step that failed
        return []

    def _attributing(self, store: WeightStore, windows: deque[_Window]) -> _Attribution:
        decisions = yield from self._judge(store, windows[0])
        if not decisions:  # a source is accused of the same harm once
            self._windows.extend(window for window in windows if window.intervals < _INTERVALS)
        self._begin(store)
        return decisions

    def _forget(self, record: Record) -> None:
        """Drop the canaries of a deleted task, and of records that a rollback took out."""
        if record.kind == Delete.kind:
            key = record.head["key"]
            self._canaries.drop(key)
            for window in self._windows:
                window.canaries.pop(key, None)
        elif record.kind in TAKING_OUT:
            out = record.head["excluded"]
            self._canaries.drop_if(lambda canary: any(a <= canary.sequence <= b for a, b in out))
            self._windows.clear()  # the store is another one now

    def _begin(self, store: WeightStore) -> None:
        """Begin a window over the next few tasks in turn, unless too few tasks can be measured.

        A task that answers its canaries hardly better than chance cannot be harmed by the limit any more.
        """
        chosen = self._chosen(store)
        canaries = {key: tuple(self._canaries[key].values()) for key in chosen}
        measured, most = self._measured(store, canaries), 1.0 - self._limit()
        before = {key: badness for key, badness in measured.items() if badness <= most}
        self._steps = 0
        if len(before) >= _FEWEST_TASKS:
            self._windows.append(_Window(store.to_bytes(), store.sequence, canaries, before))
            self._patience = 1
        elif chosen:  # tasks that answer no better than chance: to measure them costs as much as an update
            self._patience = min(2 * self._patience, _MOST_PATIENCE)

    def _chosen(self, store: WeightStore) -> list[str]:
        """Return the next tasks in turn that can be measured, shared equally by API keys."""
        fewest = min(_FEWEST_ROWS, self._settings.canary_rows)
        owned: dict[str, list[str]] = defaultdict(list)
        for key in self._canaries.keys():  # noqa: SIM118 - not a mapping's
            if key in store.tasks and len(self._canaries[key]) >= fewest:
                owned[next(iter(self._canaries[key].values())).owner].append(key)
        rotated = [keys[self._turn % len(keys) :] + keys[: self._turn % len(keys)] for keys in owned.values()]
        in_turn = [key for key in chain.from_iterable(zip_longest(*rotated)) if key is not None]
        most = min(self._settings.canary_tasks, store.contexts.capacity)
        self._turn += max(1, most // max(1, len(owned)))
        return in_turn[:most]

    def _measured(self, store: WeightStore, canaries: dict[str, tuple[Canary, ...]]) -> dict[str, float]:
        """Measure canaries; those that do not fit their task are forgotten, as they would fail each time."""
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

    def _judge(self, store: WeightStore, window: _Window) -> _Attribution:
        after = self._measured(store, window.canaries)
        rises = {key: after[key] - badness for key, badness in window.before.items() if key in after}
        limit = self._limit()
        harmed = [key for key, rise in rises.items() if rise >= limit]
        if len(harmed) < _FEWEST_TASKS:
            return []
        harms = yield from self._attribute(window, harmed, store)
        accused = _accused(harms, limit)
        known: dict[str, object] = {"sequence": store.sequence, "since": window.sequence, "limit": round(limit, 3)}
        known |= {"rises": {key: round(rises[key], 3) for key in harmed[:5]}, "because_of": sorted(accused)}
        level = logging.WARNING if accused else logging.INFO
        _log.log(level, "canaries rose by more than crosstalk explains", extra=known)
        if not accused and harms:
            ordinary = max(harm.worst for harm in harms.values())
            self._canaries.baseline = (*self._canaries.baseline, ordinary)[-_REMEMBERED:]
        within = [window.sequence + 1, store.sequence]
        evidence = {"by": _DECIDED_BY, "sequences": within, "limit": limit, "tasks": harmed[:20]}
        if self._settings.poison_action == "alert":
            return []
        return [Quarantine(source, evidence | {"rise": rise}) for source, rise in accused.items()]

    def _limit(self) -> float:
        """Return the harm that a source's worst steps may do: a floor, or twice the worst ordinary so far."""
        ordinary = max(self._canaries.baseline, default=0.0)
        return min(0.9, max(self._settings.poison_threshold, _TIMES_ORDINARY * ordinary))

    def _attribute(
        self, window: _Window, harmed: Sequence[str], store: WeightStore
    ) -> Generator[None, None, Mapping[str, _Harm]]:
        """Replay the window aside and measure each source's harm.

        A source is a task, or an API key, whose updates may be spread over many tasks. Its harm is what its
        updates did to the harmed tasks that are neither its own nor of its API key. The tasks of one update
        share its harm equally. A replay that does not arrive at the live store attributes nothing.
        """
        harms: dict[str, _Harm] = defaultdict(_Harm)
        watched = {key: window.canaries[key] for key in harmed}
        owners = {key: window.canaries[key][0].owner for key in harmed}
        aside = WeightStore.from_bytes(window.image, device=store.device)
        before, last = measure(aside, watched), store.sequence
        try:
            for record, _ in replay(aside, self._journal, Exclusions.read(self._journal, last, checked=True), last):
                yield
                after = measure(aside, watched)
                if record.kind == Update.kind:
                    author, keys = record.head.get("author") or "", keys_of(record.head)
                    own = {key for key in harmed if key in keys or (author and owners[key] == author)}
                    others = [after[key] - before[key] for key in harmed if key not in own]
                    # Several tasks testify, or none: one could have sent its own canaries to be harmed.
                    rise = sum(others) / len(others) if len(others) >= _FEWEST_TASKS else 0.0
                    for key in keys:
                        harms[key].add(record.head["steps"], rise / len(keys))
                    if author:
                        harms[AUTHOR + author].add(record.head["steps"], rise)
                before = after
        except HistoryTruncated:
            _log.warning("the journal was trimmed meanwhile: no source is accused")
            return {}
        if aside.digest() != store.digest():
            _log.error("the replay aside arrived at another store: no source is quarantined")
            return {}
        return harms


def _accused(harms: Mapping[str, _Harm], limit: float) -> dict[str, float]:
    """Return the sources that did too much harm; only the task, where an API key did it with one task."""
    found = {source: harm.worst for source, harm in harms.items() if harm.worst >= limit}
    tasks = {source: worst for source, worst in found.items() if not source.startswith(AUTHOR)}
    return tasks if len(tasks) == 1 else found
