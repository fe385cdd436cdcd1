"""Forgetting a task's rows: what was learned stays, the rows themselves are gone from the disk."""

import math
from collections.abc import Mapping, Sequence

from superposed.errors import UnknownTask
from superposed.store.store import WeightStore
from superposed_service.changes.exclusions import FORGET_ROWS, Exclusions
from superposed_service.changes.rollback import teaching
from superposed_service.errors import NotReady
from superposed_service.storage import Journal, TransactionLog


def find_rows(transaction_log: TransactionLog, store: WeightStore, key: str) -> tuple[bool, bool, int]:
    """Find what there is to erase of a task, on the journal's thread; raise `UnknownTask` for a key that no task had.

    Return whether rows of it stand in the journal, or are kept for rehearsal; whether older snapshots may hold rows
    that are kept for rehearsal; and the sequence number of its newest erasure, 0 for none.
    """
    journal, replay_buffer = transaction_log.journal, store.replay_buffer
    begins, found = teaching(key, journal)
    if not (begins or found or key in store.tasks):
        raise UnknownTask("no task has or had this key", received=key)
    erasures = [sequence for sequence, _, head in journal.rare({FORGET_ROWS}) if head["key"] == key]
    has_rows = bool(journal.with_payload(found)) or replay_buffer.names(key)
    return has_rows, replay_buffer.enabled, max(erasures, default=0)


def erased_before(journal: Journal, now: float) -> tuple[int, Exclusions]:
    """Find which snapshots hold erased rows and have had their time.

    Return the sequence number before which snapshots are to be removed by now, 0 for none; and the exclusions, which
    tell the snapshots that recovery can start from.
    """
    erasures = journal.rare({FORGET_ROWS})
    due = [sequence for sequence, _, head in erasures if (head.get("snapshots_until") or math.inf) <= now]
    return max(due, default=0), Exclusions.read(journal, journal.sequence, checked=True)


def forgotten(journal: Journal) -> dict[str, list[int]]:
    """Return the records whose rows a later record forgets, and that still have them, by task."""
    newest = {head["key"]: sequence for sequence, _, head in journal.rare({FORGET_ROWS})}
    return {
        key: journal.with_payload([one for one in teaching(key, journal)[1] if one < sequence])
        for key, sequence in newest.items()
    }


def erase_rows(transaction_log: TransactionLog, records: Mapping[str, Sequence[int]], through: int) -> None:
    """Erase the payloads of records that teach tasks, and the tasks' canaries, on the journal's thread.

    Whole payloads go, also of updates that teach other tasks beside it. A rollback that would have to replay one of
    them is refused from then on. `through` is a snapshot's sequence number that no record's is beyond: later ones are
    needed for recovery. Raise `NotReady` where the snapshot cannot be started from any more.
    """
    journal = transaction_log.journal
    if not Exclusions.read(journal, journal.sequence, checked=True).allows_start(through):
        raise NotReady("a rollback has changed the past since the snapshot was taken: ask again")
    for key, sequences in records.items():
        transaction_log.erase(key, sequences)
