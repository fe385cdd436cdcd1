"""The protocol's routes. A model's name is a context; its version is the newest snapshot's number."""

from collections.abc import Callable
from typing import TypeVar

from fastapi.responses import Response

from superposed.store.store import WeightStore
from superposed_service.api.tensors import HEAD_LENGTH
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.api.v2 import messages
from superposed_service.errors import NotReady

T = TypeVar("T")
router = ApiRouter(prefix="/v2", tags=["open inference protocol"])
# A model's name may have slashes (`group/task`, also inside a mixture), so the longer paths come first.
_MODEL, _VERSION = "/models/{model:path}", "/models/{model:path}/versions/{version}"


async def _ask(request: ApiRequest, run: Callable[[WeightStore, str], T]) -> tuple[str, T]:
    """Return the model that the path names, and what a function of the store says of it; raises as `messages.ask`."""
    model, version = request.path_params["model"], request.path_params.get("version", "")
    return model, await messages.ask(request.runtime, request.principal, run, model, version)


@router.serve("GET", "", "infer")
@router.serve("GET", "/", "infer", include_in_schema=False)
async def server(_: ApiRequest) -> Response:
    """Return the server's name, version and extensions."""
    return json_response(messages.server())


@router.serve("GET", "/health/live", None)
async def live(_: ApiRequest) -> Response:
    """Answer 200 while the process runs."""
    return json_response({"live": True})


@router.serve("GET", "/health/ready", None)
async def ready(request: ApiRequest) -> Response:
    """Answer 200 while inference is admitted."""
    if not request.runtime.engine.ready:
        raise NotReady("the service is starting or stopping")
    return json_response({"ready": True})


@router.serve("GET", "/models/stats", "infer")
async def all_statistics(request: ApiRequest) -> Response:
    """Return the statistics of the models that were asked since the start."""
    service = request.runtime
    return json_response(service.statistics.body(service.version, request.principal.may_address))


@router.serve("GET", _MODEL + "/ready", "infer")
@router.serve("GET", _VERSION + "/ready", "infer", include_in_schema=False)
async def model_ready(request: ApiRequest) -> Response:
    """Answer 200 where every task of the model is registered."""
    name, _ = await _ask(request, messages.schema_of)
    return json_response({"name": name, "ready": True})


@router.serve("GET", _MODEL + "/config", "infer")
@router.serve("GET", _VERSION + "/config", "infer", include_in_schema=False)
async def config(request: ApiRequest) -> Response:
    """Return the fields of Triton's model configuration that apply."""
    name, schema = await _ask(request, messages.schema_of)
    return json_response(messages.config(schema, name, request.runtime.settings.max_rows))


@router.serve("GET", _MODEL + "/stats", "infer")
@router.serve("GET", _VERSION + "/stats", "infer", include_in_schema=False)
async def statistics(request: ApiRequest) -> Response:
    """Return a model's statistics since the start."""
    name, _ = await _ask(request, messages.schema_of)
    return json_response(request.runtime.statistics.body(request.runtime.version, lambda other: other == name))


@router.serve("POST", "/repository/index", "infer")
async def index(request: ApiRequest) -> Response:
    """Return every task; compositions are models too, and too many to list."""
    service, may_name = request.runtime, request.principal.may_name
    found = await service.engine.call(lambda store: messages.index(store, service.version))
    return json_response([one for one in found if may_name(one["name"])])


@router.serve("POST", "/repository/models/{model:path}/load", "infer")
async def load(request: ApiRequest) -> Response:
    """Derive a model's contexts ahead of its first request."""
    await _ask(request, messages.load)
    return json_response({})


@router.serve("POST", "/repository/models/{model:path}/unload", "infer")
async def unload(request: ApiRequest) -> Response:
    """Evict a model's contexts; the next request derives them again."""
    await _ask(request, messages.unload)
    return json_response({})


@router.serve("GET", _MODEL, "infer")
@router.serve("GET", _VERSION, "infer", include_in_schema=False)
async def model(request: ApiRequest) -> Response:
    """Return inputs and outputs; -1 stands for the rows."""
    name, schema = await _ask(request, messages.schema_of)
    return json_response(messages.metadata(schema, name, request.runtime.version))


@router.serve("POST", _MODEL + "/infer", "infer", fast=True)
@router.serve("POST", _VERSION + "/infer", "infer", fast=True, include_in_schema=False)
async def infer(request: ApiRequest) -> Response:
    """Predict rows of one context, or of a context each by the BYTES input `context`."""
    path, service, headers = request.path_params, request.runtime, request.headers
    name = path["model"]
    messages.check(service, request.principal, name, path.get("version", ""))
    body = await request.plain_body()
    width = 1
    if headers.get(HEAD_LENGTH) == "0":  # a raw body does not say how wide its rows are
        width = (await service.engine.call(lambda store: messages.schema_of(store, name))).inputs
    asked = messages.read_request(body, headers.get(HEAD_LENGTH), name, width)
    rows = service.admit(asked.rows, request.principal)
    with service.statistics.measured(name, len(rows)):
        answer = await service.engine.infer(await service.encode(rows, request.principal))
        content, head_length = messages.render(asked, answer, name, service.version)
    if head_length is None:
        return Response(content, 200, media_type="application/json")
    return Response(content, 200, {HEAD_LENGTH: str(head_length)}, "application/octet-stream")
