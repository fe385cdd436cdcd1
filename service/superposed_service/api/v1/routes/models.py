"""Taking a model out, and learning one in."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from superposed_client.models import LearnedModel
from superposed_service.api.auth import requires
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import (
    explaining_quarantine,
    json_response,
    plain_body,
    principal,
    resumable,
    runtime,
    task_key,
)
from superposed_service.api.v1.serializers import model_bytes
from superposed_service.errors import InvalidRequest
from superposed_service.runtime.distillation import learn_model

router = APIRouter(prefix="/v1", tags=["model"])


@router.put(
    "/tasks/{key:path}/model", response_model=LearnedModel, summary="Distil a trained model into a task"
)
@requires("update")
async def learn(
    request: Request,
    key: str,
    epochs: Annotated[int, Query(ge=1, le=1000)] = 10,
    passes: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> Response:
    """Distil a network into a task, as ordinary updates: each is durable by itself.

    The body is a safetensors file as `GET /v1/model` gives it of an mlp, and in it one more tensor `rows`
    (rows, inputs) of unlabelled rows. A fifth of them is held out, and tells how well task and network agree.
    """
    if passes is not None:
        raise InvalidRequest("the parameter passes was renamed", expected="epochs", received="passes")
    asker, service = principal(request), runtime(request)
    key = await task_key(request, key)
    async with explaining_quarantine(request):
        answer = await learn_model(
            service.engine,
            service.settings,
            key,
            await plain_body(request),
            epochs,
            lambda rows, updates: asker.spend(rows=rows, updates=updates),
            await resumable(request),
        )
    return json_response(answer)


@router.get(
    "/model",
    summary="Export a task's model",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "A safetensors file."}},
)
@requires("admin")
async def get_model(request: Request, context: str) -> Response:
    """Return a context's model as an ordinary network, the context folded into its weights (safetensors).

    Of a store that holds another network than an mlp, the state for a module of the same architecture.
    """
    wanted = codec.read_context(context)
    principal(request).check_contexts([wanted])
    data = await runtime(request).engine.call(lambda store: model_bytes(store, wanted))
    return Response(
        data,
        media_type="application/octet-stream",
        headers={"Content-Disposition": 'attachment; filename="model.safetensors"'},
    )
