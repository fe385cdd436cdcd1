"""Answers kept by idempotency key, so that a request sent twice is applied once."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from dataclasses import dataclass, replace
from typing import Any

from superposed_service.errors import IdempotencyMismatch, JournalCorrupt
from superposed_service.origin import Origin
from superposed_service.storage.database import Database, Statement

__all__ = ["Answers", "Kept"]

KEPT_S = 24 * 3600.0
KEPT_MOST = 100_000


@dataclass(frozen=True)
class Kept:
    """A journalled request and its answer.

    Args:
        origin: The request.
        sequence: Of its record.
        created: Unix seconds.
        answer: JSON values; None until the record is applied.
    """

    origin: Origin
    sequence: int
    created: float
    answer: dict[str, Any] | None = None


class Answers:
    """The kept answers of one database; in memory, and on the disk beside the records. One thread at a time.

    The row of a key is committed with its record. Its answer follows with a later commit, and before a
    snapshot that is past the record: until then replay gives it again.

    Args:
        database: Where they are.

    Raises:
        JournalCorrupt: A row is not what was written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[str, Kept] = {}
        self._settled: dict[str, Kept] = {}
        for key, request, sequence, created, answer, checksum in database.query(
            "SELECT key, request, sequence, created, answer, checksum FROM answers ORDER BY sequence"
        ):
            if _checksum(key, request, sequence, created, answer) != checksum:
                raise JournalCorrupt("a kept answer is not what was written", received=f"record {sequence}")
            kept = Kept(Origin(key, request), sequence, created, json.loads(answer) if answer else None)
            self._kept[key] = kept

    def find(self, origin: Origin) -> Kept | None:
        """What was kept for a request, where it came before.

        Raises:
            IdempotencyMismatch: The key came with another request.
        """
        kept = self._kept.get(origin.key)
        if kept is not None and kept.origin.request != origin.request:
            raise IdempotencyMismatch(
                "this Idempotency-Key came with another request before",
                expected="a new key for a new request",
                received=origin.key,
            )
        return kept

    def unanswered(self) -> dict[int, Kept]:
        """What replay will answer, by sequence."""
        return {kept.sequence: kept for kept in self._kept.values() if kept.answer is None}

    def add(self, origin: Origin, sequence: int) -> Statement:
        """Keeps a request; what writes it belongs in the transaction of its record.

        The one thing that may be done on another thread while this one settles answers.
        """
        kept = self._kept[origin.key] = Kept(origin, sequence, time.time())
        return _writing(kept)

    def settle(self, key: str, answer: dict[str, Any]) -> None:
        """Keeps a request's answer, where its key is still kept; it goes to the disk with `take_changes`."""
        if key in self._kept:
            self._kept[key] = self._settled[key] = replace(self._kept[key], answer=answer)

    def take_changes(self) -> list[Statement]:
        """What writes the answers settled since the last time, for the next transaction.

        Answers that are older than a day, or too many, are forgotten.
        """
        statements = [_writing(kept) for kept in self._settled.values()]
        self._settled.clear()
        for key in self._expired():
            statements.append(("DELETE FROM answers WHERE key = ?", (key,)))
            del self._kept[key]
        return statements

    def _expired(self) -> list[str]:
        oldest, surplus = time.time() - KEPT_S, len(self._kept) - KEPT_MOST
        expired = []
        for place, (key, kept) in enumerate(self._kept.items()):  # oldest first
            if place >= surplus and kept.created >= oldest:
                break
            if kept.answer is not None:
                expired.append(key)
        return expired


def _writing(kept: Kept) -> Statement:
    answer = None if kept.answer is None else json.dumps(kept.answer)
    row = (kept.origin.key, kept.origin.request, kept.sequence, kept.created, answer)
    return "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", (*row, _checksum(*row))


def _checksum(key: str, request: bytes, sequence: int, created: float, answer: str | None) -> bytes:
    hasher = hashlib.sha256(struct.pack("<qd", sequence, created) + request)
    for part in (key, answer or ""):
        hasher.update(struct.pack("<q", len(part)) + part.encode())
    return hasher.digest()[:16]
