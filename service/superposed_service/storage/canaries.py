"""Canaries: a few rows of each task's stream, kept by themselves."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from superposed_service.errors import JournalCorrupt
from superposed_service.storage.database import Database, Statement

_BASELINE = "detector-baseline"
_PUT = "INSERT OR REPLACE INTO canaries (key, slot, sequence, payload, owner, checksum) VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class Canary:
    """One kept row."""

    sequence: int  # of the record that brought it
    payload: bytes  # the row and its target
    owner: str = ""  # the API key's id that sent it; empty without one


class Canaries:
    """The kept rows of one database by task key; in memory, and on the disk. One thread at a time.

    Nothing is decided by them but what is journalled, so that the newest may be missing after a crash: they go to the
    disk with a later commit. So does `baseline`, what the detector has learned of ordinary harm. Raise
    `JournalCorrupt` for a row that is not what was written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[str, dict[int, Canary]] = {}
        self._changed: set[tuple[str, int]] = set()
        for *row, checksum in database.query(
            "SELECT key, slot, sequence, payload, owner, checksum FROM canaries ORDER BY key, slot"
        ):
            key, slot, sequence, payload, owner = row
            if _checksum(*row) != checksum:
                raise JournalCorrupt("a canary is not what was written", received=f"of task {key}")
            self._kept.setdefault(key, {})[slot] = Canary(sequence, payload, owner)
        # The worst harm of each ordinary interval with an alarm, oldest first
        self.baseline: tuple[float, ...] = tuple(json.loads(database.noted(_BASELINE) or "[]"))
        self._written = self.baseline

    def __getitem__(self, key: str) -> Mapping[int, Canary]:
        return self._kept.get(key, {})

    def keys(self) -> list[str]:
        """Return the tasks that have any, in the order of their first."""
        return list(self._kept)

    def put(self, key: str, slot: int, canary: Canary) -> None:
        """Keep a row, in the place of the one that has its slot."""
        self._kept.setdefault(key, {})[slot] = canary
        self._changed.add((key, slot))

    def drop(self, key: str, slots: Iterable[int] | None = None) -> None:
        """Forget rows of a task; all of them where no slots are named."""
        kept = self._kept.get(key, {})
        for slot in list(kept if slots is None else slots):
            if kept.pop(slot, None) is not None:
                self._changed.add((key, slot))
        if not kept:
            self._kept.pop(key, None)

    def drop_if(self, gone: Callable[[Canary], bool]) -> None:
        """Forget every row of which that is so."""
        for key, kept in list(self._kept.items()):
            self.drop(key, [slot for slot, canary in kept.items() if gone(canary)])

    def take_changes(self) -> list[Statement]:
        """Return the statements that write the changes since the last call, for the next transaction."""
        statements: list[Statement] = []
        for key, slot in self._changed:
            canary = self[key].get(slot)
            if canary is None:
                statements.append(("DELETE FROM canaries WHERE key = ? AND slot = ?", (key, slot)))
                continue
            row = (key, slot, canary.sequence, canary.payload, canary.owner)
            statements.append((_PUT, (*row, _checksum(*row))))
        self._changed.clear()
        if self.baseline != self._written:
            statements.append(self._database.noting(_BASELINE, json.dumps(self.baseline)))
            self._written = self.baseline
        return statements


def _checksum(key: str, slot: int, sequence: int, payload: bytes, owner: str) -> bytes:
    hasher = hashlib.sha256(struct.pack("<qqq", slot, sequence, len(payload)))
    hasher.update(payload + key.encode() + (b"\0" + owner.encode() if owner else b""))
    return hasher.digest()[:16]
