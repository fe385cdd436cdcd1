"""The service's own errors, beside the library's tree (`superposed.errors`)."""

from collections.abc import Iterator
from contextlib import contextmanager

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


class Diverged(RequestError, code="Diverged"):
    """A follower has records that its leader has not; `expected` is the first of them."""


class HistoryTruncated(RequestError, code="HistoryTruncated"):
    """The journal was trimmed past what is asked for."""


class _RetryLater(Exception):
    def __init__(self, message: str, *, retry_after_s: float = 1.0, **known: object) -> None:
        super().__init__(message, **known)
        self.retry_after_s = retry_after_s


class AccessError(SuperposedError, code="AccessError"):
    """The API key may not do this."""


class Unauthenticated(AccessError, code="Unauthenticated"):
    """No API key, or one that is not good."""


class Forbidden(AccessError, code="Forbidden"):
    """The API key may not do this."""


class QuotaExceeded(_RetryLater, AccessError, code="QuotaExceeded"):
    """The API key has used up what it may do in a second."""


class ServiceUnavailable(SuperposedError, code="ServiceUnavailable"):
    """The service cannot answer now."""


class Overloaded(_RetryLater, ServiceUnavailable, code="Overloaded"):
    """Too much is waiting, or coming in."""


class NotReady(ServiceUnavailable, code="NotReady"):
    """Starting or stopping."""


class NotLeader(ServiceUnavailable, code="NotLeader"):
    """A follower is asked for a change: its leader takes it."""

    def __init__(self, message: str, *, leader: str = "", **known: object) -> None:
        super().__init__(message, **known)
        self.leader = leader


class TooFewFollowers(ServiceUnavailable, code="TooFewFollowers"):
    """A change is to be on the disks of more followers than were reached."""


class NotFresh(RequestError, code="NotFresh"):
    """A request asks for an answer that is newer than this server's store."""


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


@contextmanager
def disk_errors(message: str) -> Iterator[None]:
    """Raise `StorageUnavailable` with a message in place of an `OSError`."""
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(message, received=str(error)) from error
