"""The journal: every change of the store, in one gap-free sequence, chained by hashes.

A record is a head (JSON: what was asked), and a payload (bytes: the rows). The chain runs over heads and
payload digests, so that a payload can be erased while the chain still verifies.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from superposed_service.errors import HistoryTruncated, JournalCorrupt
from superposed_service.storage.database import Database, Statement

BEGUN = "begun"
_TRIMMED_RECORDS, _TRIMMED_BYTES = 500, 2 * 2**20


@dataclass(frozen=True)
class Entry:
    """A change that is to be recorded."""

    kind: str  # what sort of change
    head: Mapping[str, Any]  # JSON values: what was asked, without the rows
    payload: bytes = b""  # the rows; empty where the change has none


@dataclass(frozen=True)
class Record:
    """One journalled change."""

    sequence: int  # its place in the store's one order of changes
    kind: str
    head: Mapping[str, Any]
    payload: bytes | None  # the rows; None where they were erased


class Summary(NamedTuple):
    """A record without its payload: of that its bytes, None where it was erased."""

    sequence: int
    kind: str
    head: Mapping[str, Any]
    payload_bytes: int | None


class Journal:
    """The records of one database, for one thread at a time; raise `JournalCorrupt` if the first or last is missing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        meta = dict(database.query("SELECT name, value FROM meta"))
        self.exists = "horizon" in meta
        self.horizon: int = meta.get("horizon", 0)  # the sequence number before the oldest record
        self._horizon_chain: bytes = meta.get("horizon_chain", b"")
        if not (isinstance(self.horizon, int) and isinstance(self._horizon_chain, bytes)):
            raise JournalCorrupt("the journal's beginning is not what was written")
        self.sequence: int = self.horizon  # of the newest record
        self.chain = self._horizon_chain  # the newest record's link, 32 bytes
        newest = database.query("SELECT sequence, chain FROM records ORDER BY sequence DESC LIMIT 1")
        if newest:
            self.sequence, self.chain = newest[0]
        self.lineage = database.noted("lineage") or ""  # the identity of the store whose journal it is
        self.incarnation = database.noted("incarnation")  # the random name of the process that last served it
        if newest and not self.exists:
            raise JournalCorrupt("the journal has records but no beginning")

    @property
    def has_records(self) -> bool:
        """True if there is any record."""
        return self.sequence > self.horizon

    def begin(self, sequence: int, chain: bytes = b"") -> None:
        """Make an empty journal, the first record the one after `sequence`; `chain` is a leader's link there."""
        chain = chain or hashlib.sha256(b"superposed journal" + struct.pack("<q", sequence)).digest()
        emptying = [("DELETE FROM records", ()), ("DELETE FROM digests", ())]
        self._database.write(*emptying, *_horizon(sequence, chain), self._database.noting("witnessed", BEGUN))
        self.sequence, self.chain, self.exists = sequence, chain, True
        self.horizon, self._horizon_chain = sequence, chain

    def cut(self, first: int) -> None:
        """Remove the records from `first` on: another server's history goes on without them."""
        chain = self.link(first - 1)
        self._database.write(
            ("DELETE FROM records WHERE sequence >= ?", (first,)),
            ("DELETE FROM digests WHERE sequence >= ?", (first,)),
            self._database.noting("witnessed", BEGUN),
        )
        self.sequence, self.chain = first - 1, chain

    def holds(self, sequence: int, chain: str) -> bool:
        """Return True unless a snapshot at a link, hexadecimal, was taken of other records."""
        comparable = chain != "" and sequence >= self.horizon
        return sequence <= self.sequence and not (comparable and self.link(sequence).hex() != chain)

    def append(self, entries: Sequence[Entry]) -> list[Record]:
        """Add records, inside a transaction of the database: they count when that ends."""
        records = []
        for entry in entries:
            head = json.dumps(entry.head, sort_keys=True, separators=(",", ":"), allow_nan=False)
            digest = hashlib.sha256(entry.payload).digest()
            self.sequence += 1
            self.chain = _link(self.chain, self.sequence, entry.kind, head, digest)
            crc = zlib.crc32(entry.payload)
            row = (self.sequence, entry.kind, head, entry.payload, digest, crc, self.chain)
            self._database.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            records.append(Record(self.sequence, entry.kind, entry.head, entry.payload))
        return records

    def replay(self, after: int, through: int | None = None) -> Iterator[Record]:
        """Return records in order, each checked against its CRC, its digest and the chain.

        They are those after the sequence number `after`, up to `through`; default the newest. Raise `HistoryTruncated`
        where the journal was trimmed past `after`, and `JournalCorrupt` for a record that is missing or not what was
        written.
        """
        for sequence, kind, head, digest, payload, crc in self._linked(after, through, "payload, crc"):
            whole = payload is None or (zlib.crc32(payload) == crc and hashlib.sha256(payload).digest() == digest)
            if not whole:
                raise JournalCorrupt(f"the payload of record {sequence} is not what was written")
            yield Record(sequence, kind, json.loads(head), payload)

    def _linked(self, after: int, through: int | None, more: str) -> Iterator[tuple[Any, ...]]:
        """Return sequence, kind, head, digest and further columns, after checking the hash chain."""
        if after < self.horizon:
            text = "the journal does not reach that far back"
            raise HistoryTruncated(text, expected=f"{self.horizon} or later", received=after)
        expected, chain, through = after, self.link(after), self.sequence if through is None else through
        for sequence, kind, head, digest, link, *rest in self._database.rows(
            f"SELECT sequence, kind, head, digest, chain, {more} FROM records"  # noqa: S608 - columns, from here
            " WHERE sequence > ? AND sequence <= ? ORDER BY sequence",
            (after, through),
        ):
            expected += 1
            chain = _link(chain, expected, kind, head, digest)
            if sequence != expected or chain != link:
                raise JournalCorrupt(f"record {expected} is missing or is not what was written")
            yield (sequence, kind, head, digest, *rest)
        if expected < through:
            raise JournalCorrupt(f"record {expected + 1} is missing")

    def link(self, sequence: int) -> bytes:
        """Return the link at a record or at the horizon, 32 bytes; raise `JournalCorrupt` for a missing record."""
        if sequence == self.horizon:
            return self._horizon_chain
        found = self._database.query("SELECT chain FROM records WHERE sequence = ?", (sequence,))
        if not found:
            raise JournalCorrupt(f"record {sequence} is missing")
        return bytes(found[0][0])

    def heads(self, kinds: Container[str]) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Return sequence, kind and head of every record of these kinds, in order.

        Raise `JournalCorrupt` where a record, of any kind, is missing or is not what was written.
        """
        linked = self._linked(self.horizon, None, "sequence")
        return ((sequence, kind, json.loads(head)) for sequence, kind, head, *_ in linked if kind in kinds)

    def rare(self, kinds: Collection[str]) -> list[tuple[int, str, dict[str, Any]]]:
        """Return the heads of kinds that are not updates; the hash chain is not followed.

        For a journal that was checked when it was opened, and read by its own process.
        """
        found = self._database.query(
            "SELECT sequence, kind, head FROM records WHERE kind <> 'update'"  # noqa: S608 - question marks
            f" AND kind IN ({','.join('?' * len(kinds))}) ORDER BY sequence",
            tuple(kinds),
        )
        return [(sequence, kind, json.loads(head)) for sequence, kind, head in found]

    def summaries(self, after: int, most: int) -> list[Summary]:
        """Return records after a sequence number in order, `most` at most, without their payloads."""
        found = self._database.query(
            "SELECT sequence, kind, head, length(payload) FROM records WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (after, most),
        )
        return [Summary(sequence, kind, json.loads(head), size) for sequence, kind, head, size in found]

    def trim(self, through: int) -> bool:
        """Remove the oldest records up to a sequence number, in a small batch; return True if more are left."""
        if (upto := min(through, self._trimmed_at_once())) <= self.horizon:
            return False
        chain = self.link(upto)
        self._database.write(
            ("DELETE FROM records WHERE sequence <= ?", (upto,)),
            ("DELETE FROM digests WHERE sequence < ?", (upto,)),
            *_horizon(upto, chain),
        )
        self.horizon, self._horizon_chain = upto, chain
        return upto < through

    def _trimmed_at_once(self) -> int:
        """Return the last of the oldest records that are removed together; everybody else waits meanwhile."""
        upto, size = self.horizon, 0
        for sequence, more in self._database.rows(
            "SELECT sequence, coalesce(length(payload), 0) FROM records WHERE sequence > ? ORDER BY sequence LIMIT ?",
            (self.horizon, _TRIMMED_RECORDS),
        ):
            if size and size + more > _TRIMMED_BYTES:
                break
            upto, size = sequence, size + more
        return upto

    def with_payload(self, sequences: Collection[int]) -> list[int]:
        """Return those of some records whose payloads were not erased, in order."""
        wanted = set(sequences)
        found = self._database.rows("SELECT sequence FROM records WHERE payload IS NOT NULL ORDER BY sequence")
        return [sequence for (sequence,) in found if sequence in wanted]

    @staticmethod
    def erasing(sequences: Sequence[int]) -> list[Statement]:
        """Return the statements that remove the payloads of records; what is left proves that they were there."""
        return [("UPDATE records SET payload = NULL WHERE sequence = ?", (one,)) for one in sequences]

    # Digests of the store, noted on the way: what replay must arrive at

    @staticmethod
    def noting_digest(digest: tuple[int, str] | None) -> list[Statement]:
        """Return the statement, if any, that notes a sequence number and the store's digest after it."""
        return [] if digest is None else [("INSERT OR REPLACE INTO digests VALUES (?, ?)", digest)]

    def digests(self, after: int) -> dict[int, str]:
        """Return the digests noted after a sequence number."""
        return dict(self._database.query("SELECT sequence, digest FROM digests WHERE sequence > ?", (after,)))

    # What the records were applied with

    def fingerprint(self) -> dict[str, Any] | None:
        """Return the execution fingerprint of the process that last owned the journal."""
        noted: dict[str, Any] | None = json.loads(self._database.noted("fingerprint") or "null")
        return noted

    def set_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Note the execution fingerprint of this process; digests of another one are dropped."""
        if (noted := self.fingerprint()) == fingerprint:
            return
        dropping = [] if noted is None else [("DELETE FROM digests", ())]
        text = json.dumps(fingerprint, sort_keys=True)
        self._database.write(*dropping, self._database.noting("fingerprint", text))

    # The lineage and the incarnation that write

    @property
    def high_water_mark(self) -> str | None:
        """`BEGUN` where the journal was begun or cut and no `HEAD` is known to be of it yet; None before any is."""
        return self._database.noted("witnessed")

    def set_high_water_mark(self, mark: str = "HEAD") -> None:
        """Note that a `HEAD` stands beside the journal, on the disk; or `BEGUN`, that it is no journal's any more."""
        self._database.write(self._database.noting("witnessed", mark))

    def set_identity(self, lineage: str, incarnation: str) -> None:
        """Note at each start whose journal this is, and which process writes it.

        `lineage` is the store's identity; `incarnation` is random, another one at each start. Raise `JournalCorrupt`
        where the journal is another store's.
        """
        if self.lineage not in ("", lineage):
            text = "the journal belongs to another store than the snapshots"
            raise JournalCorrupt(text, expected=f"lineage {self.lineage}", received=lineage)
        noting = self._database.noting
        self._database.write(noting("lineage", lineage), noting("incarnation", incarnation))
        self.lineage, self.incarnation = lineage, incarnation


def _horizon(sequence: int, chain: bytes) -> list[Statement]:
    sql = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
    return [(sql, ("horizon", sequence)), (sql, ("horizon_chain", chain))]


def _link(previous: bytes, sequence: int, kind: str, head: str, digest: bytes) -> bytes:
    hasher = hashlib.sha256(previous)
    hasher.update(struct.pack("<q", sequence))
    for part in (kind.encode(), head.encode()):
        hasher.update(struct.pack("<q", len(part)) + part)
    hasher.update(digest)
    return hasher.digest()
