"""The client's errors: `ConnectionFailed`, `UnexpectedAnswer`, and one `ApiError` a problem type.

docs/reference/errors.md lists the problem types with their statuses.
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
    """The body is not JSON, or a field or parameter is missing, unknown or of the wrong kind."""


class ShapeMismatch(ApiError, slug="shape-mismatch"):
    """Wrong number of rows, features, targets or outputs, or inputs that are no numbers."""


class NonFiniteInput(ApiError, slug="non-finite-input"):
    """NaN, Infinity, or a number too large for a float, among the numbers."""


class LabelOutOfRange(ApiError, slug="label-out-of-range"):
    """A target that the task does not have."""


class EmptyBatch(ApiError, slug="empty-batch"):
    """No rows."""


class CompositionNotSupported(ApiError, slug="composition-not-supported"):
    """A mixture or power that the family or the parts do not allow."""


class ExpressionInvalid(ApiError, slug="expression-invalid"):
    """Not a context expression, or not a task key."""


class UnknownTask(ApiError, slug="unknown-task"):
    """No task has this key."""


class TaskExists(ApiError, slug="task-exists"):
    """The key is registered with another schema."""


class SchemaChanged(ApiError, slug="schema-changed"):
    """The task's schema has another version by now."""


class TaskInUse(ApiError, slug="task-in-use"):
    """The task is the group of other tasks, or other tasks are composed of it."""


class UpdateRefused(ApiError, slug="update-refused"):
    """Loss or gradient is not finite, or the gradient is too long; nothing was learned."""


class PayloadTooLarge(ApiError, slug="payload-too-large"):
    """More bytes than one request may have."""


class IdempotencyMismatch(ApiError, slug="idempotency-mismatch"):
    """The idempotency key came with another request before."""


class IdempotencyInFlight(ApiError, slug="idempotency-in-flight"):
    """The first request with this idempotency key is still running."""


class Unauthenticated(ApiError, slug="unauthenticated"):
    """No API key, or one that is not valid."""


class Forbidden(ApiError, slug="forbidden"):
    """The API key may not do this."""


class QuotaExceeded(ApiError, slug="quota-exceeded"):
    """The API key's quota is used up; `Retry-After` has the seconds until there is room."""


class EncoderUnavailable(ApiError, slug="encoder-unavailable"):
    """A package or model of the task's encoder is missing or differs; `detail` says what to do."""


class Overloaded(ApiError, slug="overloaded"):
    """Too many requests are waiting."""


class NotReady(ApiError, slug="not-ready"):
    """The service is starting or stopping."""


class NotLeader(ApiError, slug="not-leader"):
    """A change was sent to a follower; `expected` and the header `Location` name the leader."""


class TooFewFollowers(ApiError, slug="too-few-followers"):
    """Too few followers have the change: sent again with its idempotency key, it is answered once they do."""


class Diverged(ApiError, slug="diverged"):
    """A follower has records that its leader has not; `expected` is the first of them."""


class NotFresh(ApiError, slug="not-fresh"):
    """The server's store is older than `X-Min-Sequence`, or that record was lost with a leader."""


class StorageUnavailable(ApiError, slug="storage-unavailable"):
    """The service cannot write to its disk."""


class DeadlineExceeded(ApiError, slug="deadline-exceeded"):
    """No answer in time; `detail` says whether the request was dropped or had begun."""


class BatchTooLarge(ApiError, slug="batch-too-large"):
    """More rows, contexts or steps than one request may have."""


class Quarantined(ApiError, slug="quarantined"):
    """The update is recorded and not learned from: its source is in quarantine."""


class HistoryTruncated(ApiError, slug="beyond-horizon"):
    """The journal was trimmed, or rows were erased, past what a rollback needs."""


class NotFound(ApiError, slug="not-found"):
    """No such route, update, snapshot, API key or file."""


class MethodNotAllowed(ApiError, slug="method-not-allowed"):
    """The route has no such method."""


class UnsupportedMediaType(ApiError, slug="unsupported-media-type"):
    """A body in a form that the route does not read."""


class LimitReached(ApiError, slug="limit-reached"):
    """The largest number of tasks, or of API keys, is reached."""


class BadRequest(ApiError, slug="bad-request"):
    """The request is not HTTP."""


class RequestTimeout(ApiError, slug="request-timeout"):
    """The request did not arrive in time."""


class HeadersTooLarge(ApiError, slug="headers-too-large"):
    """More bytes of headers than one request may have."""


class Internal(ApiError, slug="internal"):
    """Something went wrong inside the service; its log names the request's `X-Request-Id`."""


ERRORS: dict[str, type[ApiError]] = {error.slug: error for error in ApiError.__subclasses__()}

__all__ = ["ApiError", "BadRequest", "BatchTooLarge", "CompositionNotSupported", "ConnectionFailed"]
__all__ += ["ERRORS", "DeadlineExceeded", "Diverged", "EmptyBatch", "EncoderUnavailable", "ExpressionInvalid"]
__all__ += ["Forbidden", "HeadersTooLarge", "HistoryTruncated", "IdempotencyInFlight", "IdempotencyMismatch"]
__all__ += ["Internal", "InvalidRequest", "LabelOutOfRange", "LimitReached", "MethodNotAllowed"]
__all__ += ["NonFiniteInput", "NotFound", "NotFresh", "NotLeader", "NotReady", "Overloaded", "PayloadTooLarge"]
__all__ += ["Quarantined", "QuotaExceeded", "RequestTimeout", "SchemaChanged", "ShapeMismatch"]
__all__ += ["StorageUnavailable", "SuperposedError", "TaskExists", "TaskInUse", "TooFewFollowers"]
__all__ += ["Unauthenticated", "UnexpectedAnswer", "UnknownTask", "UnsupportedMediaType", "UpdateRefused"]
