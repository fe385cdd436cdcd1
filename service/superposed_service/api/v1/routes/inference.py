"""Rows: infer, update, evaluate, locate."""

from functools import partial
from typing import Any

from fastapi.responses import Response

from superposed_client.models import Evaluation, Inference, Located, Update
from superposed_service.api.v1 import codec
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.api.v1.schemas import EvaluateBody, InferBody, LocateBody, UpdateBody
from superposed_service.api.v1.task_search import AUTO, all_tasks, find_context, named, tries
from superposed_service.changes.base import JsonObject
from superposed_service.changes.rows import RowBatch
from superposed_service.errors import Quarantined
from superposed_service.storage.idempotency import IdempotencyKey

router = ApiRouter(prefix="/v1", tags=["rows"])


async def admitted(request: ApiRequest, body: InferBody | EvaluateBody, updates: int = 0) -> RowBatch:
    """Return the rows of a body, admitted, and encoded if they were texts or images."""
    service, asker = request.runtime, request.principal
    rows = service.admit(RowBatch(body.context, body.contexts, body.rows, body.originals), asker, updates=updates)
    return await service.encode(rows, asker)


async def located(request: ApiRequest, body: InferBody) -> tuple[RowBatch, dict[str, Any]]:
    """Return the rows under their context, admitted; and which that is, where the body leaves it to the service."""
    if body.context != AUTO:
        return await admitted(request, body), {}
    answered = len(RowBatch(None, None, body.rows))
    asked = LocateBody(inputs=body.inputs, records=body.records, texts=body.texts, images=body.images)
    found, rows = await _search(request, asked, answered)
    return RowBatch(found["best"], None, rows), {"located": found["scores"][0]}


async def answer_infer(request: ApiRequest, body: InferBody, rows: RowBatch, found: dict[str, Any]) -> dict[str, Any]:
    """Return what a body of `POST /v1/infer` is answered; `rows` and `found` are as `located` returns them."""
    answer = await request.runtime.engine.infer(rows)
    return codec.render_answer(answer, body.return_, body.k) | found


async def answer_update(
    request: ApiRequest, body: UpdateBody, rows: RowBatch, key: IdempotencyKey | None
) -> JsonObject:
    """Learn the admitted rows of a body of `POST /v1/update`, and return what it is answered."""
    author, weights = request.principal.author, body.sample_weight
    if body.origin is not None and request.principal.is_admin:
        key = IdempotencyKey(body.origin[0], bytes.fromhex(body.origin[1]))
    try:
        return await request.runtime.engine.update(
            rows,
            body.targets,
            body.steps,
            key,
            author,
            grow_labels=body.grow_labels,
            standby=body.standby or body.origin is not None,
            weights=weights,
        )
    except Quarantined as error:
        raise await request.explained(error) from None


@router.serve("POST", "/infer", "infer", fast=True, response_model=Inference, body=InferBody, tensors=True)
async def infer(request: ApiRequest) -> Response:
    """Predict rows of one context, or of one context each; waiting requests share a mixed batch."""
    body = await request.read(InferBody)
    return request.rows_response(await answer_infer(request, body, *await located(request, body)))


@router.serve("POST", "/update", "update", fast=True, response_model=Update, body=UpdateBody, tensors=True)
async def update(request: ApiRequest) -> Response:
    """Take one online step (or `steps`), or none of them; loss and accuracy are those before it: test, then train."""
    body, key = await request.read(UpdateBody), await request.idempotency_key()
    return json_response(await answer_update(request, body, await admitted(request, body, updates=1), key))


@router.serve("POST", "/evaluate", "infer", fast=True, response_model=Evaluation, body=EvaluateBody, tensors=True)
async def evaluate(request: ApiRequest) -> Response:
    """Measure loss and accuracy on labelled rows; nothing is learned."""
    body = await request.read(EvaluateBody)
    measured = await request.runtime.engine.evaluate(await admitted(request, body), body.targets)
    return json_response({name: value for name, value in vars(measured).items() if value is not None})


@router.serve("POST", "/locate", "infer", response_model=Located, body=LocateBody, tensors=True)
async def locate(request: ApiRequest) -> Response:
    """Try the rows, all of one stream, under every candidate context; nothing is learned."""
    found, _ = await _search(request, await request.read(LocateBody))
    return json_response(found)


async def _search(request: ApiRequest, body: LocateBody, answered: int = 0) -> tuple[dict[str, Any], Any]:
    """Return the response of task inference for a body, and its rows, encoded if they were texts or images.

    The principal needs quota for every row under every candidate, and for `answered` rows beside the search.
    """
    service, asking = request.runtime, request.principal
    engine, most = service.engine, service.settings.max_candidate_evaluations
    rows = RowBatch(None, body.candidates or _powers(body), body.rows, body.originals)
    service.check(rows, asking)
    candidates, encoder = named(body), None
    if rows.originals is not None:
        encoder = service.encoder_of(rows.originals, body.exponent_of or next(iter(candidates), None))
        rows = await service.encode(rows, asking, encoder=encoder)
        body = body.model_copy(update={"inputs": rows.inputs, "texts": None, "images": None})
    if body.candidates is None and body.exponent_of is None:
        candidates = await engine.call(partial(all_tasks, body, encoder, asking.may_name))
    count = tries(body, candidates, most)
    asking.spend(rows=count + answered)
    return await engine.call(partial(find_context, body, candidates, most=most), size=count), rows.inputs


def _powers(body: LocateBody) -> list[str]:
    """Return, of the powers that a search may try, the one nearest to the identity."""
    if body.exponent_of is None:
        return []
    low, high = body.exponents or (0.0, 0.0)
    return [f"{body.exponent_of}^{min(max(0.0, low), high)!r}"]
