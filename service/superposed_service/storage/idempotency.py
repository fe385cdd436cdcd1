"""Answers kept by idempotency key, so that a request sent twice is applied once."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from superposed_service.errors import IdempotencyMismatch, InvalidRequest, JournalCorrupt, QuotaExceeded
from superposed_service.storage.database import Database, Statement

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class IdempotencyKey:
    """A request that changes something, and may be sent twice."""

    key: str
    request: bytes  # SHA-256 of what was asked, 32 bytes
    # The owner of the kept response: `key:<id>` of an API key; without one a task key
    owner: str = field(default="", compare=False)

    def part(self, number: int) -> IdempotencyKey:
        """Return the origin of one of several changes that the request makes, one after another."""
        return IdempotencyKey(f"{self.key} {number}", self.request)  # no key has a space

    @classmethod
    def of(cls, key: str | None, author: str | None, method: str, target: str, body: bytes) -> IdempotencyKey | None:
        """Return the origin that a request's `Idempotency-Key` gives it; None without one.

        Authors do not see each other's keys. The target is the path, with the query where there is one. Raise
        `InvalidRequest` for a key that is no key.
        """
        if key is None:
            return None
        if not _KEY.fullmatch(key):
            wanted = "1 to 255 visible ASCII characters"
            raise InvalidRequest("not an Idempotency-Key", expected=wanted, received=key[:300])
        own = key if author is None else f"{author} {key}"
        return cls(own, hashlib.sha256(f"{method} {target}\n".encode() + body).digest())


_RETRY_S = 60.0


@dataclass(frozen=True)
class IdempotencyResponse:
    """A journalled request and its answer."""

    idempotency_key: IdempotencyKey
    sequence: int  # of its record
    created: float  # Unix seconds
    answer: dict[str, Any] | None = None  # JSON values; None until the record is applied


class IdempotencyStore:
    """The kept answers of one database; in memory, and on the disk beside the records. One thread at a time.

    The row of a key is committed with its record. Its answer follows with a later commit, and before a snapshot that is
    past the record: until then replay gives it again. Raise `JournalCorrupt` for a row that is not what was written.
    Each owner (an API key; without one a task) has a
    bound of its own, so that no owner can push out another's: at the bound its next request is rejected.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[str, IdempotencyResponse] = {}
        self._changed: set[str] = set()  # keys of what the disk does not have yet: settled, or dropped
        self._owned: Counter[str] = Counter()
        self._kept_s = self._most = math.inf
        for *row, checksum in database.query(
            "SELECT key, request, sequence, created, answer, owner, checksum FROM answers ORDER BY sequence"
        ):
            key, request, sequence, created, answer, owner = row
            if _checksum(*row) != checksum:
                raise JournalCorrupt("a kept answer is not what was written", received=f"record {sequence}")
            known = json.loads(answer) if answer else None
            self._kept[key] = IdempotencyResponse(IdempotencyKey(key, request, owner), sequence, created, known)
            self._owned[owner] += 1

    def limit(self, *, kept_s: float, most: int) -> None:
        """Set how long a response is kept, in seconds, and how many one owner may have; default: no limit."""
        self._kept_s, self._most = kept_s, most

    def check_room(self, owner: str, entering: int = 0) -> None:
        """Check that one more response of an owner may be kept, while `entering` more of it are on their way.

        Raise `QuotaExceeded` where it has as many as it may.
        """
        if (count := self._owned[owner] + entering) < self._most:
            return
        text = "too many responses are kept for idempotency keys: wait, or send updates without an Idempotency-Key"
        most = f"{self._most} within {self._kept_s:g} s (SUPERPOSED_IDEMPOTENCY_RESPONSES)"
        known: dict[str, Any] = {"expected": most, "received": count + 1, "retry_after_s": min(self._kept_s, _RETRY_S)}
        raise QuotaExceeded(f"{text} (they are then not safe to send again)", **known)

    def find(self, idempotency_key: IdempotencyKey) -> IdempotencyResponse | None:
        """Return a request's stored response; raise `IdempotencyMismatch` where the key came with another request."""
        kept = self._kept.get(idempotency_key.key)
        if kept is not None and kept.idempotency_key.request != idempotency_key.request:
            text = "this Idempotency-Key came with another request before"
            raise IdempotencyMismatch(text, expected="a new key for a new request", received=idempotency_key.key)
        return kept

    def origins(self, after: int) -> dict[int, IdempotencyKey]:
        """Return the requests of the records after a sequence number, by sequence."""
        newest = takewhile(lambda kept: kept.sequence > after, reversed(self._kept.values()))
        return {kept.sequence: kept.idempotency_key for kept in newest}

    def unanswered(self) -> dict[int, IdempotencyResponse]:
        """Return the requests that replay will answer, by sequence."""
        return {kept.sequence: kept for kept in self._kept.values() if kept.answer is None}

    def add(self, idempotency_key: IdempotencyKey, sequence: int) -> Statement:
        """Keep a request; return what writes it with its record. Another thread may do so, and nothing else."""
        if (before := self._kept.pop(idempotency_key.key, None)) is not None:
            self._owned[before.idempotency_key.owner] -= 1
        kept = self._kept[idempotency_key.key] = IdempotencyResponse(idempotency_key, sequence, time.time())
        self._owned[idempotency_key.owner] += 1
        return _writing(kept)

    def settle(self, key: str, answer: dict[str, Any]) -> None:
        """Keep a request's answer, where its key is still kept; it goes to the disk with `take_changes`."""
        if key in self._kept:
            self._kept[key] = replace(self._kept[key], answer=answer)
            self._changed.add(key)

    def drop_from(self, sequence: int) -> None:
        """Forget the responses of a record and of those after it."""
        self._drop([kept.idempotency_key for kept in self._kept.values() if kept.sequence >= sequence])

    def _drop(self, gone: list[IdempotencyKey]) -> None:
        for one in gone:
            del self._kept[one.key]
            self._owned[one.owner] -= 1
            self._changed.add(one.key)

    def take_changes(self) -> list[Statement]:
        """Return what writes the responses settled since the last call, and forget those whose time is over."""
        oldest = time.time() - self._kept_s
        old = takewhile(lambda kept: kept.created < oldest, self._kept.values())  # in the order of their time
        self._drop([kept.idempotency_key for kept in old if kept.answer is not None])
        changed, self._changed = self._changed, set()
        deleting = "DELETE FROM answers WHERE key = ?"
        return [_writing(self._kept[key]) if key in self._kept else (deleting, (key,)) for key in changed]


def _writing(kept: IdempotencyResponse) -> Statement:
    answer = None if kept.answer is None else json.dumps(kept.answer)
    idempotency_key = kept.idempotency_key
    row = (idempotency_key.key, idempotency_key.request, kept.sequence, kept.created, answer, idempotency_key.owner)
    return (
        "INSERT OR REPLACE INTO answers (key, request, sequence, created, answer, owner, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*row, _checksum(*row)),
    )


def _checksum(key: str, request: bytes, sequence: int, created: float, answer: str | None, owner: str) -> bytes:
    hasher = hashlib.sha256(struct.pack("<qd", sequence, created) + request)
    for part in (key, answer or "", *([owner] if owner else [])):  # the first release had no owners
        hasher.update(struct.pack("<q", len(part)) + part.encode())
    return hasher.digest()[:16]
