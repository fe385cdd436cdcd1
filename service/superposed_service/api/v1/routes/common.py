"""The request that the routes get: its service, its principal, its body; and the bodies of answers."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from superposed_service.api.auth import Principal, principal_of, requires
from superposed_service.api.tensors import HEAD_LENGTH, TENSORS_MEDIA_TYPE
from superposed_service.api.v1 import codec
from superposed_service.api.v1.serializers import explain_quarantine, task_name
from superposed_service.changes.base import Change, JsonObject
from superposed_service.errors import InvalidRequest, Quarantined, Unauthenticated
from superposed_service.observability.request_ids import header
from superposed_service.runtime.runtime import Runtime
from superposed_service.storage.idempotency import IdempotencyKey

M = TypeVar("M", bound=BaseModel)
E = TypeVar("E", bound=Callable[..., Any])
_HEAD_LENGTH = HEAD_LENGTH.encode()


class ApiRequest(Request):
    """A request, with the service that it is for."""

    @property
    def runtime(self) -> Runtime:
        """The engine, settings and data directory that the request is served by."""
        service: Runtime = self.app.state.runtime
        return service

    @property
    def principal(self) -> Principal:
        """The API key that sent the request."""
        return principal_of(self.scope)

    async def idempotency_key(self) -> IdempotencyKey | None:
        """Return the idempotency key of a request that has an `Idempotency-Key`; raises as `IdempotencyKey.of`."""
        key = self.headers.get("idempotency-key")
        author, url = self.principal.author, self.url
        target = f"{url.path}?{url.query}" if url.query else url.path
        return IdempotencyKey.of(key, author, self.method, target, await self.body())

    async def answered_before(self) -> JsonObject | None:
        """Return the answer that the same request had, by its `Idempotency-Key`; None where it is new.

        A route asks before it checks anything in the store: what the request itself changed, or what has changed
        since, must not refuse it when it is sent again.
        """
        if (key := await self.idempotency_key()) is None:
            return None
        engine = self.runtime.engine
        if (answer := await engine.call_writer(lambda writer: writer.answer_to(key))) is not None:
            await engine.replicated(engine.check_leads())
        return answer

    def refuse_repeats(self) -> None:
        """Refuse an `Idempotency-Key` where the first answer is not kept, as it holds a secret."""
        if "idempotency-key" in self.headers:
            text = "Idempotency-Key: an answer that shows an API key is not kept, to be given again"
            raise InvalidRequest(text, expected="a request without one")

    def check_key(self) -> None:
        """Check, between two parts of one request, that its API key is still good."""
        if not self.principal.is_still_good(self.runtime.directory.transaction_log().api_keys):
            raise Unauthenticated("the API key was revoked, rotated or is over; what was done before counts")

    async def check_wanted(self) -> None:
        """Check, between two changes of one request, that its client waits and its API key is still good."""
        self.check_key()
        if await self.is_disconnected():
            raise ClientDisconnect

    async def explained(self, error: Quarantined) -> Quarantined:
        """Return the rejection of a quarantined source with the reason, the time, and the way out."""
        source, may_name = str(error.received), self.principal.may_name
        why = await self.runtime.engine.call_writer(lambda writer: explain_quarantine(writer, source, may_name))
        return Quarantined(f"{error.message} ({why})", expected=error.expected, received=error.received)

    async def task_key(self, text: str) -> str:
        """Return the key of the task that a path names, by its key or as `group/key`; raises as `task_name`.

        Raise `UnknownTask` where the asker may not name the task, or it is not in the group.
        """
        key, group = task_name(text)
        self.principal.check_task(key)
        if group is not None:
            await self.runtime.engine.call(lambda store: store.tasks.member(key, group))
        return key

    async def submit(self, change: Change) -> JsonObject:
        """Make a change in the name of the principal."""
        return await self.runtime.engine.change(change, await self.idempotency_key(), self.principal.author)

    async def plain_body(self) -> bytes:
        """Return the request's body without its `Content-Encoding`; raises as `codec.inflate`."""
        body, encoding = await self.body(), header(self.scope, b"content-encoding")
        return codec.inflate(body, encoding, self.runtime.settings.max_body_bytes) if encoding else body

    async def read(self, model: type[M]) -> M:
        """Return the request's body, JSON or binary tensors, checked."""
        body, scope = await self.plain_body(), self.scope
        return codec.read_body(model, body, header(scope, b"content-type"), header(scope, _HEAD_LENGTH))

    def rows_response(self, value: dict[str, Any]) -> Response:
        """Return an answer about rows: binary tensors where the request accepts them, else JSON."""
        if TENSORS_MEDIA_TYPE not in (header(self.scope, b"accept") or ""):
            return json_response(value)
        body, head_length = codec.dump_tensors(value)
        return Response(body, 200, {HEAD_LENGTH: str(head_length)}, TENSORS_MEDIA_TYPE)


class ApiRoute(APIRoute):
    """A route whose endpoint gets an `ApiRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers the route's requests."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(ApiRequest(request.scope, request.receive))

        return handle


class ApiRouter(APIRouter):
    """A router whose routes say which scope they need."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=ApiRoute, **options)

    def serve(
        self,
        method: str,
        path: str,
        scope: str | None,
        *,
        fast: bool = False,
        body: type[BaseModel] | None = None,
        tensors: bool = False,
        optional: bool = False,
        **options: Any,
    ) -> Callable[[E], E]:
        """Route requests to an endpoint: `scope` and `fast` as `requires` has them, `options` as the framework.

        The endpoint reads the `body` itself, as JSON or, with `tensors`, with binary tensors behind it; an `optional`
        one may be missing.
        """
        if body is not None:
            options["openapi_extra"] = _documented(body, tensors=tensors, required=not optional)
        route = self.api_route(path, methods=[method], **options)
        return lambda endpoint: route(requires(scope, fast=fast)(endpoint))


def _documented(model: type[BaseModel], *, tensors: bool, required: bool) -> dict[str, Any]:
    """Return the OpenAPI entry of a body that the route reads raw."""
    schema = _inlined(model.model_json_schema(by_alias=True))
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    if tensors:
        binary = {"type": "string", "format": "binary", "description": "JSON head, then raw tensors."}
        content[TENSORS_MEDIA_TYPE] = {"schema": binary}
    return {"requestBody": {"required": required, "content": content}}


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


def json_response(value: object, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(codec.dump(value), status, media_type="application/json")
