"""Routes for the other servers of a store: its followers, and promotion."""

from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response

from superposed_client.models import Promotion, ServerState
from superposed_service.api.auth import take_keys
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.api.v1.schemas import ApiKeysBody, EpochBody, MembersBody, PromotionBody
from superposed_service.followers.member import Member
from superposed_service.storage.shipping import Place

router = ApiRouter(prefix="/v1/replication", tags=["replication"])

_BINARY = "application/octet-stream"


@router.serve("GET", "/records", "replicate", response_class=Response, responses={200: {"content": {_BINARY: {}}}})
async def records(
    request: ApiRequest,
    sequence: Annotated[int, Query(ge=0)],
    chain: str,
    api_keys: str = "",
    epoch: Annotated[int, Query(ge=1)] = 1,
    promised: Annotated[int, Query(ge=1)] = 1,
    member: str = "",
    lineage: str = "",
    wait_s: Annotated[float, Query(ge=0, le=60)] = 0.0,
) -> Response:
    """Return the records after a follower's newest one, with API keys; wait for some where there are none.

    409 `beyond-horizon` where they are not there any more: the follower needs a snapshot.
    """
    place = Place(sequence, chain, api_keys, epoch, promised, member, lineage)
    return Response(await request.runtime.shipment(place, wait_s), media_type=_BINARY)


@router.serve("GET", "/snapshot", "replicate", response_class=Response, responses={200: {"content": {_BINARY: {}}}})
async def snapshot(request: ApiRequest) -> Response:
    """Return the newest snapshot: the length of a JSON head, the head, and the file; it holds the secret."""
    return Response(await request.runtime.newest_snapshot(), media_type=_BINARY)


@router.serve("GET", "", "replicate", response_model=ServerState)
async def state(request: ApiRequest) -> Response:
    """Return the role of this server, how new its store is, and what its settings say of the others."""
    return json_response(_member(request).state().model_dump())


@router.serve("POST", "/members", "replicate", response_model=ServerState, body=MembersBody)
async def members(request: ApiRequest) -> Response:
    """Take new URLs of the store's servers, as many as before, until the next start."""
    body = await request.read(MembersBody)
    _member(request).replace_members(body.members)
    return await state(request)


@router.serve("GET", "/api-keys", "replicate", response_model=list[dict[str, Any]])
async def api_keys(request: ApiRequest) -> Response:
    """Return the API keys with the hashes of their secrets, for another cell."""
    engine = request.runtime.engine
    return json_response(await engine.call_writer(lambda writer: writer.transaction_log.api_keys.all()))


@router.serve("POST", "/api-keys", "admin", response_model=int, body=ApiKeysBody)
async def take_api_keys(request: ApiRequest) -> Response:
    """Take API keys of another cell that are not here, or were revoked there; return how many."""
    body, engine = await request.read(ApiKeysBody), request.runtime.engine
    turn = engine.check_leads()
    taken = await engine.call_writer(lambda writer: take_keys(writer.transaction_log, body.api_keys))
    if taken:
        await engine.replicated(turn)
    return json_response(taken)


@router.serve("POST", "/promise", "replicate", response_model=list[int], body=EpochBody)
async def promise(request: ApiRequest) -> Response:
    """Promise an epoch: take no record of an older one; return the epoch and number of the newest record.

    For a promotion, which asks all servers.
    """
    body = await request.read(EpochBody)
    return json_response(list(await _member(request).promise(body.epoch)))


@router.serve("POST", "/lead", "replicate", response_model=ServerState, body=EpochBody)
async def lead(request: ApiRequest) -> Response:
    """Lead an epoch that this server has promised; for a promotion."""
    body = await request.read(EpochBody)
    await _member(request).lead(body.epoch)
    return await state(request)


@router.serve("POST", "/promote", "replicate", response_model=Promotion, body=PromotionBody)
async def promote(request: ApiRequest) -> Response:
    """Make the server with the newest records the leader: this one, where no other has newer ones."""
    body = await request.read(PromotionBody)
    promotion = await _member(request).promote(allow_loss=body.allow_loss)
    return json_response(promotion.model_dump())


def _member(request: ApiRequest) -> Member:
    member: Member = request.app.state.member
    return member
