"""Changes on their way into the store: checked, committed to the journal in groups, applied in order.

The order is the guarantee: a change is applied only once its record is on the disk, and answered only once
it is applied. While one group is applied, the next may be on its way to the disk, on a thread of its own:
its updates were checked against the same tasks, as no update changes any, and they are applied after it.
"""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from time import perf_counter
from typing import TypeAlias

from superposed.errors import SuperposedError
from superposed.store.store import WeightStore
from superposed_service.changes.base import JsonObject, PreparedChange, rejected, signed
from superposed_service.changes.exclusions import EPOCH, REFUSAL, Exclusions
from superposed_service.changes.quarantine import Quarantine
from superposed_service.changes.replay import Followed, rejection_entry
from superposed_service.changes.snapshot import StoreImage, keep, trim_some
from superposed_service.engine.poison_detector import PoisonDetector
from superposed_service.engine.telemetry import Telemetry
from superposed_service.engine.work import Observer, PendingWrite, PreparedWrite, admit, resolve, settled
from superposed_service.errors import DigestMismatch, JournalCorrupt, NotLeader, StorageUnavailable
from superposed_service.observability.counters import Metrics
from superposed_service.storage import Entry, Position, Record, Shipment, Snapshot, Snapshots, Statement, TransactionLog
from superposed_service.storage.idempotency import IdempotencyKey

_log = logging.getLogger("superposed.engine")

# Records between two notes of the store's digest, which a later replay must arrive at.
DIGEST_INTERVAL = 256

# A record that is on the disk, and its write; None for a refusal's own record, which changes nothing.
_Committed: TypeAlias = tuple[Record, PreparedWrite | None]
# The records of a group that is on the disk, and since when on the clock of `perf_counter`.
_Journalled: TypeAlias = tuple[Sequence[Record], float]


@dataclass(frozen=True)
class _Transaction:
    """A group on its way to the disk."""

    writes: Sequence[PreparedWrite]  # checked, and not yet applied
    beside: Sequence[Statement]  # what goes to the disk with it
    digest: tuple[int, str] | None  # of the store, noted with it
    began: float  # on the clock of `perf_counter`


class Writer:
    """The one way into a store. The engine's thread only.

    The `detector` attributes harm to other tasks and quarantines its source; None for none. `telemetry` receives counts
    and times; by default they are dropped. `replayed` records came after the newest snapshot.
    """

    def __init__(
        self,
        store: WeightStore,
        transaction_log: TransactionLog,
        *,
        detector: PoisonDetector | None = None,
        telemetry: Telemetry | None = None,
        replayed: int = 0,
    ) -> None:
        self.store = store  # a rollback puts another in its place
        self.telemetry = telemetry or Telemetry(Metrics(0))
        self._detector = detector
        self.transaction_log = transaction_log
        self.records_since_snapshot = replayed  # those that a recovery would have to replay
        self.bytes_since_snapshot = 0  # of their payloads
        self._committed: deque[_Committed] = deque()
        self._digest: tuple[int, str] | None = None
        self._flight: tuple[_Transaction, Future[_Journalled]] | None = None
        self.observer: Observer | None = None  # is told every change that was answered; must not wait nor raise
        self._broken = False

    @property
    def pending(self) -> int:
        """Number of committed changes that wait to be applied."""
        return len(self._committed)

    @property
    def committing(self) -> bool:
        """True while a group is being written to the journal."""
        return self._flight is not None

    @property
    def finished(self) -> bool:
        """True if that group was committed, or failed: `finish` would not wait."""
        flight = self._flight  # the event loop asks too
        return flight is not None and flight[1].done()

    def may_begin(self, grouped: bool) -> bool:
        """Return True if a change may be prepared now: the tasks stay as they are until its turn."""
        if self.committing:
            return False
        waiting = [prepared.write for _, prepared in self._committed if prepared is not None]
        return all(write.grouped for write in waiting) if grouped else not self.pending

    def begin(self, writes: Sequence[PendingWrite], elsewhere: Executor) -> Future[_Journalled] | None:
        """Prepare changes, and journal the good ones in one transaction; answer the others at once.

        Only the first may be one that is not `grouped`. The thread `elsewhere` then has the journal to itself:
        `finish` waits for the disk, and nothing else is begun before. Return a future that is done once `finish`
        would not wait; None where there is nothing to journal.
        """
        if not (good := admit(writes, self.store, self.transaction_log)):
            return None
        transaction = _Transaction(good, self.transaction_log.take_changes(), self._digest, perf_counter())
        future = elsewhere.submit(self._journal, transaction)
        self._flight = (transaction, future)
        return future

    def _journal(self, transaction: _Transaction) -> _Journalled:
        writes = transaction.writes
        entries = [(signed(one.change.entry(), one.write.change.author), one.idempotency_key) for one in writes]
        records = self.transaction_log.write(entries, transaction.beside, digest=transaction.digest)
        return records, perf_counter()

    def finish(self) -> None:
        """Wait until what was begun is on the disk; then it may be applied."""
        if self._flight is None:
            return
        (transaction, future), self._flight = self._flight, None
        try:
            records, ended = future.result()
        except Exception as error:  # noqa: BLE001 - belongs to these requests, not to the engine
            self.transaction_log.requeue(transaction.beside)
            for one in transaction.writes:
                one.write.future.set_exception(error)
            return
        if self._digest == transaction.digest:
            self._digest = None
        self._count(records)
        self._committed.extend(zip(records, transaction.writes, strict=True))
        tickets = [one.write.timing for one in transaction.writes]
        self.telemetry.journalled(tickets, transaction.began, ended, records[-1].sequence)

    def _write(
        self, changes: Sequence[tuple[Entry, IdempotencyKey | None]], beside: Sequence[Statement] | None = None
    ) -> list[Record]:
        """Journal records on this thread, after the group that is on its way."""
        self.finish()
        records = self.transaction_log.write(changes, beside, digest=self._digest)
        self._digest = None
        self._count(records)
        return records

    def _count(self, records: Sequence[Record]) -> None:
        self.records_since_snapshot += len(records)
        self.bytes_since_snapshot += sum(len(record.payload or b"") for record in records)

    @property
    def attributing(self) -> bool:
        """True while the poison detector attributes harm: until it has, nothing is committed or applied."""
        return self._detector is not None and self._detector.attributing

    def attribute(self) -> None:
        """Let the poison detector take a step, and quarantine the sources that it accuses."""
        self.finish()  # it reads the journal
        self._detect(lambda detector: self._quarantine(detector.attribute()))

    def _quarantine(self, decisions: Sequence[Quarantine]) -> None:
        prepared = [decision.prepare(self.store) for decision in decisions]
        if prepared:
            records = self._write([(change.entry(), None) for change in prepared])
            writes = map(PreparedWrite, map(PendingWrite, decisions), prepared)
            self._committed.extend(zip(records, writes, strict=True))

    def _detect(self, look: Callable[[PoisonDetector], None]) -> None:
        if self._detector is None or not self.transaction_log.epochs.open:  # a leader's decisions are records
            return
        try:
            look(self._detector)
        except Exception:  # noqa: BLE001 - the changes themselves are applied and answered
            _log.exception("the poison detector failed", extra={"sequence": self.store.sequence})

    def apply_next(self, *, attribute: bool = True) -> int:
        """Apply the oldest committed change, and give its request the response.

        With `attribute` it waits until the poison detector has attributed harm that it may have found. Return its
        cost, as `Change.size` counts; 0 where that says nothing of the time it took.
        """
        record, prepared = self._committed.popleft()
        if prepared is None:
            self.store.sequence += 1
            return 0
        write = prepared.write
        if self._broken:
            write.future.set_exception(StorageUnavailable("a record before this one could not be applied"))
            return 0
        resolve(write.future, lambda: self._apply_timed(record, prepared))
        error = write.future.exception()
        self._detect(lambda detector: detector.observe(self.store, record, prepared.change, error))
        if self.observer is not None:
            self.observer(record, write.future)
        while attribute and self.attributing:
            self.attribute()
        return write.cost if write.grouped else 0

    def receive(self, shipment: Shipment, rebuilt: Callable[[int], WeightStore]) -> Sequence[Future[JsonObject]]:
        """Journal a leader's records, to be applied in their turn, and take over its API keys; return their futures.

        `rebuilt` returns the store as of a record that takes others out. Raise `DigestMismatch` where the leader's
        store is another one, though the arithmetic is the same; `JournalCorrupt` where the records do not continue this
        journal; `NotLeader` where this server has promised a later epoch.
        """
        log = self.transaction_log
        if shipment.epoch < log.epochs.promised:
            raise NotLeader("the leader's epoch is over", expected=log.epochs.promised, received=shipment.epoch)
        for key in shipment.api_keys or ():
            if log.api_keys.get(key.id) != key:
                log.api_keys.put(key)
        log.canaries.baseline = tuple(shipment.baseline)
        if log.journal.fingerprint() == shipment.fingerprint:
            self._compare(shipment.digests)
        new_epoch = (shipment.epoch, shipment.starts) != (log.epochs.promised, log.epochs.starts)
        if not (shipment.changes or new_epoch):
            return []
        noting = [log.epochs.noting(shipment.epoch, shipment.starts)] if new_epoch else []
        records = self._write(shipment.changes, [*log.take_changes(), *noting])
        if log.journal.chain.hex() != shipment.chain:
            log.database.fail("the leader's records do not continue this journal")
            raise JournalCorrupt("the leader's records do not continue this journal", received=shipment.chain)
        futures = []
        for record, (_, origin) in zip(records, shipment.changes, strict=True):
            change = Followed(record, rebuilt, self._keep_canaries)
            write = PendingWrite(change, origin)
            write.future.set_running_or_notify_cancel()  # a follower that stops must not cancel it
            # A refusal is settled where its record is refused.
            prepared = None if record.kind == REFUSAL else PreparedWrite(write, change.prepare(self.store), origin)
            self._committed.append((record, prepared))
            futures += [write.future] if prepared else []
        return futures

    def _keep_canaries(self, record: Record, change: PreparedChange) -> None:
        if self._detector is not None:
            self._detector.keep(self.store, record, change)

    def go_on(self, change: Callable[[TransactionLog], None], rebuilt: Callable[[], WeightStore]) -> None:
        """Change the records of the journal, and go on with the store `rebuilt` of the new ones."""
        self._settle_down()
        change(self.transaction_log)
        self.store.adopt(rebuilt())
        self._digest = None

    def promise(self, epoch: int) -> Position:
        """Promise an epoch: append nothing of an older one from now on; return the end of the journal.

        Raise `NotLeader` where it was promised already, or a later one.
        """
        self._settle_down()
        epochs, sequence = self.transaction_log.epochs, self.store.sequence
        if epoch <= epochs.promised:
            raise NotLeader("this server has promised another epoch", expected=epochs.promised + 1, received=epoch)
        epochs.promise(epoch)
        return Position(epochs.epoch_of(sequence), sequence)

    def lead(self, epoch: int, detector: PoisonDetector | None) -> None:
        """Lead a promised epoch, from a record on that says so; raise `NotLeader` where it is not the promised one."""
        self._settle_down()
        log = self.transaction_log
        if epoch != log.epochs.promised or log.epochs.open:
            raise NotLeader("this server has promised another epoch", expected=log.epochs.promised, received=epoch)
        first, head = log.journal.sequence + 1, {"epoch": epoch, "answer": {}}
        records = self._write([(Entry(EPOCH, head), None)], [*log.take_changes(), log.epochs.lead(first)])
        self._committed.extend((record, None) for record in records)
        self._detector = detector
        self._settle_down()

    def _settle_down(self) -> None:
        """Apply everything that is on the disk, or on its way there."""
        self.finish()
        while self.pending:
            self.apply_next()

    def _compare(self, digests: Mapping[int, str]) -> None:
        own = self.transaction_log.journal.digests(min(digests, default=0) - 1)
        for sequence, digest in digests.items():
            if own.get(sequence, digest) != digest:
                self.transaction_log.database.fail(text := f"the leader's store is another one at record {sequence}")
                raise DigestMismatch(text, expected=digest, received=own[sequence])

    def _apply_timed(self, record: Record, prepared: PreparedWrite) -> JsonObject:
        """Apply a change, and report it before it is answered."""
        began = perf_counter()
        refused: Exception | None = None
        try:
            return self._apply(record, prepared.change, prepared.idempotency_key)
        except Exception as error:
            refused = error
            raise
        finally:
            timing, rows = prepared.write.timing, prepared.change.rows_by_task
            self.telemetry.applied(timing, record, rows, refused, began)

    def _apply(self, record: Record, change: PreparedChange, idempotency_key: IdempotencyKey | None) -> JsonObject:
        try:
            answer = change.apply(self.store)
        except SuperposedError as error:
            self.store.sequence = record.sequence
            self._refuse(record, idempotency_key, error)
            raise
        except BaseException as error:
            # What it left of the store is not known: the next start builds it again from the journal.
            self._broken = True
            self.transaction_log.database.fail(f"record {record.sequence} could not be applied: {error!r}")
            raise
        if self.store.sequence != record.sequence:
            self.transaction_log.database.fail(f"record {record.sequence} was applied as {self.store.sequence}")
        self._settle(idempotency_key, answer)
        if self.store.sequence % DIGEST_INTERVAL == 0:
            self._digest = (self.store.sequence, self.store.digest())
        return rejected(answer)

    def _refuse(self, record: Record, idempotency_key: IdempotencyKey | None, error: SuperposedError) -> None:
        entry = rejection_entry(record.sequence, error)
        [recorded] = self._write([(entry, None)])
        self._committed.append((recorded, None))
        self._settle(idempotency_key, dict(entry.head["answer"]))

    def _settle(self, idempotency_key: IdempotencyKey | None, answer: JsonObject) -> None:
        if idempotency_key is not None:
            self.transaction_log.answers.settle(idempotency_key.key, answer)

    def answer_to(self, idempotency_key: IdempotencyKey | None) -> JsonObject | None:
        """Return the answer that a request had when it came before; raises what it was refused with."""
        return settled(self.transaction_log, idempotency_key, {})

    def image(self) -> StoreImage:
        """Return the store as a snapshot's bytes; what was answered so far is kept first."""
        self._settle_down()  # a snapshot stands between records, never among committed ones
        self.transaction_log.check_writable()
        self.transaction_log.flush()
        journal, store = self.transaction_log.journal, self.store
        exclusions = Exclusions.read(journal, journal.sequence, checked=True)
        since = (self.records_since_snapshot, self.bytes_since_snapshot)
        return StoreImage(store.to_bytes(), exclusions, since, journal.link(store.sequence))

    def snapshot(self, snapshots: Snapshots, history: int) -> Snapshot:
        """Take a snapshot at once; see `keep`."""
        image = self.image()
        snapshot, needed = keep(snapshots, image, history)
        self.kept(image, snapshot)
        while trim_some(self.transaction_log, needed):
            pass
        return snapshot

    def kept(self, image: StoreImage, snapshot: Snapshot) -> None:
        """Note that an image is a snapshot on the disk: a recovery begins there.

        The digest of its store goes to the journal too, so that a replay from an older snapshot must arrive at it.
        """
        self.finish()
        self.records_since_snapshot -= image.since[0]
        self.bytes_since_snapshot -= image.since[1]
        self.transaction_log.flush(digest=(snapshot.sequence, snapshot.digest))
