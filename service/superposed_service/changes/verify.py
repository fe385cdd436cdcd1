"""Checking a data directory that no server is using: what is wrong with it, and what can be done."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from superposed.errors import SuperposedError
from superposed_service.changes.exclusions import Exclusions
from superposed_service.changes.replay import check_history, read_store, recover, use_noted_threads
from superposed_service.errors import JournalCorrupt
from superposed_service.storage import DataDirectory, Snapshot, TransactionLog

_ASIDE = "move its two files away; the line on recovery says whether the others are enough"
_TAKE_OUT = (
    "restore the directory from a copy; or `superposed export DIR FILE --snapshot` and import that:"
    " it is the store of the newest good snapshot, without the records after it"
)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    subject: str
    detail: str  # what it holds, or what is wrong with it
    remedy: str | None = None  # what can be done; None where it is good


def verify(directory: DataDirectory) -> list[Finding]:
    """Read everything once, and replay the journal onto the newest good snapshot; changes nothing."""
    found = directory.snapshots.list()
    findings = [_finding(f"snapshot {one.id}", partial(_check_snapshot, directory, one), _ASIDE) for one in found]
    unreadable = directory.snapshots.unreadable()
    findings += [Finding(f"manifest {name}", "is not what was written", _ASIDE) for name in unreadable]
    if not findings:
        findings.append(Finding("snapshots", "there is none", "restore the directory from a copy"))
    findings.append(_finding("journal", lambda: _check_journal(directory.transaction_log()), _TAKE_OUT))
    if findings[-1].remedy is None:
        found = directory.snapshots.list()  # opening the journal may have removed some
        findings += [_finding(f"origin of {one.id}", partial(_check_origin, directory, one), _ASIDE) for one in found]
        findings.append(_finding("recovery", partial(_check_replay, directory, from_oldest=False), _TAKE_OUT))
        findings.append(_finding("history", partial(_check_replay, directory, from_oldest=True), _TAKE_OUT))
    return findings


def _finding(subject: str, check: Callable[[], str], remedy: str) -> Finding:
    try:
        return Finding(subject, check())
    except SuperposedError as error:
        return Finding(subject, str(error), remedy)


def _check_snapshot(directory: DataDirectory, snapshot: Snapshot) -> str:
    store = read_store(directory.snapshots, snapshot, "cpu")
    return f"good: {len(store.tasks)} tasks after record {store.sequence}, {snapshot.bytes} bytes"


def _check_origin(directory: DataDirectory, snapshot: Snapshot) -> str:
    check_history(directory.transaction_log().journal, snapshot)
    return "good: taken of this journal's records"


def _check_journal(transaction_log: TransactionLog) -> str:
    if damaged := transaction_log.database.damaged_pages():
        raise JournalCorrupt("pages of journal.db are not what was written", received=str(damaged[:10]))
    journal = transaction_log.journal
    erased = sum(record.payload is None for record in journal.replay(journal.horizon))
    first = journal.horizon + 1
    notes = [f"good: records {first} to {journal.sequence}" if journal.has_records else "good: no records"]
    notes += [f"{erased} payloads erased"] if erased else []
    rollbacks = len(Exclusions.read(journal, journal.sequence).rollbacks)
    notes += [f"{rollbacks} rollbacks"] if rollbacks else []
    return ", ".join(notes)


def _check_replay(directory: DataDirectory, *, from_oldest: bool) -> str:
    """Replay; from the oldest snapshot the store must be the one that each later snapshot holds."""
    transaction_log = directory.transaction_log()
    journal, last = transaction_log.journal, transaction_log.journal.sequence
    use_noted_threads(journal)
    store, recovery = recover(directory.snapshots, transaction_log, "cpu", through=last, from_oldest=from_oldest)
    changed, done = recovery.fingerprint_changed, f"good: {recovery.replayed} records replayed"
    if from_oldest:
        return f"{done}, {0 if changed else len(journal.digests(last - recovery.replayed))} digests compared"
    return f"{done}{', by other arithmetic than before' if changed else ''}; digest {store.digest()[:16]}"
