"""The service's own errors, beside the library's tree (`superposed.errors`).

SuperposedError
├── RequestError
│   ├── InvalidRequest          the body is not JSON, or a field is missing, unknown or of the wrong kind
│   ├── UnsupportedMediaType    a body in a form that the route does not read
│   └── PayloadTooLarge         more bytes than the limit
├── ServiceUnavailable
│   ├── Overloaded              the queue is full
│   ├── NotReady                starting or stopping
│   └── DeadlineExceeded        no answer within the time allowed
└── StorageError
    ├── SnapshotMismatch        a snapshot's bytes are not what was written
    ├── StoreLocked             another process owns the data directory
    └── StorageUnavailable      the disk refused a read or a write
"""

from __future__ import annotations

from superposed.errors import SuperposedError

__all__ = [
    "DeadlineExceeded",
    "InvalidRequest",
    "NotReady",
    "Overloaded",
    "PayloadTooLarge",
    "RequestError",
    "ServiceUnavailable",
    "SnapshotMismatch",
    "StorageError",
    "StorageUnavailable",
    "StoreLocked",
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


class SnapshotMismatch(StorageError):
    """A snapshot's bytes are not what was written."""


class StoreLocked(StorageError):
    """Another process owns the data directory."""


class StorageUnavailable(StorageError):
    """The disk refused a read or a write."""
