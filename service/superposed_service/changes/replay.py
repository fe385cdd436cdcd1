"""From the disk to a store: the newest good snapshot, and the records after it through the same `apply`."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from tqdm import tqdm

from superposed.errors import ConfigError, SuperposedError, TaskExists
from superposed.learning.online import APPLY_VERSION
from superposed.store.replay_buffer import RULES_VERSION
from superposed.store.store import WeightStore
from superposed_client.models import RecoveryInfo
from superposed_service.changes.base import Change, JsonObject, PreparedChange, rejection
from superposed_service.changes.exclusions import DECISIONS, LASTING, REFUSAL, RELABEL, TAKING_OUT, Exclusions
from superposed_service.changes.quarantine import Quarantine, Release
from superposed_service.changes.registration import Alter, Delete, Register
from superposed_service.changes.rehearsal import Consolidate, ForgetRows
from superposed_service.changes.update import Update
from superposed_service.errors import DigestMismatch, HistoryTruncated, JournalCorrupt, SnapshotMismatch
from superposed_service.observability.load import Progress
from superposed_service.storage import Entry, Journal, Record, Snapshot, Snapshots, TransactionLog

_log = logging.getLogger("superposed.recovery")
_KINDS: Mapping[str, type[Change]] = {
    kind.kind: kind for kind in (Register, Alter, Delete, Update, Quarantine, Release, Consolidate, ForgetRows)
} | {RELABEL: Update}


def fingerprint(device: torch.device) -> dict[str, Any]:
    """Return what bit-identical replay depends on: same fingerprint, same records, same bits."""
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "apply": APPLY_VERSION,
        "rehearsal_rules": RULES_VERSION,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "mkl": torch.backends.mkl.is_available(),  # type: ignore[no-untyped-call]  # torch has no annotation there
    }


# The parts of the fingerprint that a release changes on purpose: past them the same records make another
# store, not only to rounding.
_RULES = ("apply", "rehearsal_rules")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def use_noted_threads(journal: Journal) -> None:
    """Compute with as many threads as the records were applied with, so that a replay is exact."""
    if (noted := journal.fingerprint()) is not None:
        torch.set_num_threads(noted["threads"])


def read_store(snapshots: Snapshots, snapshot: Snapshot, device: str) -> WeightStore:
    """Read a snapshot's store; raise `SnapshotMismatch` where it is damaged, or as `Snapshots.read`."""
    store = WeightStore.from_bytes(snapshots.read(snapshot), device=device)
    if store.sequence != snapshot.sequence:
        text = f"snapshot {snapshot.id} holds another store"
        raise SnapshotMismatch(text, expected=snapshot.sequence, received=store.sequence)
    return store


def recover(
    snapshots: Snapshots,
    transaction_log: TransactionLog,
    device: str,
    *,
    through: int | None = None,
    from_oldest: bool = False,
    progress: Progress | None = None,
) -> tuple[WeightStore, RecoveryInfo]:
    """Bring back the store that was: every acknowledged change, none twice.

    Answers that were not yet kept for their idempotency keys are given again. It ends with the record `through`; by
    default with the newest. From the oldest snapshot in reach (`from_oldest`), it passes every noted digest. Raise
    `JournalCorrupt` where a record is damaged, or cannot be applied; `DigestMismatch` where the replay arrived at
    another store, though the arithmetic is the same, or as `newest_good`.
    """
    journal = transaction_log.journal
    last = journal.sequence if through is None else through
    exclusions = Exclusions.read(journal, last)
    store, start, damaged = newest_good(snapshots, journal, exclusions, device, last, from_oldest=from_oldest)
    noted, now = journal.fingerprint(), fingerprint(store.device)
    changed = noted is not None and noted != now
    other_rules = noted is not None and any(noted.get(rule) != now[rule] for rule in _RULES)
    if changed:
        _log.warning("the records were applied by other arithmetic", extra={"noted": noted, "here": now})
    settle = _settling(transaction_log)
    refused: list[tuple[Record, SuperposedError]] = []
    digests = {} if changed else journal.digests(store.sequence)
    length = last - start.sequence
    walk = (progress or Progress()).watch(replay(store, journal, exclusions, last), length)
    # On a terminal, a progress bar where the replay takes longer than a second.
    for record, outcome in tqdm(walk, "replaying the journal", length, unit="record", delay=1, disable=None):
        if isinstance(outcome, Rejected):
            refused.append((record, outcome.error))  # the process ended before this could be journalled
        elif isinstance(outcome, SuperposedError):
            raise JournalCorrupt(f"record {record.sequence} cannot be applied: {outcome}") from outcome
        else:
            settle(record.sequence, outcome)
        if exclusions.allows_start(record.sequence):
            _check_digest(store, digests.get(record.sequence))
    for record, error in refused if through is None else ():
        entry = rejection_entry(record.sequence, error)
        transaction_log.write([(entry, None)])
        store.sequence += 1
        settle(record.sequence, entry.head["answer"])
    known: dict[str, Any] = {"snapshot": start.id, "replayed": length, "damaged": damaged}
    return store, RecoveryInfo(**known, fingerprint_changed=changed, rules_changed=other_rules)


def check_history(journal: Journal, snapshot: Snapshot) -> None:
    """Check that a snapshot was taken of the records in this journal; raise `SnapshotMismatch` for other records.

    A snapshot of the first release names no chain, and one before the horizon cannot be compared.
    """
    if snapshot.sequence <= journal.sequence and not journal.holds(snapshot.sequence, snapshot.chain):
        raise SnapshotMismatch(f"snapshot {snapshot.id} is from another directory's history", received=snapshot.chain)


def starts(found: Iterable[Snapshot], journal: Journal, exclusions: Exclusions, through: int) -> list[Snapshot]:
    """Return the snapshots that a replay of records through `through` can start from."""
    in_reach = [one for one in found if journal.horizon <= one.sequence <= through]
    return [one for one in in_reach if exclusions.allows_start(one.sequence)]


def newest_good(
    snapshots: Snapshots, journal: Journal, exclusions: Exclusions, device: str, last: int, *, from_oldest: bool = False
) -> tuple[WeightStore, Snapshot, list[str]]:
    """Return the newest (or oldest) snapshot that replay can start from, and the damaged ones.

    Raise `ConfigError` where there is no snapshot; `JournalCorrupt` where the journal ends before one;
    `SnapshotMismatch` where none is good; `HistoryTruncated` where the journal reaches back to none of them.
    """
    damaged: list[str] = []
    found = snapshots.list()
    if not found and not snapshots.untouched:
        raise SnapshotMismatch("no snapshot has a good manifest: restore the directory from a copy")
    if not found:
        raise ConfigError("the directory holds no store", expected="one made by `superposed init`")
    if found[-1].sequence > journal.sequence:
        text = "the journal ends before the newest snapshot: restore the directory from a copy"
        text += ", or move the snapshot's two files away where they are from another directory"
        ends = f"record {journal.sequence} as its last"
        raise JournalCorrupt(text, expected=f"record {found[-1].sequence}", received=ends)
    failure: SuperposedError = HistoryTruncated("the journal reaches back to no snapshot, or rows were erased since")
    usable = starts(found, journal, exclusions, last)
    for snapshot in usable if from_oldest else reversed(usable):
        try:
            check_history(journal, snapshot)
            return read_store(snapshots, snapshot, device), snapshot, damaged
        except SuperposedError as error:
            known = {"snapshot": snapshot.id, "sequence": snapshot.sequence, "reason": str(error)}
            _log.error("snapshot passed over", extra=known)
            damaged.append(snapshot.id)
            failure = error
    raise failure


def replay(
    store: WeightStore, journal: Journal, exclusions: Exclusions, through: int
) -> Iterator[tuple[Record, JsonObject | Rejected | SuperposedError]]:
    """Apply the records that follow the store's sequence number, one for each step of the iterator.

    Yield the record, and its answer, its refusal by the arithmetic, or why it does not fit the store; either way its
    sequence number is used. Raise `JournalCorrupt` for a damaged record, and `HistoryTruncated` where the journal was
    trimmed past the store.
    """
    for record in journal.replay(store.sequence, through):
        outcome = _apply(store, record, exclusions)
        store.sequence = record.sequence
        yield record, outcome


def change_of(record: Record) -> Change:
    """Return a record's change; raise `JournalCorrupt` where no release made it, `HistoryTruncated` for erased rows."""
    if record.kind not in _KINDS:
        raise JournalCorrupt(f"record {record.sequence} is of an unknown kind", received=record.kind)
    change = _KINDS[record.kind].from_record(record)
    change.author = record.head.get("author")
    return change


@dataclass(frozen=True)
class Rejected:
    """A record that fits the store and that the arithmetic refused."""

    error: SuperposedError


def _apply(
    store: WeightStore, record: Record, exclusions: Exclusions, seen: Callable[[PreparedChange], None] = lambda _: None
) -> JsonObject | Rejected | SuperposedError:
    if record.kind in DECISIONS:
        return dict(record.head["answer"])
    if record.sequence in exclusions and record.kind not in LASTING:
        if exclusions.schema_stays(record.sequence):
            change_of(record).learn_schema(store)
        return {}
    try:
        prepared = change_of(record).prepare(store)
        if not isinstance(prepared, PreparedChange):
            return TaskExists("the store is already as the record would make it")
    except SuperposedError as error:
        return error
    try:
        answer = prepared.apply(store)
        seen(prepared)
        return dict(record.head["answer"]) if record.kind == RELABEL else answer
    except SuperposedError as error:
        return Rejected(error)
    except Exception as error:
        raise JournalCorrupt(f"record {record.sequence} cannot be applied", received=repr(error)) from error


class Followed(Change):
    """A leader's record, which stands in this journal too; applied as its replay would.

    `rebuilt` returns the store as of a record, where it takes others out; `seen` gets the change that was applied.
    """

    kind = "followed"
    grouped = True

    def __init__(
        self, record: Record, rebuilt: Callable[[int], WeightStore], seen: Callable[[Record, PreparedChange], None]
    ) -> None:
        self._record, self._rebuilt, self._seen = record, rebuilt, seen

    def prepare(self, store: WeightStore) -> PreparedChange:
        """Accept it: the leader has."""
        record = self._record
        return PreparedChange(lambda: Entry(record.kind, record.head, record.payload or b""), self._apply)

    def _apply(self, store: WeightStore) -> JsonObject:
        record = self._record
        outcome: JsonObject | Rejected | SuperposedError
        applied: list[PreparedChange] = []
        try:
            if record.kind in TAKING_OUT:
                since = min((first for first, _ in record.head["excluded"]), default=0)
                store.adopt(self._rebuilt(record.sequence), since=since)
                self._seen(record, self.prepare(store))
                return dict(record.head["answer"])
            outcome = _apply(store, record, Exclusions((), ()), applied.append)
        except SuperposedError as error:
            outcome = error
        store.sequence = record.sequence
        if isinstance(outcome, SuperposedError):  # no answer, and no refusal: from here on this is another store
            raise RuntimeError(f"the leader's record {record.sequence} does not fit: {outcome}") from outcome
        if isinstance(outcome, Rejected):
            return rejection(outcome.error)
        for change in applied if "refused" not in outcome else ():
            self._seen(record, change)
        return outcome


def rejection_entry(sequence: int, error: SuperposedError) -> Entry:
    """Return the record that says that another was refused."""
    return Entry(REFUSAL, {"sequence": sequence, "answer": rejection(error)})


def _settling(transaction_log: TransactionLog) -> Callable[[int, JsonObject], None]:
    """Return a function that keeps a record's answer where a request waits for it; refusals are kept at once."""
    waiting = transaction_log.answers.unanswered()

    def settle(sequence: int, answer: JsonObject) -> None:
        if (kept := waiting.pop(sequence, None)) is not None:
            transaction_log.answers.settle(kept.idempotency_key.key, answer)

    for _, _, head in transaction_log.journal.heads({REFUSAL}):
        settle(head["sequence"], head["answer"])
    return settle


def _check_digest(store: WeightStore, expected: str | None) -> None:
    if expected is not None and (received := store.digest()) != expected:
        text = f"replay arrived at another store at record {store.sequence}"
        raise DigestMismatch(text, expected=expected, received=received)
