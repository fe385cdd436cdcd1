"""The one SQLite database of a data directory: opened, checked, and written in whole transactions."""

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import apsw.sqlite_extra

from superposed_service.errors import JournalCorrupt, StorageUnavailable, disk_errors

Statement = tuple[str, tuple[Any, ...]]

_log = logging.getLogger("superposed.journal")

CHECKPOINT_PAGES = 1000
# Before this release SQLite could lose committed pages when several connections reset the WAL.
_SQLITE_FIXED = (3, 51, 3)
# SQLite's own page checksums: a VFS over the default one, which adds 8 bytes to each page.
CHECKSUM_VFS = "cksmvfs"
_CHECKSUM_EXTENSION, _CHECKSUM_BYTES = "cksumvfs", 8
# SQL is this package's own: what it cannot find there was there once.
_DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError, apsw.FormatError, UnicodeDecodeError)
# Each takes the file from one format to the next; a new one is of format 0.
_SCHEMAS = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY) STRICT, WITHOUT ROWID;
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    head TEXT NOT NULL,
    payload BLOB,
    digest BLOB NOT NULL,
    crc INTEGER NOT NULL,
    chain BLOB NOT NULL
) STRICT;
CREATE TABLE answers (
    key TEXT PRIMARY KEY,
    request BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    created REAL NOT NULL,
    answer TEXT,
    checksum BLOB NOT NULL
) STRICT;
CREATE TABLE digests (sequence INTEGER PRIMARY KEY, digest TEXT NOT NULL) STRICT;
""",
    """
CREATE TABLE canaries (
    key TEXT NOT NULL,
    slot INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    payload BLOB NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (key, slot)
) STRICT, WITHOUT ROWID;
CREATE TABLE api_keys (id TEXT PRIMARY KEY, value TEXT NOT NULL, checksum BLOB NOT NULL) STRICT;
""",
    # Nearly all records are updates, with rows: the others are found without reading through those.
    """
CREATE INDEX rare_records ON records (kind) WHERE kind <> 'update';
""",
    # The owner of a kept response: each API key has a bound of its own.
    """
ALTER TABLE answers ADD COLUMN owner TEXT NOT NULL DEFAULT '';
ALTER TABLE canaries ADD COLUMN owner TEXT NOT NULL DEFAULT '';
""",
)
FORMAT = len(_SCHEMAS)


class Database:
    """A connection to `journal.db`; its one writer.

    Every page has a checksum, and is checked when it is read. Raise `JournalCorrupt` for a file that is no sound
    database of this release. A new file is readable by its owner alone.

    WAL and `synchronous=FULL`: when a transaction's `with` block ends, it is on the disk. After the first write that
    fails nothing more is written until the process is started again.
    """

    def __init__(self, path: Path) -> None:
        _check_sqlite()
        self.path = path
        self.failure: str | None = None  # why nothing is written any more
        try:
            with disk_errors(f"cannot open {path}"):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
                self._connection = apsw.Connection(str(path), vfs=CHECKSUM_VFS)
                self._open()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._error(error, f"cannot open {path}") from error

    def _open(self) -> None:
        self._connection.reserve_bytes("main", _CHECKSUM_BYTES)  # counts for a new file only
        # Exclusive: the lock on the directory says so anyway, and no shared memory file is needed.
        self.query("PRAGMA locking_mode=EXCLUSIVE")
        self.query("PRAGMA journal_mode=WAL")
        self.query("PRAGMA synchronous=FULL")
        self.query(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        # What is deleted is overwritten: rows that were trimmed or erased leave nothing behind.
        self.query("PRAGMA secure_delete=ON")
        [(version,)] = self.query("PRAGMA user_version")
        if version < FORMAT:
            self.write(*((schema, ()) for schema in _SCHEMAS[version:]), (f"PRAGMA user_version={FORMAT}", ()))
        elif version > FORMAT:
            most = f"{FORMAT} at most"
            raise JournalCorrupt(f"{self.path} is a journal of a later format", expected=most, received=version)

    def _error(self, error: Exception, doing: str) -> JournalCorrupt | StorageUnavailable:
        """Return the error of a read that failed: damage, or a disk that refuses."""
        wrong = getattr(error, "extendedresult", None) == apsw.SQLITE_IOERR_DATA
        if wrong or isinstance(error, _DAMAGE):
            return self.corrupt("a page's checksum is wrong" if wrong else error)
        return StorageUnavailable(doing, received=str(error))

    def fail(self, reason: str) -> None:
        """End all writing until the next start."""
        self.failure = reason
        _log.critical("the journal failed: nothing is learned until the next start", extra={"reason": reason})

    def damaged_pages(self) -> list[int]:
        """Return pages with a wrong checksum, from 1, unused ones too; raise `StorageUnavailable` if unreadable."""
        [(size,)] = self.query("PRAGMA page_size")
        with disk_errors(f"cannot read {self.path}"), self.path.open("rb") as file:
            if file.read(21)[20:] != bytes([_CHECKSUM_BYTES]):
                return []  # made by a release without checksums
            file.seek(0)
            pages = enumerate(iter(lambda: file.read(size), b""), 1)
            return [number for number, page in pages if self.query("SELECT verify_checksum(?)", (page,)) != [(1,)]]

    def corrupt(self, error: object) -> JournalCorrupt:
        """Return the error that says that this file is damaged."""
        return JournalCorrupt(f"{self.path} is damaged: `superposed verify` says how far", received=str(error)[:500])

    def check(self) -> None:
        """Read the whole file; raise `JournalCorrupt` where a page, a row or an index is not what was written."""
        found = [str(line) for (line,) in self.query("PRAGMA integrity_check(10)")]
        if found != ["ok"]:
            raise self.corrupt("; ".join(found))

    def query(self, sql: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of one statement; raise `JournalCorrupt` where a page cannot be what was written."""
        return list(self.rows(sql, values))

    def rows(self, sql: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Return the rows of one statement as they are read; raises as `query`."""
        try:
            yield from self._connection.execute(sql, values)
        except (apsw.Error, UnicodeDecodeError) as error:
            raise self._error(error, "the journal could not be read") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all that is executed inside, or nothing; raise `StorageUnavailable` if the disk refuses or did."""
        if self.failure is not None:
            text = "the journal failed and is not written until the service is started again"
            raise StorageUnavailable(text, received=self.failure)
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            self.fail(str(error) or type(error).__name__)
            if isinstance(error, apsw.Error | JournalCorrupt):
                raise StorageUnavailable("the journal could not be written", received=str(error)) from error
            raise

    def noted(self, name: str) -> str | None:
        """Return the text of a note in `meta`, or None; raise `JournalCorrupt` where it is not what was written."""
        found = self.query("SELECT value FROM meta WHERE name = ?", (name,))
        if not found:
            return None
        text, _, checksum = str(found[0][0]).rpartition(" ")
        if _checksum(text) != checksum:
            raise JournalCorrupt(f"the journal's note of its {name} is not what was written")
        return text

    @staticmethod
    def noting(name: str, text: str) -> Statement:
        """Return the statement that writes a note with its checksum."""
        return "INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, f"{text} {_checksum(text)}")

    def execute(self, sql: str, values: tuple[Any, ...]) -> None:
        """Execute one writing statement, inside `transaction`."""
        self._connection.execute(sql, values)

    def write(self, *statements: Statement) -> None:
        """Execute writing statements as one transaction; raises as `transaction`."""
        with self.transaction():
            for statement in statements:
                self.execute(*statement)

    def drop_log(self) -> None:
        """Move what the write-ahead log holds into the file and empty it."""
        try:
            self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        except StorageUnavailable as error:
            self.fail(str(error))
            raise

    def close(self, *, keep_log: bool = False) -> None:
        """Close the file; what was committed stays, and with `keep_log` so does the write-ahead log."""
        try:
            if keep_log:
                self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            self._connection.close()
        except apsw.Error as error:
            self.failure = str(error)


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_sqlite() -> None:
    version = apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < _SQLITE_FIXED:
        text, wanted = "this SQLite may lose committed pages: install a newer apsw", ".".join(map(str, _SQLITE_FIXED))
        raise StorageUnavailable(text, expected=wanted, received=version)


def load_checksums() -> None:
    """Put SQLite's page checksums over the default VFS, for connections from now on."""
    with closing(apsw.Connection(":memory:")) as connection:
        apsw.sqlite_extra.load(connection, _CHECKSUM_EXTENSION)


load_checksums()
