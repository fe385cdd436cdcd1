"""The service's own errors, beside the library's tree (`superposed.errors`).

SuperposedError
├── RequestError
│   ├── InvalidRequest          the body is not JSON, or a field is missing, unknown or of the wrong kind
│   ├── UnsupportedMediaType    a body in a form that the route does not read
│   ├── PayloadTooLarge         more bytes than the limit
│   ├── IdempotencyMismatch     the key came with another request before
│   ├── IdempotencyInFlight     the same request is being worked on
│   ├── UnknownSnapshot         no snapshot has this id
│   ├── UnknownApiKey           no API key has this id
│   ├── UnknownVersion          a model has no such version
│   ├── Quarantined             the update is recorded, and not learned from
│   └── BeyondHorizon           the journal was trimmed past what is asked for
├── AccessError
│   ├── Unauthenticated         no API key, or one that is not good
│   └── Forbidden               the API key may not do this
├── ServiceUnavailable
│   ├── Overloaded              the queue is full
│   ├── NotReady                starting or stopping
│   └── DeadlineExceeded        no answer within the time allowed
└── StorageError
    ├── JournalCorrupt          the journal is not what was written
    ├── DigestMismatch          replay arrived at another store than the one that was
    ├── SnapshotMismatch        a snapshot's bytes are not what was written
    ├── StoreLocked             another process owns the data directory
    └── StorageUnavailable      the disk refused a read or a write
"""

from __future__ import annotations

from superposed.errors import SuperposedError

__all__ = [
    "AccessError",
    "BeyondHorizon",
    "DeadlineExceeded",
    "DigestMismatch",
    "Forbidden",
    "IdempotencyInFlight",
    "IdempotencyMismatch",
    "InvalidRequest",
    "JournalCorrupt",
    "NotReady",
    "Overloaded",
    "PayloadTooLarge",
    "Quarantined",
    "RequestError",
    "ServiceUnavailable",
    "SnapshotMismatch",
    "StorageError",
    "StorageUnavailable",
    "StoreLocked",
    "Unauthenticated",
    "UnknownApiKey",
    "UnknownSnapshot",
    "UnknownVersion",
    "UnsupportedMediaType",
]


class RequestError(SuperposedError):
    """A request that cannot be read."""


class InvalidRequest(RequestError):
    """The body is not JSON, or a field is missing, unknown or of the wrong kind."""


class UnsupportedMediaType(RequestError):
    """A body in a form that the route does not read."""


class PayloadTooLarge(RequestError):
    """More bytes than the limit."""


class IdempotencyMismatch(RequestError):
    """The key came with another request before."""


class IdempotencyInFlight(RequestError):
    """The same request is being worked on."""


class UnknownSnapshot(RequestError):
    """No snapshot has this id."""


class UnknownApiKey(RequestError):
    """No API key has this id."""


class UnknownVersion(RequestError):
    """A model has no such version."""


class Quarantined(RequestError):
    """The update is recorded, and not learned from: its source is in quarantine."""


class BeyondHorizon(RequestError):
    """The journal was trimmed past what is asked for."""


class AccessError(SuperposedError):
    """Whoever asks may not."""


class Unauthenticated(AccessError):
    """No API key, or one that is not good."""


class Forbidden(AccessError):
    """The API key may not do this."""


class ServiceUnavailable(SuperposedError):
    """The service cannot answer now."""


class Overloaded(ServiceUnavailable):
    """The queue is full."""


class NotReady(ServiceUnavailable):
    """Starting or stopping."""


class DeadlineExceeded(ServiceUnavailable):
    """No answer within the time allowed."""


class StorageError(SuperposedError):
    """The data directory cannot be used."""


class JournalCorrupt(StorageError):
    """The journal is not what was written."""


class DigestMismatch(StorageError):
    """Replay arrived at another store than the one that was."""


class SnapshotMismatch(StorageError):
    """A snapshot's bytes are not what was written."""


class StoreLocked(StorageError):
    """Another process owns the data directory."""


class StorageUnavailable(StorageError):
    """The disk refused a read or a write."""
