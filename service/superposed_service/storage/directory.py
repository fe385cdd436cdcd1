"""The data directory and its one owner."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from superposed import tensorfile
from superposed.errors import ConfigError
from superposed_service.errors import JournalCorrupt, StorageUnavailable, StoreLocked
from superposed_service.storage.database import Synchronous
from superposed_service.storage.ledger import Ledger
from superposed_service.storage.snapshots import Snapshots

__all__ = ["DataDirectory"]


class DataDirectory:
    """A directory that one process at a time owns.

    On the disk: `LOCK` (held while open), `snapshots/`, and the journal: `journal.db` and `HEAD`. The
    directory is readable by its owner alone: a snapshot holds the store's secret.

    Args:
        path: The directory; made where it does not exist.
        snapshots_kept: Newest snapshots that are kept.

    Raises:
        StoreLocked: Another process owns it.
        StorageUnavailable: It cannot be made or written.
    """

    def __init__(self, path: Path, *, snapshots_kept: int = 2) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StorageUnavailable(f"cannot use {path} as a data directory", received=str(error)) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StoreLocked(
                f"another process owns {path}: stop it first, or use another directory"
            ) from error
        self.snapshots = Snapshots(path / "snapshots", kept=snapshots_kept)
        self._ledger: Ledger | None = None

    @classmethod
    def existing(cls, path: Path) -> Self:
        """Opens a directory that is there, for commands that must not make one.

        Raises:
            ConfigError: It is not there.
            StoreLocked: Another process owns it.
        """
        if not path.is_dir():
            raise ConfigError("there is no such directory", received=path)
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the journal and gives the directory up."""
        if self._ledger is not None:
            self._ledger.close()
        os.close(self._lock)

    def ledger(self, *, synchronous: Synchronous = "FULL") -> Ledger:
        """Opens the journal; it is closed with the directory.

        Raises:
            JournalCorrupt: It is damaged, or there is none beside the snapshots.
            StorageUnavailable: The disk refused.
        """
        if not (self.path / "journal.db").exists():
            raise JournalCorrupt(
                f"{self.path} has no journal", expected="journal.db beside the snapshots, as it was made"
            )
        if self._ledger is None:
            self._ledger = Ledger(self.path, synchronous=synchronous)
        if not self._ledger.journal.exists:
            raise JournalCorrupt("the journal has no beginning", expected="one that `superposed init` made")
        return self._ledger

    def initialise(self, store: bytes, *, sequence: int, digest: str) -> None:
        """Writes a store's first snapshot and begins its journal.

        Args:
            store: A snapshot's bytes.
            sequence: The store's sequence number.
            digest: The store's digest.

        Raises:
            ConfigError: There is a store already.
            StorageUnavailable: The disk refused.
        """
        if not self.untouched:
            raise ConfigError(f"{self.path} holds a store already", expected="an empty directory")
        # The snapshot comes last: a directory without one holds no store, whatever else was begun.
        for name in ("HEAD", "journal.db", "journal.db-wal"):
            (self.path / name).unlink(missing_ok=True)
        self.snapshots.remove(lambda _: True)
        ledger = Ledger(self.path)
        try:
            ledger.begin(sequence)
        finally:
            ledger.close()
        self.snapshots.write(store, sequence=sequence, digest=digest)
        for path in (self.path, self.path.parent):
            tensorfile.sync_directory(path)

    @property
    def untouched(self) -> bool:
        """Whether no store was ever here: neither a whole snapshot nor a journal with records."""
        if not self.snapshots.untouched:
            return False
        if not (self.path / "journal.db").exists():
            return True
        ledger = Ledger(self.path)
        try:
            return not ledger.journal.has_records
        finally:
            ledger.close()
