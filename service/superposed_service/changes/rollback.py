"""Taking records out of a store's past, and correcting updates: rebuilt from a snapshot and the journal without them.

A rollback is a record itself. What it takes out keeps its sequence numbers, and a later rollback to before
it undoes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from superposed.errors import SuperposedError, UnknownTask
from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.targets import Target, Targets
from superposed_service.changes.base import Change, JsonObject, PreparedChange, keys_of, rejected
from superposed_service.changes.exclusions import RELABEL, ROLLBACK, TAKING_OUT, Exclusions, RollbackDecision, ranges
from superposed_service.changes.registration import Delete, Register
from superposed_service.changes.replay import Rejected, newest_good, replay, starts
from superposed_service.changes.update import Update
from superposed_service.errors import HistoryTruncated, InvalidRequest, StorageError, UnknownUpdate
from superposed_service.observability.load import Progress
from superposed_service.storage import Entry, Journal, Record, Snapshots, TransactionLog


@dataclass(frozen=True)
class Selection:
    """Selection of the records to take out; exactly one field is given."""

    to_sequence: int | None = None  # all that came after this one
    task: str | None = None  # the updates that teach this task, also inside compositions
    sequences: tuple[int, int] | None = None  # a range, both ends included
    api_key: str | None = None  # the updates that this API key sent

    def find(self, store: WeightStore, transaction_log: TransactionLog) -> list[tuple[int, int]]:
        """Return the ranges of records that are meant.

        Raise `InvalidRequest` where there is no such record; `UnknownTask` where no task has or had the key;
        `UnknownApiKey` where there was no such API key; `HistoryTruncated` where the journal was trimmed past the
        beginning of the task or the key.
        """
        journal = transaction_log.journal
        if self.api_key is not None:
            return ranges(_sent_by(self.api_key, transaction_log))
        if self.task is not None:
            return ranges(_whole_stream(self.task, store, journal))
        first, last = self.sequences or ((self.to_sequence or 0) + 1, journal.sequence)
        if last > journal.sequence or first > journal.sequence + 1:
            most, asked = f"{journal.sequence} at most", max(first - 1, last)
            raise InvalidRequest("there is no such record yet", expected=most, received=asked)
        return [(first, last)] if first <= last else []


def teaching(key: str, journal: Journal) -> tuple[int, list[int]]:
    """Find a key's first registration in the journal (0 for none), and its updates, in order."""
    first, found = 0, []
    for sequence, kind, head in journal.heads({Register.kind, Update.kind, RELABEL}):
        if key in keys_of(head):
            first = first or (sequence if kind == Register.kind and head["generation"] == 0 else 0)
            found += [sequence] if kind != Register.kind else []
    return first, found


def _whole_stream(key: str, store: WeightStore, journal: Journal) -> list[int]:
    first, found = teaching(key, journal)
    if first and not _follows_lost_records(first, journal):
        return found
    if first or found or key in store.tasks:
        raise _truncated(f"the beginning of task {key}", journal)
    raise UnknownTask("no task has or had this key", received=key)


def _truncated(moment: str, journal: Journal) -> HistoryTruncated:
    wanted = f"records after {journal.horizon}: name a range of sequences instead"
    return HistoryTruncated(f"the journal does not reach back to {moment}", expected=wanted)


def _follows_lost_records(first: int, journal: Journal) -> bool:
    """Return True if a rollback before a registration took out records that the journal no longer has.

    An earlier registration of the key may be among them, and another rollback may have brought it back.
    """
    rollbacks = [head["excluded"] for sequence, _, head in journal.rare(TAKING_OUT) if sequence < first]
    return any(begin <= journal.horizon for excluded in rollbacks for begin, _ in excluded)


def _sent_by(identifier: str, transaction_log: TransactionLog) -> list[int]:
    journal = transaction_log.journal
    if journal.horizon > transaction_log.api_keys.find(identifier).since:
        raise _truncated(f"when API key {identifier} was made", journal)
    updates = journal.heads({Update.kind, RELABEL})
    return [sequence for sequence, _, head in updates if head.get("author") == identifier]


def rebuild(
    decision: RollbackDecision, snapshots: Snapshots, transaction_log: TransactionLog, device: str, progress: Progress
) -> tuple[WeightStore, int, list[list[int]]]:
    """Rebuild the store as if some records had never been.

    Return the store; the sequence number of the snapshot that it was rebuilt from; and the ranges of records taken out:
    those of the decision, and those that depend on one of them. Raise `HistoryTruncated` where no snapshot is old
    enough or rows that are needed were erased, and `StorageError` where the disk refused or a record is damaged.
    """
    journal, last = transaction_log.journal, decision.sequence - 1
    exclusions = Exclusions.read(journal, last).with_rollback(decision)
    try:
        rebuilt, start, _ = newest_good(snapshots, journal, exclusions, device, last)
    except HistoryTruncated:
        reached = starts(snapshots.list(), journal, Exclusions.read(journal, last), last)
        kept = min((one.sequence for one in reached), default=last)
        text = "the journal and its snapshots do not reach back so far, or rows were erased since"
        raise HistoryTruncated(text, expected=f"records after {kept}") from None
    dependent: list[int] = []
    walk = replay(rebuilt, journal, exclusions, last)
    for record, outcome in progress.watch(walk, last - start.sequence):
        if isinstance(outcome, StorageError | HistoryTruncated):
            raise outcome
        if isinstance(outcome, Rejected | SuperposedError):
            dependent.append(record.sequence)
    numbers = [number for first, end in decision.excluded for number in range(first, end + 1)]
    return rebuilt, start.sequence, [list(one) for one in ranges({*numbers, *dependent})]


@dataclass(eq=False)
class RollbackChange(Change):
    """A rollback. `prepare` rebuilds another store aside: only a store that could be rebuilt is replaced."""

    kind = ROLLBACK

    selection: Selection
    snapshots: Snapshots
    transaction_log: TransactionLog
    progress: Progress = field(default_factory=Progress)

    def prepare(self, store: WeightStore) -> PreparedChange | JsonObject:
        """Rebuild without the chosen records and what depends on them; raises as `Selection.find` and `rebuild`."""
        chosen = self.selection.find(store, self.transaction_log)
        if not chosen:
            return {"sequence": store.sequence, "rebuilt_from": None, "excluded": []}
        decision = RollbackDecision(self.transaction_log.journal.sequence + 1, chosen)
        log, device = self.transaction_log, str(store.device)
        rebuilt, start, excluded = rebuild(decision, self.snapshots, log, device, self.progress)
        answer: JsonObject = {"sequence": decision.sequence, "rebuilt_from": start, "excluded": excluded}
        # The record holds what was taken out: replay does not decide again.
        head = {"asked": vars(self.selection), "excluded": answer["excluded"], "answer": answer}

        def apply(store: WeightStore) -> JsonObject:
            rebuilt.sequence = store.sequence + 1
            store.adopt(rebuilt, since=min(first for first, _ in excluded))
            return answer

        return PreparedChange(lambda: Entry(self.kind, head), apply)


@dataclass(eq=False)
class Relabel(Change):
    """A correction. `prepare` rebuilds another store aside, which learns the rows with their new targets."""

    kind = RELABEL

    sequence: int  # the update whose targets are corrected
    targets: Sequence[Target | None]  # one a row; None for a row whose target was right
    snapshots: Snapshots
    transaction_log: TransactionLog
    progress: Progress = field(default_factory=Progress)

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Rebuild the store without the update, and teach it the update's rows again.

        Raise `UnknownUpdate` where no update has that sequence number, or it was taken out, or its task was deleted;
        `HistoryTruncated` where no snapshot is old enough, or the rows were erased; `SuperposedError` where the new
        targets cannot be learned.
        """
        journal = self.transaction_log.journal
        record = find_update(journal, self.sequence)
        last = journal.sequence
        exclusions = Exclusions.read(journal, last)
        if self.sequence in exclusions:
            wanted = "an update that was learned, or the last correction of it"
            raise UnknownUpdate("the update was taken out, or rejected", expected=wanted, received=self.sequence)
        _check_not_deleted(record, journal, exclusions)
        # What an earlier correction took out stays out.
        before = [(first, end) for first, end in record.head.get("excluded", [])]
        chosen = [(self.sequence, self.sequence), *before]
        decision = RollbackDecision(last + 1, chosen, schema_stays=True)
        log, device = self.transaction_log, str(store.device)
        rebuilt, start, excluded = rebuild(decision, self.snapshots, log, device, self.progress)
        if excluded != [list(one) for one in ranges(first for first, _ in chosen)]:
            text = "other records depend on this update: roll it back, and send its rows again"
            among = f"dependent records among {excluded}"
            raise InvalidRequest(text, expected="an update that no record depends on", received=among)
        update = Update.from_record(record).with_targets(rebuilt, self._corrected)
        update.author = self.author
        prepared = update.prepare(rebuilt)
        rebuilt.sequence = last
        measured = rejected(prepared.apply(rebuilt))
        answer = {**measured, "relabelled": self.sequence, "rebuilt_from": start, "excluded": excluded}

        def entry() -> Entry:
            taught = prepared.entry()
            head = {**taught.head, "excluded": excluded, "answer": answer}
            return Entry(self.kind, head, taught.payload)

        def apply(store: WeightStore) -> JsonObject:
            store.adopt(rebuilt, since=min(first for first, _ in excluded))
            return answer

        return PreparedChange(entry, apply, prepared.task, prepared.rows_by_task)

    def _corrected(self, batch: Batch, learned: Targets) -> list[Target]:
        """Return the new targets, and those of before for rows that were right."""
        if len(self.targets) != len(batch):
            text = "targets: not one for each row of the update, null (None) for one that was right"
            raise InvalidRequest(text, expected=len(batch), received=len(self.targets))
        given = enumerate(self.targets)
        return [_learned_target(batch, learned, row) if target is None else target for row, target in given]


def find_update(journal: Journal, sequence: int) -> Record:
    """Return an update's record; raise `UnknownUpdate` for no update, `HistoryTruncated` for one that was trimmed."""
    if not 0 < sequence <= journal.sequence:
        raise UnknownUpdate("there is no such record", expected=f"1 to {journal.sequence}", received=sequence)
    if sequence <= journal.horizon:
        wanted = f"records after {journal.horizon}"
        raise HistoryTruncated("the journal does not reach back to that update", expected=wanted, received=sequence)
    [record] = journal.replay(sequence - 1, sequence)
    if record.kind not in {Update.kind, RELABEL}:
        raise UnknownUpdate("the record is no update", expected="an update's sequence", received=record.kind)
    return record


def _check_not_deleted(record: Record, journal: Journal, exclusions: Exclusions) -> None:
    """Raise `UnknownUpdate` where a task of the record was deleted since: one of the same key is another."""
    deleted = {
        head["key"]
        for sequence, _, head in journal.rare({Delete.kind})
        if sequence > record.sequence and sequence not in exclusions
    }
    if gone := deleted & keys_of(record.head):
        wanted = "an update of tasks that are still there"
        raise UnknownUpdate("a task of the update was deleted since", expected=wanted, received=sorted(gone))


def _learned_target(batch: Batch, learned: Targets, row: int) -> Target:
    schema = batch.parts[int(batch.places()[row])].task.schema
    index = int(learned.classes[row])
    if index < 0:
        values = learned.values if learned.values is not None else learned.classes[:, None]
        return [float(value) for value in values[row, : schema.outputs]]
    return index if schema.labels is None else schema.labels[index]
