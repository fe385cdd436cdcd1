"""The service's own errors, beside the library's tree (`superposed.errors`).

SuperposedError
├── RequestError
│   ├── InvalidRequest          the body is not JSON, or a field is missing, unknown or of the wrong kind
│   ├── UnsupportedMediaType    a body in a form that the route does not read
│   ├── PayloadTooLarge         more bytes than the limit
│   ├── IdempotencyMismatch     the key came with another request before
│   ├── IdempotencyInFlight     the same request is being worked on
│   ├── UnknownSnapshot         no snapshot has this id
│   ├── UnknownUpdate           no update has this sequence number, or it was taken out
│   ├── UnknownApiKey           no API key has this id
│   ├── UnknownFile             the console has no such file
│   ├── UnknownVersion          a model has no such version
│   ├── LimitReached            as many tasks, or API keys, as there may be
│   ├── Quarantined             the update is recorded, and not learned from
│   └── HistoryTruncated        the journal was trimmed past the records that are asked for
├── AccessError
│   ├── Unauthenticated         no API key, or one that is not good
│   ├── Forbidden               the API key may not do this
│   └── QuotaExceeded           the API key has used up what it may do in a second
├── ServiceUnavailable
│   ├── Overloaded              too much is waiting, or coming in
│   ├── NotReady                starting or stopping
│   └── DeadlineExceeded        no answer within the time allowed
└── StorageError
    ├── JournalCorrupt          the journal is not what was written
    ├── DigestMismatch          replay arrived at another store than the one that was
    ├── SnapshotMismatch        a snapshot's bytes are not what was written
    ├── StoreLocked             another process owns the data directory
    └── StorageUnavailable      the disk refused a read or a write
"""

from superposed.errors import SuperposedError


class RequestError(SuperposedError, code="RequestError"):
    """A request that cannot be read."""


class InvalidRequest(RequestError, code="InvalidRequest"):
    """The body is not JSON, or a field is missing, unknown or of the wrong kind."""


class UnsupportedMediaType(RequestError, code="UnsupportedMediaType"):
    """A body in a form that the route does not read."""


class PayloadTooLarge(RequestError, code="PayloadTooLarge"):
    """More bytes than the limit."""


class IdempotencyMismatch(RequestError, code="IdempotencyMismatch"):
    """The key came with another request before."""


class IdempotencyInFlight(RequestError, code="IdempotencyInFlight"):
    """The same request is being worked on."""


class UnknownSnapshot(RequestError, code="UnknownSnapshot"):
    """No snapshot has this id."""


class UnknownUpdate(RequestError, code="UnknownUpdate"):
    """No update has this sequence number, or it was taken out."""


class UnknownApiKey(RequestError, code="UnknownApiKey"):
    """No API key has this id."""


class UnknownFile(RequestError, code="UnknownFile"):
    """The console has no such file."""


class UnknownVersion(RequestError, code="UnknownVersion"):
    """A model has no such version."""


class LimitReached(RequestError, code="LimitReached"):
    """There are as many tasks, or API keys, as there may be."""


class Quarantined(RequestError, code="Quarantined"):
    """The update is recorded, and not learned from: its source is in quarantine."""


class HistoryTruncated(RequestError, code="HistoryTruncated"):
    """The journal was trimmed past what is asked for."""


class AccessError(SuperposedError, code="AccessError"):
    """The API key may not do this."""


class Unauthenticated(AccessError, code="Unauthenticated"):
    """No API key, or one that is not good."""


class Forbidden(AccessError, code="Forbidden"):
    """The API key may not do this."""


class QuotaExceeded(AccessError, code="QuotaExceeded"):
    """The API key has used up what it may do in a second.

    Args:
        message: Which quota.
        expected: What it allows.
        received: The value received.
        retry_after_s: When there will be room again.
    """

    def __init__(
        self, message: str, *, expected: object = None, received: object = None, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message, expected=expected, received=received)
        self.retry_after_s = retry_after_s


class ServiceUnavailable(SuperposedError, code="ServiceUnavailable"):
    """The service cannot answer now."""


class Overloaded(ServiceUnavailable, code="Overloaded"):
    """Too much is waiting, or coming in.

    Args:
        message: What there is too much of.
        expected: How much may be.
        received: How much there is.
        retry_after_s: When there may be room again.
    """

    def __init__(
        self, message: str, *, expected: object = None, received: object = None, retry_after_s: float = 1.0
    ) -> None:
        super().__init__(message, expected=expected, received=received)
        self.retry_after_s = retry_after_s


class NotReady(ServiceUnavailable, code="NotReady"):
    """Starting or stopping."""


class DeadlineExceeded(ServiceUnavailable, code="DeadlineExceeded"):
    """No answer within the time allowed."""


class StorageError(SuperposedError, code="StorageError"):
    """The data directory cannot be used."""


class JournalCorrupt(StorageError, code="JournalCorrupt"):
    """The journal is not what was written."""


class DigestMismatch(StorageError, code="DigestMismatch"):
    """Replay arrived at another store than the one that was."""


class SnapshotMismatch(StorageError, code="SnapshotMismatch"):
    """A snapshot's bytes are not what was written."""


class StoreLocked(StorageError, code="StoreLocked"):
    """Another process owns the data directory."""


class StorageUnavailable(StorageError, code="StorageUnavailable"):
    """The disk refused a read or a write."""
