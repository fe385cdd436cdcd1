"""Taking a model out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import principal, runtime
from superposed_service.api.v1.serializers import model_bytes

router = APIRouter(prefix="/v1", tags=["model"])


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
