"""From journal records back to the changes that they were made of."""

from collections.abc import Callable, Mapping

from superposed_service.changes.base import Change
from superposed_service.changes.exclusions import RELABEL
from superposed_service.changes.quarantine import Quarantine, Release
from superposed_service.changes.registration import Alter, Delete, Register
from superposed_service.changes.rehearsal import Consolidate, ForgetRows
from superposed_service.changes.update import Update
from superposed_service.errors import JournalCorrupt
from superposed_service.storage import Record

_KINDS: Mapping[str, Callable[[Record], Change]] = {
    kind.kind: kind.from_record
    for kind in (Register, Alter, Delete, Update, Quarantine, Release, Consolidate, ForgetRows)
} | {RELABEL: Update.from_record}


def change_of(record: Record) -> Change:
    """Return the change that a record was made of.

    Raises:
        JournalCorrupt: No release of this service made such a record.
        HistoryTruncated: Its rows were erased.
    """
    if record.kind not in _KINDS:
        raise JournalCorrupt(f"record {record.sequence} is of an unknown kind", received=record.kind)
    change = _KINDS[record.kind](record)
    change.author = record.head.get("author")
    return change
