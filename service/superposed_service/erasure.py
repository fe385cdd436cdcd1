"""Forgetting a task's rows: what was learned stays, the rows themselves are gone from the disk."""

from __future__ import annotations

from superposed.errors import UnknownTask
from superposed_service.errors import NotReady
from superposed_service.exclusions import Exclusions
from superposed_service.rollback import teaching
from superposed_service.writer import Writer

__all__ = ["check_known", "erase_rows"]


def check_known(writer: Writer, key: str) -> None:
    """Checks that there is, or was, a task to erase the rows of.

    Raises:
        UnknownTask: No task has or had the key.
    """
    begins, found = teaching(key, writer.ledger.journal)
    if not (begins or found or key in writer.store.tasks):
        raise UnknownTask("no task has or had this key", received=key)


def erase_rows(writer: Writer, key: str, through: int) -> int:
    """Erases the payloads of every update that teaches a task, and its canaries, on the journal's thread.

    Whole payloads go, also of updates that teach other tasks beside it. A rollback that would have to
    replay one of them is refused from then on.

    Args:
        writer: Whose journal.
        key: The task.
        through: A snapshot's sequence number: later records are still needed for recovery, and stay.

    Returns:
        How many payloads were erased.

    Raises:
        NotReady: The snapshot cannot be started from any more.
        StorageUnavailable: The disk refused.
    """
    journal = writer.ledger.journal
    if not Exclusions.read(journal, journal.sequence).allows_start(through):
        raise NotReady("a rollback has changed the past since the snapshot was taken: ask again")
    chosen = [sequence for sequence in teaching(key, journal)[1] if sequence <= through]
    writer.ledger.erase(key, chosen)
    return len(chosen)
