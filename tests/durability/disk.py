"""A disk that remembers what was written and what was synced, and that can fail.

SQLite writes through an apsw VFS; the witness and the snapshots through `os` and the tensor file.
All of it is recorded as one trace, from which every state that a power cut may leave can be made.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import pytest

from superposed.store import tensorfile
from superposed_service.storage.database import CHECKSUM_VFS, load_checksums

SECTORS = (512, 4096)


@dataclass(frozen=True)
class Operation:
    """One thing that the disk was asked to do."""

    kind: str  # write, truncate, sync, create, rename, unlink, sync-directory, acknowledge
    path: str = ""
    offset: int = 0
    data: bytes = b""
    target: str = ""


@dataclass
class Disk:
    """A trace of operations on a disk, and the operations that shall fail.

    Args:
        fail_at: The number of the write or sync that fails, counted from 1; 0 for none.
        error: EIO or ENOSPC.
    """

    fail_at: int = 0
    error: int = errno.EIO
    trace: list[Operation] = field(default_factory=list)
    asked: int = 0

    def note(self, kind: str, path: str, offset: int = 0, data: bytes = b"", target: str = "") -> None:
        self.asked += 1
        if self.asked == self.fail_at:
            raise OSError(self.error, os.strerror(self.error))
        self.trace.append(Operation(kind, path, offset, data, target))


def _note_for_sqlite(disk: Disk, *what: Any) -> None:
    try:
        disk.note(*what)
    except OSError as error:
        raise (apsw.FullError if error.errno == errno.ENOSPC else apsw.IOError)(str(error)) from error


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: Any) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("unix", name, flags)

    def _note(self, *what: Any) -> None:
        _note_for_sqlite(self._disk, *what)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - apsw's names
        self._note("write", self._path, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._note("truncate", self._path, size)
        super().xTruncate(size)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._note("sync", self._path)
        super().xSync(flags)


class _VFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.name = f"recording-{id(self)}"
        super().__init__(self.name, "unix")

    def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: N802
        return _File(self._disk, name, flags)

    def xDelete(self, name: str, sync: bool) -> None:  # noqa: N802
        _note_for_sqlite(self._disk, "unlink", name)
        super().xDelete(name, sync)


def _checksums_over(name: str) -> None:
    """Has the page checksums written through that VFS."""
    apsw.unregister_vfs(CHECKSUM_VFS)
    apsw.set_default_vfs(name)
    load_checksums()


@contextmanager
def recording(disk: Disk) -> Iterator[Disk]:
    """All that is written meanwhile goes through the disk."""
    vfs = _VFS(disk)
    _checksums_over(vfs.name)
    real_pwrite, real_sync = os.pwrite, os.fsync

    def pwrite(file: int, data: bytes, offset: int) -> int:
        disk.note("write", str(Path(f"/proc/self/fd/{file}").readlink()), offset, bytes(data))
        return real_pwrite(file, data, offset)

    def fsync(file: int) -> None:
        path = str(Path(f"/proc/self/fd/{file}").readlink())
        if Path(path).is_dir():
            disk.note("sync-directory", path)
        else:  # tensorfile's: it has written the whole file by now
            disk.note("write", path, 0, Path(path).read_bytes())
            disk.note("sync", path)
        real_sync(file)

    real_replace, real_unlink = Path.replace, Path.unlink

    def replace(self: Path, target: Any) -> Path:
        disk.note("rename", str(self), target=str(target))
        return real_replace(self, target)

    def unlink(self: Path, missing_ok: bool = False) -> None:
        disk.note("unlink", str(self))
        real_unlink(self, missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        patch.setattr(tensorfile.os, "fsync", fsync)
        patch.setattr(Path, "replace", replace)
        patch.setattr(Path, "unlink", unlink)
        try:
            yield disk
        finally:
            _checksums_over("unix")
            vfs.unregister()


class Crash:
    """State of a directory that a power cut leaves after some operations of a trace.

    What was synced is there. Of the rest each write is there, not there, or torn at a sector's border, in
    any combination. Names (a file made, renamed, removed) are there up to any point since their directory
    was synced. SQLite syncs the directory with the first sync of a new write-ahead log.

    Args:
        start: The files at the beginning, by path: all of them durable.
    """

    def __init__(self, start: dict[str, bytes]) -> None:
        self._files = itertools.count()
        self.durable: dict[int, bytearray] = {}
        self.pending: dict[int, list[Operation]] = {}
        self.seen: dict[str, int] = {}  # as the process sees names
        for path, data in start.items():
            self.seen[path] = self._new(data)
        self.names = dict(self.seen)  # as they are on the disk
        self.changes: list[dict[str, int | None]] = []
        self.acknowledged = 0

    def _new(self, data: bytes = b"") -> int:
        number = next(self._files)
        self.durable[number] = bytearray(data)
        return number

    def apply(self, operation: Operation) -> None:
        path = operation.path
        match operation.kind:
            case "write" | "truncate":
                self._change(operation)
            case "sync":
                self._sync(path)
            case "rename":
                number = self.seen.pop(path)
                self.seen[operation.target] = number
                self.changes.append({path: None, operation.target: number})
            case "unlink":
                self.seen.pop(path, None)
                self.changes.append({path: None})
            case "sync-directory":
                self._sync_names()
            case "acknowledge":
                self.acknowledged = operation.offset

    def _change(self, operation: Operation) -> None:
        if operation.path not in self.seen:
            self.seen[operation.path] = self._new()
            self.changes.append({operation.path: self.seen[operation.path]})
        self.pending.setdefault(self.seen[operation.path], []).append(operation)

    def _sync(self, path: str) -> None:
        if path not in self.seen:
            return
        for one in self.pending.pop(self.seen[path], []):
            _write(self.durable[self.seen[path]], one)
        if path.endswith("-wal"):
            self._sync_names()

    def _sync_names(self) -> None:
        for change in self.changes:
            self.names |= change  # type: ignore[arg-type]
        self.changes.clear()

    def state(self, draw: random.Random) -> dict[str, bytes]:
        """One of the states that the power cut may leave."""
        names: dict[str, int | None] = dict(self.names)
        for change in self.changes[: draw.randint(0, len(self.changes))]:
            names |= change
        return {path: self._content(number, draw) for path, number in names.items() if number is not None}

    def _content(self, number: int, draw: random.Random) -> bytes:
        data, writes = bytearray(self.durable[number]), self.pending.get(number, [])
        if draw.random() < 0.5:  # in order, up to a point
            count = draw.randint(0, len(writes))
            chosen = [*writes[:count], *(_torn(one, draw) for one in writes[count : count + 1])]
        else:  # any of them
            chosen = [_torn(one, draw) for one in writes if draw.random() < 0.5]
        for one in chosen:
            _write(data, one)
        return bytes(data)


def _torn(write: Operation, draw: random.Random) -> Operation:
    if write.kind != "write" or draw.random() < 0.5:
        return write
    sector = draw.choice(SECTORS)
    borders = range(sector - write.offset % sector, len(write.data), sector)
    cut = draw.choice(list(borders) or [len(write.data)])
    if draw.random() < 0.5:
        return Operation("write", write.path, write.offset, write.data[:cut])
    return Operation("write", write.path, write.offset + cut, write.data[cut:])


def _write(data: bytearray, write: Operation) -> None:
    if write.kind == "truncate":
        del data[write.offset :]
        data.extend(b"\0" * (write.offset - len(data)))
        return
    data.extend(b"\0" * (write.offset - len(data)))
    data[write.offset : write.offset + len(write.data)] = write.data


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lay_out(files: dict[str, bytes], source: Path, target: Path) -> None:
    """Writes files of one folder into another."""
    (target / "snapshots").mkdir(parents=True)
    for path, data in files.items():
        (target / Path(path).relative_to(source)).write_bytes(data)
