"""Helpers of the routes: the service behind a request, its principal, its body."""

from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from superposed_service.api.auth import Principal, principal_of
from superposed_service.api.tensors import HEAD_LENGTH, TENSORS_MEDIA_TYPE
from superposed_service.api.v1 import codec
from superposed_service.api.v1.serializers import explain_quarantine, task_name
from superposed_service.changes.base import Change, JsonObject
from superposed_service.errors import InvalidRequest, Quarantined, Unauthenticated
from superposed_service.observability.request_ids import header
from superposed_service.runtime.runtime import Runtime
from superposed_service.storage.idempotency import IdempotencyKey

M = TypeVar("M", bound=BaseModel)
_HEAD_LENGTH = HEAD_LENGTH.lower().encode()


def runtime(request: Request) -> Runtime:
    """Return the engine, settings and data directory that the request is served by."""
    service: Runtime = request.app.state.runtime
    return service


async def idempotency_key(request: Request) -> IdempotencyKey | None:
    """Return the idempotency key of a request that has an `Idempotency-Key`; raises as `IdempotencyKey.of`."""
    key = request.headers.get("idempotency-key")
    author, url = principal(request).author, request.url
    target = f"{url.path}?{url.query}" if url.query else url.path
    return IdempotencyKey.of(key, author, request.method, target, await request.body())


async def answered_before(request: Request) -> JsonObject | None:
    """Return the answer that the same request had, by its `Idempotency-Key`; None where it is new.

    A route asks before it checks anything in the store: what the request itself changed, or what has changed
    since, must not refuse it when it is sent again.
    """
    if (key := await idempotency_key(request)) is None:
        return None
    engine = runtime(request).engine
    if (answer := await engine.call_writer(lambda writer: writer.answer_to(key))) is not None:
        await engine.replicated(engine.check_leads())
    return answer


def refuse_repeats(request: Request) -> None:
    """Refuse an `Idempotency-Key` where the first answer is not kept, as it holds a secret."""
    if "idempotency-key" in request.headers:
        raise InvalidRequest(
            "Idempotency-Key: an answer that shows an API key is not kept, to be given again",
            expected="a request without one",
        )


async def check_wanted(request: Request) -> None:
    """Check, between two changes of one request, that its client waits and its API key is still good."""
    if not principal(request).is_still_good(runtime(request).directory.transaction_log().api_keys):
        raise Unauthenticated("the API key was revoked, rotated or is over; what was done before counts")
    if await request.is_disconnected():
        raise ClientDisconnect


async def explained(request: Request, error: Quarantined) -> Quarantined:
    """Return the rejection of a quarantined source with the reason, the time, and the way out."""
    source, may_name = str(error.received), principal(request).may_name
    why = await runtime(request).engine.call_writer(lambda writer: explain_quarantine(writer, source, may_name))
    return Quarantined(f"{error.message} ({why})", expected=error.expected, received=error.received)


async def task_key(request: Request, text: str) -> str:
    """Return the key of the task that a path names, by its key or as `group/key`, once the asker may name it.

    Raises:
        ExpressionInvalid: It is no task's name.
        UnknownTask: The asker may not name it, or it is not in the group.
    """
    key, group = task_name(text)
    principal(request).check_task(key)
    if group is not None:
        await runtime(request).engine.call(lambda store: store.tasks.member(key, group))
    return key


async def submit(request: Request, change: Change) -> JsonObject:
    """Make a change in the name of the principal."""
    return await runtime(request).engine.change(change, await idempotency_key(request), principal(request).author)


def principal(request: Request) -> Principal:
    """Return the principal of a request."""
    return principal_of(request.scope)


def documented_body(model: type[BaseModel], *, tensors: bool = False) -> dict[str, Any]:
    """Return the OpenAPI entry of a body that the route reads raw."""
    schema = _inlined(model.model_json_schema(by_alias=True))
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if tensors:
        binary = {"type": "string", "format": "binary", "description": "JSON head, then raw tensors."}
        content[TENSORS_MEDIA_TYPE] = {"schema": binary}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with its own definitions inlined, because references are document-wide."""
    definitions = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            if (name := str(value.get("$ref", "")).removeprefix("#/$defs/")) in definitions:
                return resolve(definitions[name])
            return {key: resolve(one) for key, one in value.items()}
        return [resolve(one) for one in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = resolve(schema)
    return resolved


async def plain_body(request: Request) -> bytes:
    """Return the request's body without its `Content-Encoding`; raises as `codec.inflate`."""
    body, encoding = await request.body(), header(request.scope, b"content-encoding")
    return codec.inflate(body, encoding, runtime(request).settings.max_body_bytes) if encoding else body


async def read(request: Request, model: type[M]) -> M:
    """Return the request's body, JSON or binary tensors, checked."""
    body, scope = await plain_body(request), request.scope
    return codec.read_body(model, body, header(scope, b"content-type"), header(scope, _HEAD_LENGTH))


def rows_response(request: Request, value: dict[str, Any]) -> Response:
    """Return an answer about rows: binary tensors where the request accepts them, else JSON."""
    if TENSORS_MEDIA_TYPE not in (header(request.scope, b"accept") or ""):
        return json_response(value)
    body, head_length = codec.dump_tensors(value)
    return Response(body, 200, {HEAD_LENGTH: str(head_length)}, TENSORS_MEDIA_TYPE)


def json_response(value: object, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(codec.dump(value), status, media_type="application/json")
