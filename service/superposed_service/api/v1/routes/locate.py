"""Routes of task inference."""

from functools import partial
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from superposed_client.models import Located
from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import ApiRequest, ApiRoute, documented_body, json_response
from superposed_service.api.v1.schemas import LocateBody
from superposed_service.api.v1.task_search import all_tasks, find_context, named, tries
from superposed_service.changes.rows import RowBatch

router = APIRouter(route_class=ApiRoute, prefix="/v1", tags=["rows"])


@router.post("/locate", response_model=Located, openapi_extra=documented_body(LocateBody, tensors=True))
@requires("infer")
async def locate(request: ApiRequest) -> Response:
    """Try the rows, all of one stream, under every candidate context; nothing is learned."""
    found, _ = await answer_locate(request, await request.read(LocateBody))
    return json_response(found)


async def answer_locate(request: ApiRequest, body: LocateBody, answered: int = 0) -> tuple[dict[str, Any], Any]:
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
        candidates = await engine.call(partial(all_tasks, body, encoder, may_name=asking.may_name))
    count = tries(body, candidates, most)
    asking.spend(rows=count + answered)
    return await engine.call(partial(find_context, body, candidates, most=most), size=count), rows.inputs


def _powers(body: LocateBody) -> list[str]:
    """Return, of the powers that a search may try, the one nearest to the identity."""
    if body.exponent_of is None:
        return []
    low, high = body.exponents or (0.0, 0.0)
    return [f"{body.exponent_of}^{min(max(0.0, low), high)!r}"]
