"""The transaction log: records, responses, canaries and the high-water mark, written together."""

import hashlib
import os
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from superposed.store import tensorfile
from superposed_service.errors import JournalCorrupt, StorageUnavailable, disk_errors
from superposed_service.storage.api_keys import ApiKeys
from superposed_service.storage.canaries import Canaries
from superposed_service.storage.database import Database, Statement
from superposed_service.storage.epochs import Epochs
from superposed_service.storage.idempotency import IdempotencyKey, IdempotencyStore
from superposed_service.storage.journal import BEGUN, Entry, Journal, Record

_SLOT = struct.Struct("<q32s")
_SLOT_BYTES = 512  # two slots in two disk sectors: one that is torn leaves the other


class HighWaterMark:
    """The file `HEAD` of a data directory: the newest acknowledged record, noted outside the database.

    SQLite takes a damaged frame of its write-ahead log for the log's end. The mark is written after each commit and
    before its answer: a journal that ends before it has lost something that was acknowledged. It needs no fsync of its
    own: after a power cut it may name an older record than the journal's last, never a newer one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(f"cannot open {path}"):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def note(self, journal: Journal) -> None:
        """Note the journal's newest record."""
        slot = _SLOT.pack(journal.sequence, journal.chain)
        slot += hashlib.sha256(slot).digest()
        with disk_errors(f"cannot write {self._path}"):
            os.pwrite(self._file, slot, _SLOT_BYTES * (journal.sequence % 2))

    def clear(self) -> None:
        """Forget what was noted: the journal was begun anew."""
        with disk_errors(f"cannot write {self._path}"):
            os.ftruncate(self._file, 0)

    def newest(self) -> tuple[int, bytes] | None:
        """Return sequence and chain of the newest record noted; None where nothing legible was."""
        found = []
        for place in (0, _SLOT_BYTES):
            with disk_errors(f"cannot read {self._path}"):
                slot = os.pread(self._file, _SLOT.size + 32, place)
            if hashlib.sha256(slot[: _SLOT.size]).digest() == slot[_SLOT.size :]:
                found.append(_SLOT.unpack(slot[: _SLOT.size]))
        return max(found, default=None)

    def check(self, journal: Journal) -> None:
        """Raise `JournalCorrupt` where acknowledged records are missing, or another journal is there."""
        if (noted := self.newest()) is None:
            if journal.high_water_mark in (None, BEGUN):
                return
            lost = "without it the server cannot tell whether acknowledged updates are missing from the journal"
            remedy = "Restore the directory from a copy; or run `superposed export DIR FILE --snapshot` and import that"
            text, wanted = f"{self._path} is missing or empty", "the file that was written beside journal.db"
            raise JournalCorrupt(f"{text}: {lost}. {remedy}", expected=wanted, received="no record noted in it")
        sequence, chain = noted
        if journal.sequence < sequence:
            last = f"record {journal.sequence} as its last"
            text = "the journal ends before records that were acknowledged"
            raise JournalCorrupt(text, expected=f"record {sequence}", received=last)
        if sequence >= journal.horizon and journal.link(sequence) != chain:
            raise JournalCorrupt(f"record {sequence} is not the one that was acknowledged")

    def sync(self) -> None:
        """Bring the file and its name to the disk (fsync)."""
        with disk_errors(f"cannot sync {self._path}"):
            os.fsync(self._file)
            tensorfile.sync_directory(self._path.parent)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class TransactionLog:
    """The journal of a data directory with what belongs to it: `journal.db` and `HEAD`.

    Every page is read when it is opened. For the process that owns the directory; one thread at a time. `check_place`
    raises where another directory stands at the path by now; `drop_others` removes the snapshots of other records
    than a journal's. Raise `JournalCorrupt` where the file is damaged, or ends before a record that was acknowledged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        check_place: Callable[[], None] = lambda: None,
        drop_others: Callable[[Journal], None] = lambda _: None,
    ) -> None:
        self.check_place, self._drop_others = check_place, drop_others
        self._unwritten: list[Statement] = []
        with ExitStack() as opened:  # closed again where one of them is not sound
            self._high_water_mark = HighWaterMark(folder / "HEAD")
            opened.callback(self._high_water_mark.close)
            self.database = Database(folder / "journal.db")
            opened.callback(self.database.close)
            self.database.check()  # before a row of it is believed
            self.journal = Journal(self.database)
            self.answers = IdempotencyStore(self.database)
            self.canaries = Canaries(self.database)
            self.api_keys = ApiKeys(self.database)
            self.epochs = Epochs(self.database)
            self._check_mark()
            opened.pop_all()

    def _check_mark(self) -> None:
        """Check the journal's end against the high-water mark, and from now on require that there is one.

        The journal's `witnessed` mark is the durable marker: once it is set, and in the file itself, a
        missing or empty `HEAD` means that the file was removed. Directories of the first release have no
        mark until this process has synced their `HEAD`. Where a journal was begun or cut, what belonged to other
        records does not count any more: their `HEAD`, and their snapshots.
        """
        if self.journal.high_water_mark == BEGUN:
            self._drop_others(self.journal)
            self._high_water_mark.clear()
        self._high_water_mark.check(self.journal)
        if self.journal.exists and self.journal.high_water_mark in (None, BEGUN):
            self._high_water_mark.note(self.journal)
            self._high_water_mark.sync()
            self.journal.set_high_water_mark()
            self.database.drop_log()

    @property
    def failure(self) -> str | None:
        """Reason why nothing is written any more, or None."""
        return self.database.failure

    def check_writable(self) -> None:
        """Raise `StorageUnavailable` where nothing can be written any more."""
        if self.failure is not None:
            text = "the journal failed: nothing is learned until the service is started again"
            raise StorageUnavailable(text, received=self.failure)

    def begin(self, sequence: int, chain: bytes = b"", *, but: int | None = None) -> None:
        """Start a journal whose first record will be the one after `sequence`; see `Journal.begin`.

        Responses and canaries of records from `but` on are forgotten: they are not in the new one.
        """
        if but is not None:
            self._forget(but)
        self.journal.begin(sequence, chain)
        self._check_mark()

    def cut(self, first: int) -> None:
        """Remove the records from `first` on, and what belongs to them."""
        self._forget(first)
        self.journal.cut(first)
        self._check_mark()

    def _forget(self, first: int) -> None:
        self.canaries.drop_if(lambda canary: canary.sequence >= first)
        self.answers.drop_from(first)
        self.flush()

    def take_changes(self) -> list[Statement]:
        """Return the statements for responses and canaries that changed since the last call."""
        unwritten, self._unwritten = self._unwritten, []
        return [*unwritten, *self.answers.take_changes(), *self.canaries.take_changes()]

    def requeue(self, beside: Sequence[Statement]) -> None:
        """Keep what `take_changes` gave for the next time: the `write` that it was for did not begin."""
        self._unwritten = [*beside, *self._unwritten]

    def write(
        self,
        changes: Sequence[tuple[Entry, IdempotencyKey | None]],
        beside: Sequence[Statement] | None = None,
        *,
        digest: tuple[int, str] | None = None,
    ) -> list[Record]:
        """Journal changes, each beside the request it came from, in one transaction; then they are on the disk.

        With them go the statements `beside`, which `take_changes` returned before; by default those that it returns
        now. `digest` is a sequence number and the store's digest after it, to be noted with them. Any thread, while
        no other reads or writes the journal. Raise `StorageUnavailable` where the disk refused: none may be
        applied, and nothing is written from now on.
        """
        beside = self.take_changes() if beside is None else beside
        with self.database.transaction():
            records = self.journal.append([entry for entry, _ in changes])
            for record, (_, idempotency_key) in zip(records, changes, strict=True):
                if idempotency_key is not None:
                    self.database.execute(*self.answers.add(idempotency_key, record.sequence))
            for statement in (*beside, *self.journal.noting_digest(digest)):
                self.database.execute(*statement)
        try:
            self._high_water_mark.note(self.journal)
        except StorageUnavailable as error:
            self.database.fail(str(error))
            raise
        return records

    def flush(self, *, digest: tuple[int, str] | None = None) -> None:
        """Bring answers and canaries to the disk, before a snapshot past their records; `digest` is as for `write`."""
        self.database.write(*self.take_changes(), *self.journal.noting_digest(digest))

    def erase(self, key: str, sequences: Sequence[int]) -> None:
        """Remove a task's rows: the payloads of these records, and its canaries. Nothing is left behind."""
        self.canaries.drop(key)
        self.database.write(*self.journal.erasing(sequences), *self.take_changes())
        self.database.drop_log()

    def close(self, *, keep_log: bool = False) -> None:
        """Close both files; with `keep_log` the write-ahead log stays: SQLite would remove it by its path."""
        self.database.close(keep_log=keep_log)
        self._high_water_mark.close()
