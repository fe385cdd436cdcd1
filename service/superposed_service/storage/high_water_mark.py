"""The high-water mark: the newest acknowledged record, noted outside the database.

SQLite takes a damaged frame of its write-ahead log for the log's end, so a flipped byte there would look
like a clean, shorter journal. The mark is written after each commit and before its answer: a journal
that ends before it has lost something that was acknowledged.
"""

import hashlib
import os
import struct
from pathlib import Path

from superposed.store import tensorfile
from superposed_service.errors import JournalCorrupt, disk_errors
from superposed_service.storage.journal import BEGUN, Journal

_SLOT = struct.Struct("<q32s")
_SLOT_BYTES = 512  # two slots in two disk sectors: one that is torn leaves the other


class HighWaterMark:
    """The file `HEAD` of a data directory; made where it does not exist.

    Once it is there, it needs no fsync of its own: after a power cut it may name an older record than the
    journal's last, never a newer one.
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
            raise JournalCorrupt(
                f"{self._path} is missing or empty: without it the server cannot tell whether acknowledged"
                " updates are missing from the journal. Restore the directory from a copy; or run"
                " `superposed export DIR FILE --snapshot` and import that",
                expected="the file that was written beside journal.db",
                received="no record noted in it",
            )
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
