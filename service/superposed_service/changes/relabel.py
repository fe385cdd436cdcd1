"""Correcting the targets of an update: it is taken out, and its rows are learned with other targets."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from superposed.store.store import WeightStore
from superposed.tasks.batch import Batch
from superposed.tasks.targets import Target, Targets
from superposed_service.changes.base import Change, JsonObject, PreparedChange, keys_of, rejected
from superposed_service.changes.exclusions import RELABEL, Exclusions, RollbackDecision, ranges
from superposed_service.changes.registration import Delete
from superposed_service.changes.rollback import rebuild
from superposed_service.changes.update import Update
from superposed_service.errors import HistoryTruncated, InvalidRequest, UnknownUpdate
from superposed_service.observability.load import Progress
from superposed_service.storage import Entry, Journal, Record, Snapshots, TransactionLog


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
            raise UnknownUpdate("the update was taken out, or rejected", received=self.sequence)
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
            text = "targets: not one for each row of the update, null for one that was right"
            raise InvalidRequest(text, expected=len(batch), received=len(self.targets))
        given = enumerate(self.targets)
        return [_learned_target(batch, learned, row) if target is None else target for row, target in given]


def find_update(journal: Journal, sequence: int) -> Record:
    """Return the record of an update; raise `UnknownUpdate` where none has that sequence number.

    Raise `HistoryTruncated` where the journal does not reach back to it.
    """
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
