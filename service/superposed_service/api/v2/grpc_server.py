"""The protocol over gRPC: the same engine, contexts, versions, errors and API keys as over HTTP."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from numpy.typing import NDArray

from superposed.errors import SuperposedError
from superposed_service.api.auth import Access, Principal
from superposed_service.api.problems import problem_of, retry_after
from superposed_service.api.tensors import DATATYPES, TensorReader, read_shape
from superposed_service.api.v2 import messages
from superposed_service.api.v2.protobuf import MESSAGES, POOL, SERVICE, STREAMED
from superposed_service.engine.request_queues import ANYONE, calling
from superposed_service.errors import InvalidRequest, Overloaded, StorageUnavailable
from superposed_service.runtime.runtime import Runtime

_CODES: Mapping[int, grpc.StatusCode] = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Where a tensor's numbers stand that are not sent raw.
_CONTENTS: Mapping[str, str] = {
    **{name: f"{name.lower()}_contents" for name in ("BOOL", "INT64", "UINT64", "FP32", "FP64")},
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}
# The values of Triton's DataType, in order.
_DATA_TYPES = ("TYPE_INVALID", *(f"TYPE_{name}" for name in DATATYPES), "TYPE_STRING")

# Calls that do not count against the quota of requests; of a stream each message counts.
_UNCOUNTED = {"ServerLive", "ServerReady", STREAMED}
# Calls at once: each may hold a body of `max_body_bytes`.
_MOST_CALLS = 128
_LOOK_S = 1.0
_HEALTH_CHECK = f"/{health.SERVICE_NAME}/Check"

Handler = Callable[[Any, Principal], Awaitable[dict[str, Any]]]


def _refusing(error: SuperposedError) -> Any:
    """Answer with an error, whatever comes: of a stream only what is asked for is read."""

    async def refuse(_: Any, context: Any) -> None:
        await _abort(context, error)

    return grpc.stream_unary_rpc_method_handler(refuse)


async def _abort(context: Any, error: SuperposedError) -> None:
    context.set_trailing_metadata((("retry-after", str(retry_after(error))),))
    await context.abort(_CODES.get(problem_of(error)[0], grpc.StatusCode.INTERNAL), str(error))


class _Access(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Rejects calls without an API key that may stay open: the number of calls at once is bounded."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """Return the handler of a call, by its head."""
        if not details.method.startswith(f"/{SERVICE}/") and details.method != _HEALTH_CHECK:
            try:
                self._access.admit(dict(details.invocation_metadata).get("authorization"), "infer", counted=True)
            except SuperposedError as error:
                return _refusing(error)
        return await continuation(details)


class GrpcServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A gRPC server, which listens while its context is entered, on the event loop."""

    def __init__(self, runtime: Runtime, access: Access) -> None:
        self._runtime, self._access = runtime, access
        self._held = 0
        most = runtime.settings.max_body_bytes
        self._server = grpc.aio.server(
            options=[("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", -1)],
            maximum_concurrent_rpcs=min(_MOST_CALLS, runtime.settings.max_connections),
            interceptors=(_Access(access),),
        )
        self._server.add_generic_rpc_handlers((self,))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server, POOL)

    async def __aenter__(self) -> None:
        """Listen; raise `StorageUnavailable` where the address cannot be used."""
        address = self._runtime.settings.grpc_address
        try:
            self._server.add_insecure_port(address)
            await self._server.start()
        except RuntimeError as error:
            raise StorageUnavailable(f"cannot listen on {address}", received=str(error)) from error
        self._watching = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        """Keep what the health service says as `GET /health/ready` has it."""
        while True:
            ready = self._runtime.not_ready is None
            status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
            for service in ("", SERVICE):
                await self._health.set(service, status)
            await asyncio.sleep(_LOOK_S)

    async def __aexit__(self, *error: object) -> None:
        """Finish what was admitted."""
        self._watching.cancel()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace=5.0)

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a call by its head, None for an unknown one: a rejected call's body is not read."""
        service, _, name = handler_call_details.method.lstrip("/").partition("/")
        if service != SERVICE or (f"{name}Request" not in MESSAGES and name != STREAMED):
            return None
        authorization = dict(handler_call_details.invocation_metadata).get("authorization")
        try:
            principal = self._access.admit(authorization, "infer", counted=name not in _UNCOUNTED)
        except SuperposedError as error:
            return _refusing(error)
        if name == STREAMED:
            return self._streamed(authorization)
        request, response = MESSAGES[f"{name}Request"], MESSAGES[f"{name}Response"]
        answer: Handler = getattr(self, f"_{_snake(name)}")

        async def behave(body: bytes, context: Any) -> Any:
            try:
                with self._holding(body), calling(principal.author or ANYONE, context.time_remaining()):
                    return response(**await answer(_message(request, body), principal))
            except SuperposedError as error:
                await _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(behave, response_serializer=response.SerializeToString)

    def _streamed(self, authorization: str | None) -> Any:
        """Return the handler of a stream of inference requests, each of which is answered, also with an error.

        Each is admitted: the API key may have been revoked since the stream began.
        """
        request, response = MESSAGES["ModelInferRequest"], MESSAGES[f"{STREAMED}Response"]

        async def answered(body: bytes, context: Any) -> Any:
            identifier = ""
            try:
                principal = self._access.admit(authorization, "infer")
                with self._holding(body), calling(principal.author or ANYONE, context.time_remaining()):
                    asked = _message(request, body)
                    identifier = asked.id
                    return response(infer_response=await self._model_infer(asked, principal))
            except SuperposedError as error:
                return response(error_message=str(error), infer_response={"id": identifier})

        async def behave(bodies: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            async for body in bodies:
                yield await answered(body, context)

        return grpc.stream_stream_rpc_method_handler(behave, response_serializer=response.SerializeToString)

    @contextmanager
    def _holding(self, body: bytes) -> Iterator[None]:
        """Count a body's bytes while it is worked on."""
        most = self._runtime.settings.max_inflight_bytes
        self._held += len(body)
        try:
            if self._held > most:
                raise Overloaded("too many bytes are coming in", expected=f"{most} at most, of all calls")
            yield
        finally:
            self._held -= len(body)

    async def _server_live(self, asked: Any, principal: Principal) -> dict[str, Any]:
        return {"live": True}

    async def _server_ready(self, asked: Any, principal: Principal) -> dict[str, Any]:
        return {"ready": self._runtime.engine.ready}

    async def _server_metadata(self, asked: Any, principal: Principal) -> dict[str, Any]:
        return messages.server()

    async def _model_ready(self, asked: Any, principal: Principal) -> dict[str, Any]:
        await messages.ask(self._runtime, principal, messages.schema_of, asked.name, asked.version)
        return {"ready": True}

    async def _model_metadata(self, asked: Any, principal: Principal) -> dict[str, Any]:
        schema = await messages.ask(self._runtime, principal, messages.schema_of, asked.name, asked.version)
        found = messages.metadata(schema, asked.name, self._runtime.version)
        for tensor in (*found["inputs"], *found["outputs"]):
            tensor.pop("optional", None)
            tensor.pop("parameters", None)
        return found

    async def _model_config(self, asked: Any, principal: Principal) -> dict[str, Any]:
        schema = await messages.ask(self._runtime, principal, messages.schema_of, asked.name, asked.version)
        found = messages.config(schema, asked.name, self._runtime.settings.max_rows)
        for tensor in (*found["input"], *found["output"]):
            tensor["data_type"] = _DATA_TYPES.index(tensor["data_type"])
            tensor.pop("optional", None)
        found["parameters"] = [{"key": key, "value": value} for key, value in found["parameters"].items()]
        return {"config": found}

    async def _model_statistics(self, asked: Any, principal: Principal) -> dict[str, Any]:
        def wanted(name: str) -> bool:
            return asked.name in {"", name} and principal.may_address(name)

        return self._runtime.statistics.body(self._runtime.version, wanted)

    async def _repository_index(self, asked: Any, principal: Principal) -> dict[str, Any]:
        found = await self._runtime.engine.call(lambda store: messages.index(store, self._runtime.version))
        return {"models": [one for one in found if principal.may_name(one["name"])]}

    async def _repository_model_load(self, asked: Any, principal: Principal) -> dict[str, Any]:
        await messages.ask(self._runtime, principal, messages.load, asked.model_name)
        return {}

    async def _repository_model_unload(self, asked: Any, principal: Principal) -> dict[str, Any]:
        await messages.ask(self._runtime, principal, messages.unload, asked.model_name)
        return {}

    async def _model_infer(self, asked: Any, principal: Principal) -> dict[str, Any]:
        model = asked.model_name
        messages.check(self._runtime, principal, model, asked.model_version)
        names = {output.name: True for output in asked.outputs} or None
        rows = messages.rows_of(model, _tensors(asked))
        request = messages.InferRequest(rows, names, binary=True, identifier=asked.id)
        self._runtime.admit(rows, principal)
        with self._runtime.statistics.measured(model, len(rows)):
            answer = await self._runtime.engine.infer(await self._runtime.encode(rows, principal))
            columns = messages.columns_of(request, answer)
        known = {"model_name": model, "model_version": self._runtime.version, "id": asked.id}
        outputs, raw = [column.described() for column in columns], [column.raw() for column in columns]
        return known | {"outputs": outputs, "raw_output_contents": raw}


def _message(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError:
        raise InvalidRequest("the body is not the call's message", expected=kind.DESCRIPTOR.name) from None


def _tensors(asked: Any) -> dict[str, NDArray[Any]]:
    """Return the inputs of a request by name, raw or in the field of their datatype."""
    raw, wanted = list(asked.raw_input_contents), len(asked.inputs)
    if raw and len(raw) != wanted:
        raise InvalidRequest("raw contents for some inputs only", expected=wanted, received=len(raw))
    tensors: dict[str, NDArray[Any]] = {}
    for place, described in enumerate(asked.inputs):
        messages.check_name(described.name, tensors)
        shape = list(described.shape)
        if raw:
            reader = TensorReader(memoryview(raw[place]))
            tensors[described.name] = reader.take(described.name, described.datatype, shape, len(raw[place]))
        else:
            tensors[described.name] = _from_contents(described, read_shape(described.name, shape))
    return tensors


def _from_contents(described: Any, shape: list[int]) -> NDArray[Any]:
    name, datatype = described.name, described.datatype
    if datatype == "BYTES":
        return messages.elements_of(name, list(described.contents.bytes_contents), shape)
    if datatype not in _CONTENTS:
        raise InvalidRequest(f"{name}: not a datatype", expected=f"one of {list(_CONTENTS)}", received=datatype)
    return messages.numbers_of(name, datatype, getattr(described.contents, _CONTENTS[datatype]), shape)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
