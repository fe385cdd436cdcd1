"""The data directory and its one owner."""

import fcntl
import os
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Self

from superposed.errors import ConfigError
from superposed.store import tensorfile
from superposed_service.errors import JournalCorrupt, StorageUnavailable, StoreLocked, disk_errors
from superposed_service.storage.journal import Journal
from superposed_service.storage.snapshots import Snapshots
from superposed_service.storage.transaction_log import TransactionLog


class DataDirectory(AbstractContextManager["DataDirectory"]):
    """A directory that one process at a time owns.

    On the disk: `LOCK` (held while open), `snapshots/` (the newest `snapshots_kept`), and the journal: `journal.db` and
    `HEAD`. Its owner alone may read it: a snapshot holds the store's secret. It is made where it does not exist. Raise
    `StoreLocked` where another process owns it, and `StorageUnavailable` where it cannot be made or written.
    """

    def __init__(self, path: Path, *, snapshots_kept: int = 2) -> None:
        self.path = path
        self._place: dict[Path, tuple[int, int] | None] = {}
        with ExitStack() as opened:  # given up again where it cannot be used
            with disk_errors(f"cannot use {path} as a data directory"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = os.open(path / "LOCK", os.O_RDWR | os.O_CREAT, 0o600)
            opened.callback(os.close, self._lock)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreLocked(f"another process owns {path}: stop it first, or use another directory") from error
            self._hold(path, path / "LOCK")
            self.snapshots = Snapshots(path / "snapshots", kept=snapshots_kept, check_place=self.check_place)
            opened.pop_all()
        self._transaction_log: TransactionLog | None = None

    def _hold(self, *paths: Path) -> None:
        """Remember which files stand at these paths now."""
        self._place |= {path: _identity(path) for path in paths}

    def check_place(self) -> None:
        """Check that the files this process holds are still those at the directory's path.

        A process whose directory was moved or replaced holds the old files: to write or remove anything by path would
        damage the directory that stands there now. Raise `StorageUnavailable` where another file or none stands at
        one of the paths; nothing is written any more.
        """
        if not (changed := self._changed()):
            return
        error = StorageUnavailable(
            "the data directory was moved or replaced under this process: stop it, and start it on the"
            " directory that it should serve",
            expected=f"the files that it opened at {self.path}",
            received=f"other files at {', '.join(changed)}",
        )
        if self._transaction_log is not None and self._transaction_log.failure is None:
            self._transaction_log.database.fail(str(error))
        raise error

    def _drop_others(self, journal: Journal) -> None:
        gone = {one.id for one in self.snapshots.list() if not journal.holds(one.sequence, one.chain)}
        self.snapshots.remove(lambda one: one in gone)

    @property
    def replaced(self) -> bool:
        """True once other files than the opened ones stand at the directory's path."""
        return bool(self._changed())

    def _changed(self) -> list[str]:
        return [str(path) for path, held in self._place.items() if _identity(path) != held]

    @classmethod
    def existing(cls, path: Path) -> Self:
        """Open a directory that is there, for commands that must not make one.

        Raise `ConfigError` where it is not there, and `StoreLocked` where another process owns it.
        """
        if not path.is_dir():
            raise ConfigError("there is no such directory", received=path)
        return cls(path)

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the journal and give the directory up.

        Where another directory stands at the path, the write-ahead log is left as it is: SQLite would
        remove the other directory's.
        """
        if self._transaction_log is not None:
            self._transaction_log.close(keep_log=self.replaced)
        os.close(self._lock)

    def transaction_log(self) -> TransactionLog:
        """Open the journal until the directory is closed; raise `JournalCorrupt` where it is damaged, or missing."""
        if not (self.path / "journal.db").exists():
            wanted = "journal.db beside the snapshots, as it was made"
            raise JournalCorrupt(f"{self.path} has no journal", expected=wanted)
        if self._transaction_log is None:
            self._transaction_log = TransactionLog(
                self.path, check_place=self.check_place, drop_others=self._drop_others
            )
            self._hold(self.path / "journal.db", self.path / "HEAD")
        if not self._transaction_log.journal.exists:
            raise JournalCorrupt("the journal has no beginning", expected="one that `superposed init` made")
        return self._transaction_log

    def initialise(self, store: bytes, *, sequence: int, digest: str, lineage: str, chain: bytes = b"") -> None:
        """Write a store's first snapshot, as `Snapshots.write` does, and begin its journal.

        `chain` is the link of a leader's journal at the sequence number; empty for a new store. Raise `ConfigError`
        where there is a store already.
        """
        self.check_untouched()
        # The snapshot comes last: a directory without one holds no store, whatever else was begun.
        for name in ("HEAD", "journal.db", "journal.db-wal"):
            (self.path / name).unlink(missing_ok=True)
        self.snapshots.remove(lambda _: True)
        with closing(TransactionLog(self.path)) as transaction_log:
            transaction_log.begin(sequence, chain)
            chain = transaction_log.journal.chain
        self.snapshots.write(store, sequence=sequence, digest=digest, chain=chain, lineage=lineage)
        for path in (self.path, self.path.parent):
            tensorfile.sync_directory(path)

    def check_untouched(self) -> None:
        """Raise `ConfigError` where a store is, or was."""
        if not self.untouched:
            raise ConfigError(f"{self.path} holds a store already", expected="an empty directory")

    @property
    def untouched(self) -> bool:
        """True if no store was ever here: neither a whole snapshot nor a journal with records."""
        if not self.snapshots.untouched:
            return False
        if not (self.path / "journal.db").exists():
            return True
        with closing(TransactionLog(self.path)) as transaction_log:
            return not transaction_log.journal.has_records


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of the file at a path; None where none stands there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)
