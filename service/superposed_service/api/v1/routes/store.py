"""The store as a whole: its description, its fill level, relations between its tasks, and its models."""

from typing import Annotated

from fastapi import Query
from fastapi.responses import Response

from superposed_client.models import Capacity, Interference, StoreInfo
from superposed_service.api.v1 import codec, serializers
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.errors import InvalidRequest
from superposed_service.runtime.model_export import Format, model_file

router = ApiRouter(prefix="/v1")

_MOST_TASKS = 24
_BINARY = "application/octet-stream"
_MODEL_FILE = {200: {"content": {_BINARY: {}}, "description": "A safetensors or ONNX file."}}


@router.serve("GET", "/store", "infer", tags=["store"], response_model=StoreInfo)
async def get_store(request: ApiRequest) -> Response:
    """Return family, network, optimizer, memory, sequence, and what the arithmetic ran on.

    An API key with a pattern of tasks is shown the number of its own tasks, and their newest record.
    """
    service, asker = request.runtime, request.principal
    settings, recovery = service.settings, service.recovery
    body = await service.engine.call_writer(lambda writer: serializers.store_body(writer, settings, recovery))
    body["encoders"] = service.encoders.body()
    if not asker.sees_all:
        body = await service.engine.call(lambda store: serializers.tenants_view(body, store, asker.may_name))
    return json_response(body)


@router.serve("GET", "/capacity", "infer", tags=["capacity"], response_model=Capacity)
async def get_capacity(request: ApiRequest) -> Response:
    """Return crosstalk by layer, predicted and measured, and what this store's own evaluations say.

    An API key with a pattern of tasks is shown those of its own tasks.
    """
    asker = request.principal
    wanted = None if asker.sees_all else asker.may_name
    return json_response(await request.runtime.engine.call(lambda store: serializers.capacity_body(store, wanted)))


@router.serve("GET", "/interference", "infer", tags=["capacity"], response_model=Interference)
async def get_interference(request: ApiRequest, tasks: str) -> Response:
    """Measure the overlap of up to 24 tasks' contexts (`tasks=a,b,c`), and crosstalk at their kept rows."""
    keys = serializers.task_keys(tasks)
    if len(keys) > _MOST_TASKS:
        raise InvalidRequest("tasks: too many at once", expected=f"{_MOST_TASKS} at most", received=len(keys))
    for key in keys:
        request.principal.check_task(key)
    engine = request.runtime.engine
    return json_response(await engine.call_writer(lambda writer: serializers.interference_body(writer, keys)))


@router.serve("GET", "/model", "admin", tags=["model"], response_class=Response, responses=_MODEL_FILE)
async def get_model(
    request: ApiRequest,
    context: str,
    form: Annotated[Format, Query(alias="format")] = "safetensors",
    encoder: bool = False,
    int8: bool = False,
) -> Response:
    """Return a context's model as an ordinary network, the context folded into its weights.

    As safetensors: of a store that holds another network than an mlp, the state for a module of the same
    architecture. As ONNX: from rows to probabilities and labels, or values; with `encoder` from the tokens of
    texts, with `int8` with weights of 8 bits, whose agreement on kept rows is in the file's metadata.
    """
    wanted = codec.read_context(context)
    request.principal.check_contexts([wanted])
    data = await model_file(request.runtime, wanted, form, encoder=encoder, int8=int8)
    name = f'attachment; filename="model.{form}"'
    return Response(data, media_type=_BINARY, headers={"Content-Disposition": name})
