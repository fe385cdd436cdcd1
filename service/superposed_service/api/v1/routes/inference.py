"""Rows: infer, update, evaluate."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from superposed_client.models import Evaluation, Inference, Update
from superposed_service.api.auth import requires
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import ApiRequest, ApiRoute, documented_body, json_response
from superposed_service.api.v1.routes.locate import answer_locate
from superposed_service.api.v1.schemas import EvaluateBody, InferBody, LocateBody, UpdateBody
from superposed_service.api.v1.task_search import AUTO
from superposed_service.changes.base import JsonObject
from superposed_service.changes.rows import RowBatch
from superposed_service.errors import Quarantined
from superposed_service.storage.idempotency import IdempotencyKey

router = APIRouter(route_class=ApiRoute, prefix="/v1", tags=["rows"])


async def _rows(request: ApiRequest, body: InferBody | EvaluateBody, updates: int = 0) -> RowBatch:
    """Return the rows of a body, admitted, and encoded if they were texts or images."""
    service, asker = request.runtime, request.principal
    rows = service.admit(RowBatch(body.context, body.contexts, body.rows, body.originals), asker, updates=updates)
    return rows if rows.originals is None else await service.encode(rows, asker)


async def _located(request: ApiRequest, body: InferBody) -> tuple[RowBatch, dict[str, Any]]:
    """Return the rows under the task that they fit best, and which that is and how sure it is."""
    answered = len(RowBatch(None, None, body.rows))
    asked = LocateBody(inputs=body.inputs, records=body.records, texts=body.texts, images=body.images)
    found, rows = await answer_locate(request, asked, answered)
    return RowBatch(found["best"], None, rows), {"located": found["scores"][0]}


async def answer_infer(request: ApiRequest, body: InferBody) -> dict[str, Any]:
    """Return what a body of `POST /v1/infer` is answered."""
    if body.context == AUTO:
        rows, located = await _located(request, body)
    else:
        rows, located = await _rows(request, body), {}
    answer = await request.runtime.engine.infer(rows)
    return codec.render_answer(answer, body.return_, body.k) | located


async def answer_update(request: ApiRequest, body: UpdateBody, key: IdempotencyKey | None) -> JsonObject:
    """Learn a body of `POST /v1/update`, and return what it is answered."""
    try:
        return await request.runtime.engine.update(
            await _rows(request, body, updates=1),
            body.targets,
            body.steps,
            key,
            request.principal.author,
            grow_labels=body.grow_labels,
            weights=body.sample_weight,
        )
    except Quarantined as error:
        raise await request.explained(error) from None


@router.post("/infer", response_model=Inference, openapi_extra=documented_body(InferBody, tensors=True))
@requires("infer", fast=True)
async def infer(request: ApiRequest) -> Response:
    """Predict rows of one context, or of one context each; waiting requests share a mixed batch."""
    return request.rows_response(await answer_infer(request, await request.read(InferBody)))


@router.post("/update", response_model=Update, openapi_extra=documented_body(UpdateBody, tensors=True))
@requires("update", fast=True)
async def update(request: ApiRequest) -> Response:
    """Take one online step (or `steps` of them), applied whole or not at all.

    Loss and accuracy are those before the first step: test, then train.
    """
    body = await request.read(UpdateBody)
    return json_response(await answer_update(request, body, await request.idempotency_key()))


@router.post("/evaluate", response_model=Evaluation, openapi_extra=documented_body(EvaluateBody, tensors=True))
@requires("infer", fast=True)
async def evaluate(request: ApiRequest) -> Response:
    """Measure loss and accuracy on labelled rows; nothing is learned."""
    body = await request.read(EvaluateBody)
    measured = await request.runtime.engine.evaluate(await _rows(request, body), body.targets)
    return json_response({name: value for name, value in vars(measured).items() if value is not None})
