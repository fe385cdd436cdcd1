"""API keys: make, list, revoke, rotate."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi.responses import Response

from superposed_client.models import ApiKey, NewApiKey
from superposed_service.api.auth import create, keys_body, revoke, rotate
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.api.v1.schemas import ApiKeyRequest, KeyRotation

router = ApiRouter(prefix="/v1/keys", tags=["keys"])
_log = logging.getLogger("superposed.keys")


async def _changed(
    request: ApiRequest, event: str, change: Callable[[Any], tuple[Any, str] | None], **known: str
) -> Response:
    """Change a key; log what becomes of it, and the key that asked: keys are not in the journal."""
    engine = request.runtime.engine
    turn = engine.check_leads()
    made = await engine.call_writer(lambda writer: change(writer.transaction_log))
    known |= {} if made is None else {"api_key_id": made[0].id}
    _log.info(event, extra={"by": request.principal.author, **known})
    await engine.replicated(turn)
    return Response(status_code=204) if made is None else json_response({"id": made[0].id, "key": made[1]}, 201)


@router.serve("GET", "", "admin", response_model=list[ApiKey])
async def list_all(request: ApiRequest) -> Response:
    """Return every key, the revoked ones too; never a secret."""
    keys = await request.runtime.engine.call_writer(lambda writer: keys_body(writer.transaction_log.api_keys))
    return json_response(keys)


@router.serve("POST", "", "admin", status_code=201, response_model=NewApiKey, body=ApiKeyRequest)
async def make(request: ApiRequest) -> Response:
    """Make an API key. The response shows it once. From the first key on, every request needs one."""
    request.refuse_repeats()
    body = await request.read(ApiKeyRequest)
    given = (body.given.id, body.given.secret) if body.given else None
    fields = body.model_dump(exclude={"given"})
    change = partial(create, most=request.runtime.settings.max_api_keys, given=given, **fields)
    return await _changed(request, "API key made", change, scope=body.scope, tasks=body.tasks)


@router.serve("DELETE", "/{identifier}", "admin", status_code=204)
async def end(request: ApiRequest, identifier: str) -> Response:
    """End the key at once; its changes stay on record under its id."""
    return await _changed(request, "API key revoked", partial(revoke, identifier=identifier), api_key_id=identifier)


@router.serve(
    "POST", "/{identifier}/rotate", "admin", status_code=201, response_model=NewApiKey, body=KeyRotation, optional=True
)
async def renew(request: ApiRequest, identifier: str) -> Response:
    """Replace the secret. The old one is invalid at once; id, scope and pattern stay."""
    request.refuse_repeats()
    given = (await request.read(KeyRotation)).given if await request.body() else None
    change = partial(rotate, identifier=identifier, secret=given.secret if given else None)
    return await _changed(request, "API key rotated", change)
