"""The client's errors: one class a problem type.

SuperposedError
├── ConnectionFailed                no answer from the server
├── UnexpectedAnswer                an answer that is not this API's
└── ApiError                        the server refused, and said why
    ├── InvalidRequest, ShapeMismatch, NonFiniteInput, LabelOutOfRange, EmptyBatch
    ├── CompositionNotSupported, ExpressionInvalid, UpdateRefused, IdempotencyMismatch   (all 422)
    ├── UnknownTask, NotFound                                                            (404)
    ├── TaskExists, SchemaChanged, TaskInUse, IdempotencyInFlight, LimitReached,
    │   BeyondHorizon                                                                    (409)
    ├── PayloadTooLarge, BatchTooLarge                                                   (413)
    ├── BadRequest (400), RequestTimeout (408), HeadersTooLarge (431)
    ├── Unauthenticated (401), Forbidden (403), MethodNotAllowed (405), UnsupportedMediaType (415)
    ├── Quarantined (423), QuotaExceeded (429)
    └── Overloaded, NotReady, StorageUnavailable (503), DeadlineExceeded (504), Internal (500)
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

__all__ = [
    "ERRORS",
    "ApiError",
    "BadRequest",
    "BatchTooLarge",
    "CompositionNotSupported",
    "ConnectionFailed",
    "DeadlineExceeded",
    "EmptyBatch",
    "ExpressionInvalid",
    "Forbidden",
    "HeadersTooLarge",
    "HistoryTruncated",
    "IdempotencyInFlight",
    "IdempotencyMismatch",
    "Internal",
    "InvalidRequest",
    "LabelOutOfRange",
    "LimitReached",
    "MethodNotAllowed",
    "NonFiniteInput",
    "NotFound",
    "NotReady",
    "Overloaded",
    "PayloadTooLarge",
    "Quarantined",
    "QuotaExceeded",
    "RequestTimeout",
    "SchemaChanged",
    "ShapeMismatch",
    "StorageUnavailable",
    "SuperposedError",
    "TaskExists",
    "TaskInUse",
    "Unauthenticated",
    "UnexpectedAnswer",
    "UnknownTask",
    "UnsupportedMediaType",
    "UpdateRefused",
]


class SuperposedError(Exception):
    """Base of everything that the client raises on purpose."""


class ConnectionFailed(SuperposedError):
    """No answer from the server: it is not there, or the connection broke or timed out."""


class UnexpectedAnswer(SuperposedError):
    """An answer that is not this API's: another server, or something in between."""


class ApiError(SuperposedError):
    """The server refused, and said why.

    Attributes:
        slug: The last part of the problem's type; each class has its own.
        status: HTTP status.
        detail: What happened.
        expected: What would have been accepted, where the server said so.
        received: The value received, where the server said so.
        request_id: Names the request in the server's logs.
        problem: The whole problem document.
    """

    slug: ClassVar[str] = ""

    def __init__(self, problem: dict[str, Any], status: int, request_id: str | None) -> None:
        self.problem = problem
        self.status = status
        self.detail: str = str(problem.get("detail", ""))
        self.expected = problem.get("expected")
        self.received = problem.get("received")
        self.request_id = request_id
        parts = [self.detail or str(problem.get("title", "the server refused"))]
        if self.expected is not None:
            parts.append(f"expected {self.expected}")
        if self.received is not None:
            parts.append(f"received {self.received}")
        super().__init__("; ".join(parts))

    def explained(self, hint: str) -> Self:
        """Return the same error, with what the caller knows beside what the server said."""
        problem = self.problem | {"detail": f"{self.detail} ({hint})"}
        return type(self)(problem, self.status, self.request_id)


class InvalidRequest(ApiError):
    """A body or parameter that the API does not have."""

    slug = "invalid-request"


class ShapeMismatch(ApiError):
    """Wrong number of rows, features or outputs."""

    slug = "shape-mismatch"


class NonFiniteInput(ApiError):
    """NaN or infinity among the numbers."""

    slug = "non-finite-input"


class LabelOutOfRange(ApiError):
    """A target that the task does not have."""

    slug = "label-out-of-range"


class EmptyBatch(ApiError):
    """No rows."""

    slug = "empty-batch"


class CompositionNotSupported(ApiError):
    """A mixture or power that the family or the parts do not allow."""

    slug = "composition-not-supported"


class ExpressionInvalid(ApiError):
    """Not a context expression."""

    slug = "expression-invalid"


class UnknownTask(ApiError):
    """No task has this key."""

    slug = "unknown-task"


class TaskExists(ApiError):
    """The key is registered with another schema."""

    slug = "task-exists"


class SchemaChanged(ApiError):
    """The task's schema has another version by now."""

    slug = "schema-changed"


class TaskInUse(ApiError):
    """The task is the group of others."""

    slug = "task-in-use"


class UpdateRefused(ApiError):
    """The update was refused; nothing was learned."""

    slug = "update-refused"


class PayloadTooLarge(ApiError):
    """More bytes than one request may have."""

    slug = "payload-too-large"


class IdempotencyMismatch(ApiError):
    """The same idempotency key with another payload."""

    slug = "idempotency-mismatch"


class IdempotencyInFlight(ApiError):
    """The first request with this idempotency key is still running."""

    slug = "idempotency-in-flight"


class Unauthenticated(ApiError):
    """No API key, or one that is not valid."""

    slug = "unauthenticated"


class Forbidden(ApiError):
    """The API key may not do this."""

    slug = "forbidden"


class QuotaExceeded(ApiError):
    """The API key's quota is used up."""

    slug = "quota-exceeded"


class Overloaded(ApiError):
    """Too many requests are waiting."""

    slug = "overloaded"


class NotReady(ApiError):
    """The service is starting or stopping."""

    slug = "not-ready"


class StorageUnavailable(ApiError):
    """The service cannot write to its disk."""

    slug = "storage-unavailable"


class DeadlineExceeded(ApiError):
    """No answer within the time allowed."""

    slug = "deadline-exceeded"


class BatchTooLarge(ApiError):
    """More rows or contexts than one request may have."""

    slug = "batch-too-large"


class Quarantined(ApiError):
    """The task or key is quarantined."""

    slug = "quarantined"


class HistoryTruncated(ApiError):
    """The journal no longer reaches back so far."""

    slug = "beyond-horizon"


class NotFound(ApiError):
    """No such route."""

    slug = "not-found"


class MethodNotAllowed(ApiError):
    """The route has no such method."""

    slug = "method-not-allowed"


class UnsupportedMediaType(ApiError):
    """A body in a form that the route does not read."""

    slug = "unsupported-media-type"


class LimitReached(ApiError):
    """There are as many tasks, or API keys, as there may be."""

    slug = "limit-reached"


class BadRequest(ApiError):
    """Not HTTP."""

    slug = "bad-request"


class RequestTimeout(ApiError):
    """The request did not arrive in time."""

    slug = "request-timeout"


class HeadersTooLarge(ApiError):
    """More bytes of headers than one request may have."""

    slug = "headers-too-large"


class Internal(ApiError):
    """Something went wrong inside the service."""

    slug = "internal"


ERRORS: dict[str, type[ApiError]] = {error.slug: error for error in ApiError.__subclasses__()}
