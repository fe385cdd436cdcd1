"""Rows: infer, update, evaluate."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_client.models import Evaluation, Inference, Update
from superposed_service.api.auth import requires
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import (
    documented_body,
    explained,
    idempotency_key,
    json_response,
    principal,
    read,
    rows_response,
    runtime,
)
from superposed_service.api.v1.routes.locate import answer_locate
from superposed_service.api.v1.schemas import EvaluateBody, InferBody, LocateBody, UpdateBody
from superposed_service.api.v1.task_search import AUTO
from superposed_service.changes.rows import RowBatch
from superposed_service.errors import Quarantined

router = APIRouter(prefix="/v1", tags=["rows"])


async def _rows(request: Request, body: InferBody | EvaluateBody, updates: int = 0) -> RowBatch:
    """Return the rows of a body, admitted, and encoded if they were texts or images."""
    service, asker = runtime(request), principal(request)
    rows = service.admit(RowBatch(body.context, body.contexts, body.rows, body.originals), asker, updates=updates)
    return rows if rows.originals is None else await service.encode(rows, asker)


async def _located(request: Request, body: InferBody) -> tuple[RowBatch, dict[str, Any]]:
    """Return the rows under the task that they fit best, and which that is and how sure it is."""
    answered = len(RowBatch(None, None, body.rows))
    asked = LocateBody(inputs=body.inputs, records=body.records, texts=body.texts, images=body.images)
    found, rows = await answer_locate(request, asked, answered)
    return RowBatch(found["best"], None, rows), {"located": found["scores"][0]}


@router.post("/infer", response_model=Inference, openapi_extra=documented_body(InferBody, tensors=True))
@requires("infer", fast=True)
async def infer(request: Request) -> Response:
    """Predict rows of one context, or of one context each; waiting requests share a mixed batch."""
    body = await read(request, InferBody)
    if body.context == AUTO:
        rows, located = await _located(request, body)
    else:
        rows, located = await _rows(request, body), {}
    answer = await runtime(request).engine.infer(rows)
    return rows_response(request, codec.render_answer(answer, body.return_, body.k) | located)


@router.post("/update", response_model=Update, openapi_extra=documented_body(UpdateBody, tensors=True))
@requires("update", fast=True)
async def update(request: Request) -> Response:
    """Take one online step (or `steps` of them), applied whole or not at all.

    Loss and accuracy are those before the first step: test, then train.
    """
    body = await read(request, UpdateBody)
    try:
        answer = await runtime(request).engine.update(
            await _rows(request, body, updates=1),
            body.targets,
            body.steps,
            await idempotency_key(request),
            principal(request).author,
            grow_labels=body.grow_labels,
            weights=body.sample_weight,
        )
    except Quarantined as error:
        raise await explained(request, error) from None
    return json_response(answer)


@router.post("/evaluate", response_model=Evaluation, openapi_extra=documented_body(EvaluateBody, tensors=True))
@requires("infer", fast=True)
async def evaluate(request: Request) -> Response:
    """Measure loss and accuracy on labelled rows; nothing is learned."""
    body = await read(request, EvaluateBody)
    measured = await runtime(request).engine.evaluate(await _rows(request, body), body.targets)
    return json_response({name: value for name, value in vars(measured).items() if value is not None})
