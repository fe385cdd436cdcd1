"""Log shipping from a leader to its followers: records, their idempotency keys, and API keys."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from superposed_service.errors import Diverged, HistoryTruncated, InvalidRequest
from superposed_service.storage.api_keys import ApiKey
from superposed_service.storage.idempotency import IdempotencyKey
from superposed_service.storage.journal import Entry
from superposed_service.storage.transaction_log import TransactionLog

_MOST_RECORDS, _MOST_BYTES = 256, 4 * 2**20
# How far back digests are sent again: a follower notes its own with a later transaction.
_DIGESTS_BEFORE = 2048


class Place(NamedTuple):
    """End of a follower's journal: its newest record, its link and epoch there, and what is beside it.

    `api_keys` is a digest of the API keys, `promised` the newest epoch that the follower has promised, `member` its
    name among the store's servers, and `lineage` the store's identity.
    """

    sequence: int
    chain: str
    api_keys: str = ""
    epoch: int = 1
    promised: int = 1
    member: str = ""
    lineage: str = ""

    @classmethod
    def of(cls, log: TransactionLog) -> "Place":
        """Return a journal's."""
        journal, epochs = log.journal, log.epochs
        epoch = epochs.epoch_of(journal.sequence)
        member, keys = epochs.member, log.api_keys.digest
        return cls(journal.sequence, journal.chain.hex(), keys, epoch, epochs.promised, member, journal.lineage)


@dataclass(frozen=True)
class Shipment:
    """Records of a leader that come after a follower's newest one, and what belongs to them."""

    newest: int  # sequence number of the leader's newest record
    epoch: int  # the leader's
    starts: Sequence[tuple[int, int]]  # epoch and first record of each of its epochs
    chain: str  # the journal's link at the last record here, hexadecimal
    fingerprint: Mapping[str, Any] | None  # what the leader applies records with
    changes: Sequence[tuple[Entry, IdempotencyKey | None]]  # the records, and the requests that they came from
    digests: Mapping[int, str]  # of the leader's store, by sequence number
    api_keys: Sequence[ApiKey] | None  # all of the leader's; None where the follower has them
    baseline: Sequence[float]  # what the leader's poison detector has learned of ordinary harm
    snapshot: int = 0  # sequence number of the leader's newest snapshot

    @classmethod
    def read(cls, log: TransactionLog, place: Place) -> "Shipment":
        """Read what a follower at a place lacks, on the leader's journal's thread.

        Raise `HistoryTruncated` where the records, or rows of them, are not there any more, and a snapshot is needed;
        `Diverged` where the follower has records that no later leader has; `InvalidRequest` where the follower's
        records are not this journal's.
        """
        journal, epochs, after, chain = log.journal, log.epochs, place.sequence, place.chain
        if after < journal.horizon:
            text = "the journal was trimmed past the follower"
            raise HistoryTruncated(text, expected=journal.horizon, received=after)
        if place.lineage not in ("", journal.lineage):
            text = "the follower holds another store: move its directory away, and start it on an empty one"
            raise InvalidRequest(text, expected=f"lineage {journal.lineage}", received=place.lineage)
        if (end := epochs.end_of(place.epoch)) <= after:
            raise Diverged("the follower has records that no later leader has", expected=int(end), received=after)
        if after > journal.sequence or journal.link(after).hex() != chain:
            remedy = "move the follower's directory away, and start it on an empty one"
            raise InvalidRequest(f"record {after} of the follower is not the leader's: {remedy}", received=chain)
        origins, changes, size = log.answers.origins(after), [], 0
        for record in journal.replay(after):
            if record.payload is None:
                raise HistoryTruncated("rows that the follower needs were erased", received=record.sequence)
            changes.append((Entry(record.kind, record.head, record.payload), origins.get(record.sequence)))
            size += len(record.payload)
            if len(changes) == _MOST_RECORDS or size >= _MOST_BYTES:
                break
        keys = None if place.api_keys == log.api_keys.digest else log.api_keys.all()
        last, digests = journal.link(after + len(changes)).hex(), journal.digests(after - _DIGESTS_BEFORE)
        known = (journal.sequence, epochs.led, epochs.starts, last, journal.fingerprint())
        return cls(*known, changes, digests, keys, log.canaries.baseline)

    def to_bytes(self) -> bytes:
        """Return it as bytes: the length of a JSON head, the head, and the records' payloads."""
        records = [
            [one.kind, one.head, len(one.payload), origin and [origin.key, origin.request.hex(), origin.owner]]
            for one, origin in self.changes
        ]
        keys = None if self.api_keys is None else [asdict(key) for key in self.api_keys]
        payloads = b"".join(one.payload for one, _ in self.changes)
        return framed(vars(self) | {"changes": records, "api_keys": keys}, payloads)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Shipment":
        """Read what `to_bytes` wrote."""
        head, payloads = unframed(data)
        changes, place = [], 0
        for kind, of, size, origin in head["changes"]:
            entry = Entry(kind, of, payloads[place : place + size])
            changes.append((entry, origin and IdempotencyKey(origin[0], bytes.fromhex(origin[1]), origin[2])))
            place += size
        keys = head["api_keys"] and [ApiKey(**one) for one in head["api_keys"]]
        digests = {int(sequence): digest for sequence, digest in head["digests"].items()}
        starts = [(epoch, first) for epoch, first in head["starts"]]
        return cls(**head | {"changes": changes, "api_keys": keys, "digests": digests, "starts": starts})


def framed(head: Mapping[str, Any], data: bytes) -> bytes:
    """Return a JSON head and bytes in one, as a leader sends them."""
    text = json.dumps(head).encode()
    return struct.pack("<q", len(text)) + text + data


def unframed(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return what `framed` put together."""
    [length] = struct.unpack_from("<q", data)
    head: dict[str, Any] = json.loads(data[8 : 8 + length])
    return head, data[8 + length :]
