"""Taking snapshots: bytes from the store, to the disk, read back, and only then is the journal trimmed."""

from dataclasses import dataclass
from typing import Any

from superposed.store.store import WeightStore
from superposed_service.changes.exclusions import Exclusions
from superposed_service.storage import DataDirectory, Snapshot, Snapshots, TransactionLog


def facts(store: WeightStore) -> dict[str, Any]:
    """Return what the manifest of a snapshot says of its store."""
    return {"sequence": store.sequence, "digest": store.digest(), "lineage": store.lineage}


def begin(directory: DataDirectory, store: WeightStore) -> None:
    """Make a directory the home of a store; raise `ConfigError` where there is one already."""
    directory.initialise(store.to_bytes(), **facts(store))


def keep(snapshots: Snapshots, image: "StoreImage", history: int) -> tuple[Snapshot, int]:
    """Write a snapshot, read it back, and remove those that it makes needless. Any thread, one at a time.

    Return the snapshot, and the sequence number from which on the journal is needed. Raise `SnapshotMismatch` where it
    does not read back as it was written, and `StorageUnavailable` where the disk refused; older ones are still there.
    """
    snapshot = snapshots.write(image.data, chain=image.chain, **facts(WeightStore.from_bytes(image.data)))
    snapshots.read(snapshot)  # the same bytes, and so the same store
    return snapshot, snapshots.trim(history, image.exclusions.allows_start)


def trim_some(transaction_log: TransactionLog, through: int) -> bool:
    """Trim the journal by some of its records, on the thread that owns it; return True if there is more to trim.

    Raise `StorageUnavailable` where another directory stands at the path, or the disk refused.
    """
    transaction_log.check_place()
    return transaction_log.failure is None and transaction_log.journal.trim(through)


def start_history(transaction_log: TransactionLog, directory: DataDirectory, snapshot: Snapshot) -> None:
    """Make a snapshot the first state that a rollback can reach: older ones, and their records, go."""
    directory.snapshots.remove(lambda identifier: identifier != snapshot.id)
    while trim_some(transaction_log, snapshot.sequence):
        pass


@dataclass(frozen=True)
class StoreImage:
    """A store at one moment, ready to become a snapshot."""

    data: bytes  # the snapshot's bytes
    exclusions: Exclusions  # what was taken out of the past by then
    since: tuple[int, int]  # records, and bytes of their payloads, that came after the snapshot before it
    chain: bytes  # the journal's chain at the store's sequence number, 32 bytes
