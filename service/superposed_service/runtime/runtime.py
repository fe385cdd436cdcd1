"""A service that is up: its settings, its engine, and its data directory."""

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from superposed.errors import ContextError, EmptyBatch, ShapeError, SuperposedError, check_most
from superposed_client.models import Erasure, RecoveryInfo
from superposed_service.changes.base import Change, JsonObject
from superposed_service.changes.rehearsal import Consolidate, ForgetRows
from superposed_service.changes.rollback import RollbackChange, Selection
from superposed_service.changes.rows import Originals, RowBatch
from superposed_service.changes.snapshot import keep, trim_some
from superposed_service.changes.task_rows import erase_rows, erased_before, find_rows, forgotten
from superposed_service.engine.engine import Engine
from superposed_service.engine.request_queues import calling, current_request
from superposed_service.engine.telemetry import Telemetry
from superposed_service.errors import NotLeader, NotReady, UnknownSnapshot
from superposed_service.observability.load import Progress
from superposed_service.runtime.encoding import Encoders, items_of, read_as
from superposed_service.runtime.event_stream import Event, Events
from superposed_service.settings import Settings
from superposed_service.storage import DataDirectory, Shipment, Snapshot, Snapshots, TransactionLog
from superposed_service.storage.idempotency import IdempotencyKey
from superposed_service.storage.shipping import Place, framed

_MOST_MODELS, _LONGEST_NAME = 10_000, 256


class Statistics:
    """Requests, rows and time by model since the start; those asked longest ago are forgotten first. One thread."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, dict[str, Any]] = OrderedDict()  # as the protocol shows them

    @contextmanager
    def measured(self, model: str, rows: int) -> Iterator[None]:
        """Count one request and its duration, also where it fails; unknown models are not counted."""
        started = time.perf_counter_ns()
        good, there = False, len(model) <= _LONGEST_NAME
        try:
            yield
            good = True
        except ContextError:
            there = False  # no such model
            raise
        finally:
            if there:
                self._count(model, rows, time.perf_counter_ns() - started, good=good)

    def _count(self, model: str, rows: int, taken: int, *, good: bool) -> None:
        outcomes = {"success": {"count": 0, "ns": 0}, "fail": {"count": 0, "ns": 0}}
        unasked = {"last_inference": 0, "inference_count": 0, "execution_count": 0, "inference_stats": outcomes}
        counts = self._models.setdefault(model, unasked)
        self._models.move_to_end(model)
        if len(self._models) > _MOST_MODELS:
            self._models.popitem(last=False)
        counts["last_inference"] = time.time_ns() // 1_000_000
        counts["inference_count"] += rows if good else 0
        counts["execution_count"] += good
        outcome = counts["inference_stats"]["success" if good else "fail"]
        outcome["count"] += 1
        outcome["ns"] += taken

    def body(self, version: str, wanted: Callable[[str], bool]) -> dict[str, Any]:
        """Return the statistics of the models that are wanted, as the Open Inference Protocol has them."""
        found = [(model, counts) for model, counts in self._models.items() if wanted(model)]
        return {"model_stats": [{"name": model, "version": version, **counts} for model, counts in found]}


T = TypeVar("T")
_log = logging.getLogger("superposed.snapshots")
_WATCH_S = 1.0
# What a text or image that was not encoded before costs in the quota of rows.
_ROWS_PER_ITEM = 100
_SHIPPING_S = 0.005  # between two looks for records that a follower lacks
_RETRY_S = 30.0  # a snapshot that failed is not tried again at once: it is a copy of the store


class Principal(Protocol):
    """The API key that asks, as far as admission needs it."""

    def check_contexts(self, contexts: Iterable[object]) -> None:
        """Raise where it may not name a task, or use a composition."""

    def spend(self, *, rows: int, updates: int = 0) -> None:
        """Raise `QuotaExceeded` where its quota is used up."""


class Following(Protocol):
    """The following of a leader."""

    @property
    def not_ready(self) -> NotReady | None:
        """Reason why it is not as new as it should be, or None."""

    newest: int  # sequence number of the leader's newest record, when it was last heard of

    async def stop(self) -> None:
        """End following."""


@dataclass
class Runtime:
    """A running service."""

    settings: Settings
    engine: Engine
    directory: DataDirectory
    recovery: RecoveryInfo  # how the store came back when the service was started
    version: str  # the newest snapshot's sequence number: the version of every model
    telemetry: Telemetry
    events: Events
    encoders: Encoders
    statistics: Statistics = field(default_factory=Statistics)  # what models were asked
    following: Following | None = None  # the following of a leader; None where this server leads
    # Snapshots, rollbacks and erasure take turns: each leaves behind what a recovery needs.
    _history_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def not_ready(self) -> NotReady | None:
        """Reason why the service is not ready, or None.

        That the store was recovered, and its digests were good, is so since before the engine was started.
        """
        if not self.engine.ready:
            return NotReady("the service is starting or stopping")
        if self.engine.failure is not None:
            return NotReady("the journal failed: inference goes on, updates do not", received=self.engine.failure)
        if self.following is not None:
            return self.following.not_ready
        try:
            self.directory.transaction_log().epochs.check_open()
        except NotReady as error:
            return error
        return None

    async def shipment(self, place: Place, wait_s: float) -> bytes:
        """Return what a follower at a place lacks, once there is anything, or `wait_s` seconds are over.

        Raise `NotLeader` where it has promised a later epoch or this server follows another one, or as `Shipment.read`.
        """
        until, log, replication = time.monotonic() + wait_s, self.directory.transaction_log(), self.engine.replication
        if self.following is not None or place.promised > log.epochs.led:
            log.epochs.check_open()
            raise NotLeader("this server's epoch is over", expected=place.promised, received=log.epochs.led)
        while replication.knows(place) and time.monotonic() < until:
            if (log.journal.sequence, log.api_keys.digest) != (place.sequence, place.api_keys):
                break
            if not await self.runs_for(_SHIPPING_S):
                raise NotReady("the service is stopping")
        shipment = await self.engine.call_writer(lambda writer: Shipment.read(writer.transaction_log, place))
        replication.reached(place)  # its link was compared
        replication.sent(place.member, place.sequence + len(shipment.changes), shipment.chain)
        return replace(shipment, snapshot=int(self.version)).to_bytes()

    async def newest_snapshot(self) -> bytes:
        """Return the newest snapshot with its manifest as a follower reads them, framed."""
        snapshot = (await asyncio.to_thread(self.directory.snapshots.list))[-1]
        if not snapshot.chain:  # of the first release
            snapshot = await self.snapshot()
        data = await asyncio.to_thread(self.directory.snapshots.read, snapshot)
        epochs = self.directory.transaction_log().epochs
        return framed(snapshot.model_dump() | {"epoch": epochs.promised, "starts": epochs.starts}, data)

    async def finish_erasures(self) -> None:
        """Erase from journal and snapshots the rows that records have forgotten: a leader's, or before a crash."""
        await self.in_turn(self._finish_erasures())

    async def _finish_erasures(self, begun: str = "") -> dict[str, list[int]]:
        found = await self.engine.call_writer(lambda writer: forgotten(writer.transaction_log.journal))
        records = {key: sequences for key, sequences in found.items() if sequences or key == begun}
        if records:
            through = (await self._snapshot()).sequence  # what was learned from them must not need them again
            await self.engine.call_writer(lambda writer: erase_rows(writer.transaction_log, records, through))
        self.encoders.cache.forget(found)
        await self._remove_erased_snapshots()
        return found

    def admit(self, rows: RowBatch, principal: Principal, *, updates: int = 0) -> RowBatch:
        """Check rows, authorize their contexts, and spend the principal's quota.

        Every protocol calls it, once for each request, before anything is done with the rows. Returns the rows. Raise
        `QuotaExceeded` where the quota is used up; else raises as `check`.
        """
        self.check(rows, principal)
        principal.spend(rows=len(rows), updates=updates)
        return rows

    def check(self, rows: RowBatch, principal: Principal) -> None:
        """Check rows and authorize their contexts, where the cost of the request is not known yet.

        Raise `CapacityExceeded` where there are too many rows or contexts, or values in a row; `UnknownTask` where the
        principal may not name a task; `Forbidden` where the principal may not use a composition.
        """
        rows.check(self.settings.max_rows, self.settings.max_row_values)
        principal.check_contexts([rows.context] if rows.contexts is None else rows.contexts)

    def encoder_of(self, originals: Originals, context: object) -> str:
        """Return the encoder of a context's task; without a context the only one of the store.

        Raise `ShapeError` where the task takes other inputs, or the store has no or several encoders of the kind.
        """
        if context is not None:
            return read_as(originals, [self.engine.schema_of(context)])[0]
        names = self.encoders.names(originals.kind)
        if len(names) != 1:
            text = f"this store has {len(names)} encoders of {originals.kind}: name candidates"
            raise ShapeError(text, expected="candidates with one encoder", received=originals.kind)
        return names[0]

    async def encode(self, rows: RowBatch, principal: Principal, *, encoder: str | None = None) -> RowBatch:
        """Return rows that were encoded from texts or images; a new one costs as much as a hundred rows.

        The rows are admitted; others are returned as they are. `encoder` is given where they have no context yet. Raise
        `ShapeError` where a task takes other inputs, or the tasks have several encoders; `QuotaExceeded` where the
        quota is used up, or as `Encoders.encode`.
        """
        originals = rows.originals
        if originals is None:
            return rows
        if not len(rows):
            raise EmptyBatch("a batch without rows", expected="at least one text or image", received=0)
        if encoder is not None:
            tasks = [""] * len(rows)
        elif rows.contexts is None:
            encoder, [task] = read_as(originals, [self.engine.schema_of(rows.context)])
            tasks = [task] * len(rows)
        elif len(rows.contexts) != len(rows):
            received = len(rows.contexts)
            raise ShapeError("contexts and rows differ in number", expected=len(rows), received=received)
        else:
            encoder, tasks = read_as(originals, [self.engine.schema_of(one) for one in rows.contexts])
        kind = self.encoders.kind(encoder)
        items = items_of(originals, kind)
        vectors = await self.encoders.encode(
            encoder, tasks, items, lambda count: principal.spend(rows=_ROWS_PER_ITEM * count)
        )
        kept = Originals(kind, items) if self.settings.keep_originals else None
        return RowBatch(rows.context, rows.contexts, vectors, kept)

    async def snapshot(self) -> Snapshot:
        """Take a snapshot, and return once it is on the disk; inference goes on meanwhile."""
        return await self.in_turn(self._snapshot())

    async def in_turn(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work on the past, one at a time, to its end, also if the client has left."""

        async def run() -> T:
            with calling(current_request().source):  # to its end, also past the request's deadline
                async with self._history_turn:
                    return await work

        return await asyncio.shield(asyncio.create_task(run()))

    async def _snapshot(self) -> Snapshot:
        image = await self.engine.call_writer(lambda writer: writer.image())
        snapshot, needed = await asyncio.to_thread(keep, self.directory.snapshots, image, self.settings.history_records)
        await self.engine.call_writer(lambda writer: writer.kept(image, snapshot))
        while await self.engine.call_writer(lambda writer: trim_some(writer.transaction_log, needed)):
            pass
        self.version = str(snapshot.sequence)
        _log.info("snapshot taken", extra={"sequence": snapshot.sequence, "bytes": snapshot.bytes})
        return snapshot

    async def change_past(
        self,
        make: Callable[[Snapshots, TransactionLog, Progress], Change],
        key: IdempotencyKey | None,
        author: str | None,
    ) -> JsonObject:
        """Make a change that takes records out of the store's past, and take a snapshot of the result.

        Raise `HistoryTruncated` where the journal does not reach back far enough; `UnknownUpdate` where no update has
        the sequence number to correct, or it was taken out, or as `Engine.change`.
        """
        change = make(self.directory.snapshots, self.directory.transaction_log(), self.telemetry.replay)

        async def work() -> JsonObject:
            answer = await self.engine.change(change, key, author, limited=False)
            if answer["excluded"]:
                await self._snapshot()  # so that a recovery need not rebuild it again
            return answer

        return await self.in_turn(work())

    async def restore(self, identifier: str, key: IdempotencyKey | None, author: str | None) -> JsonObject:
        """Go back to a snapshot; raise `UnknownSnapshot` where there is none of this id, or as `change_past`."""
        if (known := await self.engine.call_writer(lambda writer: writer.answer_to(key))) is not None:
            await self.engine.replicated(self.engine.check_leads())
            return known  # its own snapshot may have replaced the one that was asked for
        for snapshot in await asyncio.to_thread(self.directory.snapshots.list):
            if snapshot.id == identifier:
                rollback = partial(RollbackChange, Selection(to_sequence=snapshot.sequence))
                return await self.change_past(rollback, key, author)
        raise UnknownSnapshot("no snapshot has this id", received=identifier)

    async def consolidate(
        self, steps: int, key: IdempotencyKey | None, author: str | None, check: Callable[[], Awaitable[None]]
    ) -> JsonObject:
        """Rehearse all tasks for `steps` in all, in slices, up to the first that is not accepted.

        Each slice has its turn among the updates. A request sent again, under its key, goes on where it stopped.
        `check` is called before each slice, and raises where no more should follow. Return the sequence, accuracies
        before and after, how many steps count, and whether all were accepted. Raises as `Engine.change`.
        """
        check_most("more steps than a request may take", steps, self.settings.max_request_steps)
        taken, before, after, answer = 0, None, JsonObject(), JsonObject()
        for number, start in enumerate(range(0, steps, self.settings.consolidation_slice)):
            size = min(self.settings.consolidation_slice, steps - start)
            await check()
            answer = await self.engine.change(Consolidate(size), key and key.part(number), author, limited=False)
            before = answer["before"] if before is None else before
            after = answer["after"] if answer["accepted"] else after or answer["before"]
            if not answer["accepted"]:
                break
            taken += size
        facts = {"sequence": answer["sequence"], "accepted": answer["accepted"]}
        return facts | {"before": before, "after": after, "steps": taken}

    async def erase_rows(self, key: str, author: str | None = None, *, at_once: bool = True) -> Erasure:
        """Erase a task's rows from the journal and from what is rehearsed; what they taught stays.

        Older snapshots of a rehearsing store may hold such rows, and are other tasks' way back. They are
        removed `at_once`, or once their time is over; until then they serve rollbacks to before the erased
        records. Nothing is recorded where there is nothing to erase. Raises as `find_rows`.
        """
        return await self.in_turn(self._erase_rows(key, author, at_once))

    async def _erase_rows(self, key: str, author: str | None, at_once: bool) -> Erasure:
        turn = self.engine.check_leads()
        self.encoders.cache.forget({key})
        has_rows, in_snapshots, erased_at = await self.engine.call_writer(
            lambda writer: find_rows(writer.transaction_log, writer.store, key)
        )
        listed = await asyncio.to_thread(self.directory.snapshots.list)
        older = in_snapshots and any(one.sequence < erased_at for one in listed)
        if not has_rows and not (older and at_once):
            await self.engine.replicated(turn)
            return Erasure(records=0, rows=0)
        now = time.time()
        until = now if at_once else now + self.settings.erased_snapshot_retention_s
        change = ForgetRows(key, until if in_snapshots else None)
        kept = await self.engine.change(change, None, author, limited=False)
        records = (await self._finish_erasures(key))[key]
        stay = in_snapshots and not at_once
        self.encoders.cache.forget({key})  # rows that were being encoded meanwhile
        pending = self.engine.replication.behind(self.directory.transaction_log().journal.sequence)
        known = {"snapshots_until": until if stay else None, "followers_pending": pending}
        return Erasure(records=len(records), rows=kept["rows"], **known)

    async def _remove_erased_snapshots(self) -> None:
        """Remove the snapshots from before erasures whose time is over; a start for recovery always stays."""
        first, exclusions = await self.engine.call_writer(
            lambda writer: erased_before(writer.transaction_log.journal, time.time())
        )
        listed = await asyncio.to_thread(self.directory.snapshots.list)
        old = {one.id for one in listed if one.sequence < first}
        if not old:
            return
        if not any(exclusions.allows_start(one.sequence) for one in listed if one.id not in old):
            await self._snapshot()
        await asyncio.to_thread(self.directory.snapshots.remove, lambda one: one in old)
        _log.info("snapshots from before an erasure removed", extra={"sequence": first})

    async def background_loop(self) -> None:
        """Take snapshots as the settings say, until `stop_background`."""
        again, look = 0.0, 0.0
        while await self.runs_for(_WATCH_S):
            due = self.engine.snapshot_due and time.monotonic() >= again
            if due and not await _logged("no snapshot was taken", self.snapshot()):
                again = time.monotonic() + _RETRY_S
            if time.monotonic() >= look:
                look = time.monotonic() + _RETRY_S
                await _logged("no snapshot was removed", self.in_turn(self._remove_erased_snapshots()))

    async def heartbeat(self) -> None:
        """Tell listeners once a second how busy the engine is, until `stop_background`."""
        while await self.runs_for(_WATCH_S):
            waiting = {"waiting": sum(self.engine.waiting), "listeners": self.events.listeners}
            self.events.publish(Event("load", self.telemetry.load.summary() | waiting))

    async def runs_for(self, seconds: float) -> bool:
        """Wait for seconds, or until `stop_background`; return False after that."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return not self._stop.is_set()

    def stop_background(self) -> None:
        """End `heartbeat`, and `background_loop` once the snapshot that it is taking is taken."""
        self._stop.set()


async def _logged(failure: str, work: Coroutine[Any, Any, object]) -> bool:
    """Run background work, and return True if it was done; no failure, also by a bug, ends the background loop."""
    try:
        await work
    except Exception as error:  # noqa: BLE001 - see above
        _log.error(failure, extra={"reason": str(error)}, exc_info=not isinstance(error, SuperposedError))
        return False
    return True
