"""Snapshots: the whole store in one file, with a manifest that says what its bytes must be."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from superposed import tensorfile
from superposed_service.errors import SnapshotMismatch, StorageUnavailable

__all__ = ["Snapshot", "Snapshots"]


class Snapshot(BaseModel):
    """What the manifest says of one snapshot.

    Args:
        id: Its name.
        sequence: The store's sequence number when it was taken.
        bytes: Size of the file.
        sha256: Of the file.
        created: When, UTC, ISO 8601.
        digest: The store's own digest (`WeightStore.digest`).
    """

    id: str
    sequence: int
    bytes: int
    sha256: str
    created: str
    digest: str


class Snapshots:
    """The snapshots of one data directory: `<id>.safetensors` beside its manifest, `<id>.json`.

    Writing is for one thread at a time; listing is for any.

    Args:
        folder: Where they are.
        kept: How many of the newest are kept.
    """

    def __init__(self, folder: Path, *, kept: int) -> None:
        self._folder = folder
        self._kept = kept
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"cannot use {folder}", received=str(error)) from error

    def _data(self, identifier: str) -> Path:
        return self._folder / f"{identifier}.safetensors"

    def _manifest(self, identifier: str) -> Path:
        return self._folder / f"{identifier}.json"

    @property
    def untouched(self) -> bool:
        """Whether nothing was ever written here: not even a snapshot without its manifest."""
        return not any(self._folder.iterdir())

    def list(self) -> list[Snapshot]:
        """Every complete snapshot, oldest first."""
        found = (self._read_manifest(path) for path in self._folder.glob("*.json"))
        return sorted((one for one in found if one is not None), key=lambda one: (one.sequence, one.created))

    @staticmethod
    def _read_manifest(path: Path) -> Snapshot | None:
        try:
            return Snapshot.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None  # trimmed since the folder was listed
        except (OSError, ValidationError) as error:
            raise SnapshotMismatch(
                f"{path} is no manifest: remove it and its .safetensors to go on with an older snapshot",
                received=str(error),
            ) from error

    def write(self, data: bytes, *, sequence: int, digest: str) -> Snapshot:
        """Writes a snapshot durably; when it returns, the file and its manifest are on the disk.

        The manifest is written last: a snapshot without one does not exist. The same bytes again are the
        snapshot that is there.

        Raises:
            StorageUnavailable: The disk refused; the snapshots that were there still are.
        """
        sha256 = hashlib.sha256(data).hexdigest()
        identifier = f"{sequence:020d}-{sha256[:12]}"
        existing = next((snapshot for snapshot in self.list() if snapshot.sha256 == sha256), None)
        if existing is not None:
            return existing
        snapshot = Snapshot(
            id=identifier,
            sequence=sequence,
            bytes=len(data),
            sha256=sha256,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            digest=digest,
        )
        try:
            tensorfile.write(self._data(identifier), data)
            tensorfile.write(self._manifest(identifier), snapshot.model_dump_json(indent=1).encode())
        except OSError as error:
            raise StorageUnavailable("the snapshot could not be written", received=str(error)) from error
        return snapshot

    def trim(self, history: int) -> int:
        """Removes what is no longer needed, and what an interrupted write left behind.

        Kept are the newest, `kept` of them, and the newest one that is `history` records older than the
        newest: rollback reaches back to it.

        Args:
            history: In records.

        Returns:
            The sequence number of the oldest that is left: the journal is needed from there on.

        Raises:
            StorageUnavailable: The disk refused.
        """
        found = self.list()
        old = [one for one in found if one.sequence <= found[-1].sequence - history]
        base = old[-1:] or found[:1]
        left = {snapshot.id: snapshot for snapshot in [*base, *found[-self._kept :]]}
        self.remove(lambda identifier: identifier not in left)
        return min(snapshot.sequence for snapshot in left.values())

    def remove(self, chosen: Callable[[str], bool]) -> None:
        """Removes snapshots by id; manifests first, so that none is without its data.

        Raises:
            StorageUnavailable: The disk refused.
        """
        try:
            paths = [path for path in self._folder.iterdir() if chosen(path.stem)]
            for path in sorted(paths, key=lambda path: path.suffix != ".json"):
                path.unlink()
            tensorfile.sync_directory(self._folder)
        except OSError as error:
            raise StorageUnavailable("old snapshots could not be removed", received=str(error)) from error

    def read(self, snapshot: Snapshot) -> bytes:
        """Reads a snapshot's bytes, checked against its manifest.

        Raises:
            SnapshotMismatch: They are not what was written.
            StorageUnavailable: The file cannot be read.
        """
        path = self._data(snapshot.id)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise StorageUnavailable(f"cannot read {path}", received=str(error)) from error
        digest = hashlib.sha256(data).hexdigest()
        if digest != snapshot.sha256:
            raise SnapshotMismatch(
                f"{path} is damaged",
                expected=f"SHA-256 {snapshot.sha256}",
                received=digest,
            )
        return data
