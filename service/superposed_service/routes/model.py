"""Taking a model out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service import codec
from superposed_service.describe import model_bytes
from superposed_service.routes.common import principal, running

__all__ = ["router"]

router = APIRouter(prefix="/v1", tags=["model"])


@router.get(
    "/model",
    summary="Take a model out",
    response_class=Response,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "A safetensors file."}},
)
async def get_model(request: Request, context: str) -> Response:
    """A context's model as an ordinary network, the context folded into its weights (safetensors)."""
    wanted = codec.read_context(context)
    principal(request).check_contexts([wanted])
    data = await running(request).engine.call(lambda store: model_bytes(store, wanted))
    return Response(
        data,
        media_type="application/octet-stream",
        headers={"Content-Disposition": 'attachment; filename="model.safetensors"'},
    )
