"""Snapshots: the whole store in one file, with a manifest that says what its bytes must be."""

import builtins
import hashlib
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from superposed.store import tensorfile
from superposed_client.models import Snapshot
from superposed_service.errors import SnapshotMismatch, StorageUnavailable, disk_errors


class Snapshots:
    """The snapshots of one data directory: `<id>.safetensors` beside its manifest, `<id>.json`.

    Writing is for one thread at a time; listing is for any. The newest `kept` are kept. `check_place` raises where
    another directory stands at the path by now; it is called before files are read as this store's, written or removed.
    """

    def __init__(self, folder: Path, *, kept: int, check_place: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._kept = kept
        self._check_place = check_place
        with disk_errors(f"cannot use {folder}"):
            folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def untouched(self) -> bool:
        """True if no snapshot was ever written here; one that was only begun does not count."""
        return all(path.name.startswith(".") for path in self._folder.iterdir())

    def list(self) -> list[Snapshot]:
        """Return every snapshot with a good manifest, oldest first; others are passed over."""
        found = map(self._read_manifest, self._folder.glob("*.json"))
        good = (one for one in found if isinstance(one, Snapshot))
        return sorted(good, key=lambda one: (one.sequence, one.created))

    def unreadable(self) -> builtins.list[str]:
        """Return the manifests that are not what was written."""
        return [one for one in map(self._read_manifest, sorted(self._folder.glob("*.json"))) if isinstance(one, str)]

    @staticmethod
    def _read_manifest(path: Path) -> Snapshot | str | None:
        """Return the manifest; its name where it is not what was written; None where it is gone by now."""
        try:
            snapshot = Snapshot.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None  # trimmed since the folder was listed
        except (OSError, ValidationError):
            return path.name
        named = snapshot.id == path.stem == _name(snapshot.sequence, snapshot.sha256)
        return snapshot if named else path.name

    def write(self, data: bytes, *, sequence: int, digest: str, chain: bytes = b"", lineage: str = "") -> Snapshot:
        """Write a snapshot durably; when it returns, the file and its manifest are on the disk.

        The manifest is written last: a snapshot without one does not exist. Sequence number, digest and lineage are
        those of the store in `data`; `chain` is the journal's link at the sequence number, 32 bytes. Raise
        `StorageUnavailable` where the disk refused; the snapshots that were there still are.
        """
        self._check_place()
        sha256 = hashlib.sha256(data).hexdigest()
        for existing in self.list():
            if existing.sha256 == sha256:
                with suppress(SnapshotMismatch, StorageUnavailable):  # a damaged one is written again
                    self.read(existing)
                    return existing
        snapshot = Snapshot(
            id=_name(sequence, sha256),
            sequence=sequence,
            bytes=len(data),
            sha256=sha256,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            digest=digest,
            chain=chain.hex(),
            lineage=lineage,
        )
        with disk_errors("the snapshot could not be written"):
            tensorfile.write(self._folder / f"{snapshot.id}.safetensors", data)
            self._check_place()
            tensorfile.write(self._folder / f"{snapshot.id}.json", snapshot.model_dump_json(indent=1).encode())
        return snapshot

    def trim(self, history: int, usable: Callable[[int], bool]) -> int:
        """Remove what is no longer needed, and what an interrupted write left behind.

        Kept are, of those that recovery may start from, the newest `kept` and the newest one that is `history`
        records older; and of the others as many that the journal still reaches. `usable` says of a snapshot's
        sequence number whether recovery may start from it. Return the sequence number of the oldest start that is
        left: the journal is needed from there on.
        """
        starts = [one for one in self.list() if usable(one.sequence)]
        old = [one for one in starts if one.sequence <= starts[-1].sequence - history]
        kept = [*(old[-1:] or starts[:1]), *starts[-self._kept :]]
        needed = min(one.sequence for one in kept)
        others = [one for one in self.list() if not usable(one.sequence) and one.sequence >= needed]
        left = {one.id for one in [*kept, *others[-self._kept :]]}
        self.remove(lambda identifier: identifier not in left)
        return needed

    def remove(self, chosen: Callable[[str], bool]) -> None:
        """Remove snapshots by id; manifests first, so that none is without its data."""
        self._check_place()
        with disk_errors("old snapshots could not be removed"):
            paths = [path for path in self._folder.iterdir() if chosen(path.stem)]
            for path in sorted(paths, key=lambda path: path.suffix != ".json"):
                path.unlink()
            tensorfile.sync_directory(self._folder)

    def read(self, snapshot: Snapshot) -> bytes:
        """Read a snapshot's bytes; raise `SnapshotMismatch` where they are not what the manifest says.

        Raise `StorageUnavailable` where the file cannot be read, or is another directory's.
        """
        self._check_place()
        path = self._folder / f"{snapshot.id}.safetensors"
        with disk_errors(f"cannot read {path}"):
            data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != snapshot.sha256:
            raise SnapshotMismatch(f"{path} is damaged", expected=f"SHA-256 {snapshot.sha256}", received=digest)
        return data


def _name(sequence: int, sha256: str) -> str:
    return f"{sequence:020d}-{sha256[:12]}"
