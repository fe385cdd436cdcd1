"""The client's errors: `ConnectionFailed`, `UnexpectedAnswer`, and one `ApiError` a problem type.

docs/http-api.md lists the problem types with their statuses.
"""

from typing import Any, ClassVar, Self


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

    def __init_subclass__(cls, slug: str = "") -> None:
        cls.slug = slug or cls.slug  # a class of the user's own has the slug of its base

    def __init__(self, problem: dict[str, Any], status: int, request_id: str | None) -> None:
        self.problem, self.status, self.request_id = problem, status, request_id
        self.detail: str = str(problem.get("detail", ""))
        self.expected, self.received = problem.get("expected"), problem.get("received")
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


class InvalidRequest(ApiError, slug="invalid-request"):
    """A body or parameter that the API does not have."""


class ShapeMismatch(ApiError, slug="shape-mismatch"):
    """Wrong number of rows, features or outputs."""


class NonFiniteInput(ApiError, slug="non-finite-input"):
    """NaN or infinity among the numbers."""


class LabelOutOfRange(ApiError, slug="label-out-of-range"):
    """A target that the task does not have."""


class EmptyBatch(ApiError, slug="empty-batch"):
    """No rows."""


class CompositionNotSupported(ApiError, slug="composition-not-supported"):
    """A mixture or power that the family or the parts do not allow."""


class ExpressionInvalid(ApiError, slug="expression-invalid"):
    """Not a context expression."""


class UnknownTask(ApiError, slug="unknown-task"):
    """No task has this key."""


class TaskExists(ApiError, slug="task-exists"):
    """The key is registered with another schema."""


class SchemaChanged(ApiError, slug="schema-changed"):
    """The task's schema has another version by now."""


class TaskInUse(ApiError, slug="task-in-use"):
    """The task is the group of others."""


class UpdateRefused(ApiError, slug="update-refused"):
    """The update was refused; nothing was learned."""


class PayloadTooLarge(ApiError, slug="payload-too-large"):
    """More bytes than one request may have."""


class IdempotencyMismatch(ApiError, slug="idempotency-mismatch"):
    """The same idempotency key with another payload."""


class IdempotencyInFlight(ApiError, slug="idempotency-in-flight"):
    """The first request with this idempotency key is still running."""


class Unauthenticated(ApiError, slug="unauthenticated"):
    """No API key, or one that is not valid."""


class Forbidden(ApiError, slug="forbidden"):
    """The API key may not do this."""


class QuotaExceeded(ApiError, slug="quota-exceeded"):
    """The API key's quota is used up."""


class EncoderUnavailable(ApiError, slug="encoder-unavailable"):
    """The server cannot encode texts or images; rows of numbers it takes."""


class Overloaded(ApiError, slug="overloaded"):
    """Too many requests are waiting."""


class NotReady(ApiError, slug="not-ready"):
    """The service is starting or stopping."""


class NotLeader(ApiError, slug="not-leader"):
    """The server follows another one, which takes changes."""


class TooFewFollowers(ApiError, slug="too-few-followers"):
    """Too few followers have the change: sent again with its idempotency key, it is answered once they do."""


class Diverged(ApiError, slug="diverged"):
    """A follower has records that its leader has not."""


class NotFresh(ApiError, slug="not-fresh"):
    """The server's store is not as new as what this client has seen."""


class StorageUnavailable(ApiError, slug="storage-unavailable"):
    """The service cannot write to its disk."""


class DeadlineExceeded(ApiError, slug="deadline-exceeded"):
    """No answer within the time allowed."""


class BatchTooLarge(ApiError, slug="batch-too-large"):
    """More rows or contexts than one request may have."""


class Quarantined(ApiError, slug="quarantined"):
    """The task or key is quarantined."""


class HistoryTruncated(ApiError, slug="beyond-horizon"):
    """The journal no longer reaches back so far."""


class NotFound(ApiError, slug="not-found"):
    """No such route."""


class MethodNotAllowed(ApiError, slug="method-not-allowed"):
    """The route has no such method."""


class UnsupportedMediaType(ApiError, slug="unsupported-media-type"):
    """A body in a form that the route does not read."""


class LimitReached(ApiError, slug="limit-reached"):
    """There are as many tasks, or API keys, as there may be."""


class BadRequest(ApiError, slug="bad-request"):
    """Not HTTP."""


class RequestTimeout(ApiError, slug="request-timeout"):
    """The request did not arrive in time."""


class HeadersTooLarge(ApiError, slug="headers-too-large"):
    """More bytes of headers than one request may have."""


class Internal(ApiError, slug="internal"):
    """Something went wrong inside the service."""


ERRORS: dict[str, type[ApiError]] = {error.slug: error for error in ApiError.__subclasses__()}

__all__ = ["ApiError", "BadRequest", "BatchTooLarge", "CompositionNotSupported", "ConnectionFailed"]
__all__ += ["ERRORS", "DeadlineExceeded", "Diverged", "EmptyBatch", "EncoderUnavailable", "ExpressionInvalid"]
__all__ += ["Forbidden", "HeadersTooLarge", "HistoryTruncated", "IdempotencyInFlight", "IdempotencyMismatch"]
__all__ += ["Internal", "InvalidRequest", "LabelOutOfRange", "LimitReached", "MethodNotAllowed"]
__all__ += ["NonFiniteInput", "NotFound", "NotFresh", "NotLeader", "NotReady", "Overloaded", "PayloadTooLarge"]
__all__ += ["Quarantined", "QuotaExceeded", "RequestTimeout", "SchemaChanged", "ShapeMismatch"]
__all__ += ["StorageUnavailable", "SuperposedError", "TaskExists", "TaskInUse", "TooFewFollowers"]
__all__ += ["Unauthenticated", "UnexpectedAnswer", "UnknownTask", "UnsupportedMediaType", "UpdateRefused"]
