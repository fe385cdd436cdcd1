"""From errors to HTTP: one table, and RFC 9457 problem documents."""

import math
from typing import Any

import orjson
from starlette.responses import Response

from superposed import errors as library
from superposed.errors import SuperposedError
from superposed_service import errors as service

PROBLEM_MEDIA_TYPE = "application/problem+json"
INTERNAL = "something went wrong inside the service; its log names this request's X-Request-Id"
_URN = "urn:superposed:problem:"

Problem = tuple[int, str, str]

# Error classes that can reach a client: status, slug, title; a class without a row has that of the class above it.
PROBLEMS: dict[type[SuperposedError], Problem] = {
    SuperposedError: (500, "internal", "Internal error"),
    library.ConfigError: (422, "invalid-request", "Invalid request"),
    library.EncoderUnavailable: (501, "encoder-unavailable", "Encoder unavailable"),
    library.InputError: (422, "invalid-request", "Invalid request"),
    library.ShapeError: (422, "shape-mismatch", "Shape mismatch"),
    library.NonFiniteInput: (422, "non-finite-input", "Non-finite input"),
    library.LabelOutOfRange: (422, "label-out-of-range", "Label out of range"),
    library.EmptyBatch: (422, "empty-batch", "Empty batch"),
    library.ContextError: (422, "expression-invalid", "Invalid context"),
    library.ExpressionInvalid: (422, "expression-invalid", "Invalid context expression"),
    library.UnknownTask: (404, "unknown-task", "Unknown task"),
    library.TaskExists: (409, "task-exists", "Task exists"),
    library.SchemaChanged: (409, "schema-changed", "Schema changed"),
    library.TaskInUse: (409, "task-in-use", "Task in use"),
    library.CompositionNotSupported: (422, "composition-not-supported", "Composition not supported"),
    library.UpdateError: (422, "update-refused", "Update refused"),
    library.CapacityExceeded: (413, "batch-too-large", "Batch too large"),
    service.RequestError: (422, "invalid-request", "Invalid request"),
    service.UnsupportedMediaType: (415, "unsupported-media-type", "Unsupported media type"),
    service.PayloadTooLarge: (413, "payload-too-large", "Payload too large"),
    service.IdempotencyMismatch: (422, "idempotency-mismatch", "Idempotency key used before"),
    service.IdempotencyInFlight: (409, "idempotency-in-flight", "Request in flight"),
    service.UnknownSnapshot: (404, "not-found", "Not found"),
    service.UnknownUpdate: (404, "not-found", "Not found"),
    service.UnknownApiKey: (404, "not-found", "Not found"),
    service.UnknownFile: (404, "not-found", "Not found"),
    service.UnknownVersion: (404, "not-found", "Not found"),
    service.LimitReached: (409, "limit-reached", "Limit reached"),
    service.Quarantined: (423, "quarantined", "In quarantine"),
    service.NotFresh: (409, "not-fresh", "Not fresh"),
    service.Diverged: (409, "diverged", "Diverged"),
    service.HistoryTruncated: (409, "beyond-horizon", "Beyond the journal's horizon"),
    service.AccessError: (403, "forbidden", "Forbidden"),
    service.Unauthenticated: (401, "unauthenticated", "Unauthenticated"),
    service.QuotaExceeded: (429, "quota-exceeded", "Quota exceeded"),
    service.ServiceUnavailable: (503, "not-ready", "Not ready"),
    service.Overloaded: (503, "overloaded", "Overloaded"),
    service.NotLeader: (421, "not-leader", "Not the leader"),
    service.TooFewFollowers: (503, "too-few-followers", "Too few followers"),
    service.DeadlineExceeded: (504, "deadline-exceeded", "Deadline exceeded"),
    service.StorageError: (503, "storage-unavailable", "Storage unavailable"),
}

# Problems of HTTP itself, by status.
_HTTP: dict[int, tuple[str, str]] = {
    400: ("bad-request", "Bad request"),
    404: ("not-found", "Not found"),
    405: ("method-not-allowed", "Method not allowed"),
    408: ("request-timeout", "Request timeout"),
    415: ("unsupported-media-type", "Unsupported media type"),
    431: ("headers-too-large", "Headers too large"),
}
_ASK_AGAIN = {429, 503, 504}


def problem_of(error: SuperposedError) -> Problem:
    """Return the row of an error's class, or of the nearest class above it."""
    return next(PROBLEMS[kind] for kind in type(error).__mro__ if kind in PROBLEMS)


def retry_after(error: SuperposedError | int) -> int:
    """Return the seconds after which another attempt makes sense."""
    return math.ceil(min(max(getattr(error, "retry_after_s", 1.0), 1.0), 3600.0))


def _headers(error: SuperposedError | int, status: int, instance: str) -> dict[str, str]:
    if isinstance(error, service.NotLeader) and error.leader:
        return {"Location": error.leader + instance}
    if status in _ASK_AGAIN:
        return {"Retry-After": str(retry_after(error))}
    return {"WWW-Authenticate": "Bearer"} if status == 401 else {}


def problem_response(error: SuperposedError | int, instance: str, detail: str = "") -> Response:
    """Return the problem document of an error, or of an HTTP status that no error stands for.

    `instance` is the request's path, and `detail` what happened, where `error` is only a status.
    """
    if isinstance(error, int):
        status, (slug, title) = error, _HTTP.get(error, ("internal", "Internal error"))
        told = SuperposedError(detail)
    else:
        status, slug, title = problem_of(error)
        told = _told(error, status)
    headers = _headers(error, status, instance)
    if instance == "/v2" or instance.startswith("/v2/"):  # as the Open Inference Protocol has errors
        return Response(orjson.dumps({"error": str(told)}), status, headers, "application/json")
    return Response(orjson.dumps(_document(told, status, slug, title, instance)), status, headers, PROBLEM_MEDIA_TYPE)


def problem_document(error: SuperposedError, instance: str) -> dict[str, Any]:
    """Return the fields of an error's problem document."""
    status, slug, title = problem_of(error)
    return _document(_told(error, status), status, slug, title, instance)


def _told(error: SuperposedError, status: int) -> SuperposedError:
    return SuperposedError(INTERNAL) if status == 500 else error  # internals stay inside


def _document(told: SuperposedError, status: int, slug: str, title: str, instance: str) -> dict[str, Any]:
    document: dict[str, Any] = {"type": _URN + slug, "title": title, "status": status}
    document |= {"detail": told.message, "instance": instance}
    for name, value in (("expected", told.expected), ("received", told.received)):
        if value is not None:
            plain = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
            document[name] = value if plain else str(value)
    return document
