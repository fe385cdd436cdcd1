"""API keys: make, list, revoke, rotate."""

import logging
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from superposed_client.models import ApiKey, NewApiKey
from superposed_service.api.auth import create, keys_body, requires, revoke, rotate
from superposed_service.api.v1.routes.common import ApiRequest, ApiRoute, documented_body, json_response
from superposed_service.api.v1.schemas import ApiKeyRequest

router = APIRouter(route_class=ApiRoute, prefix="/v1/keys", tags=["keys"])
_log = logging.getLogger("superposed.keys")


def _note(request: ApiRequest, event: str, identifier: str, **known: str) -> None:
    """Log what becomes of a key, and the key that asked: keys are not in the journal."""
    _log.info(event, extra={"api_key_id": identifier, "by": request.principal.author, **known})


def _new(made: tuple[Any, str]) -> Response:
    key, text = made
    return json_response({"id": key.id, "key": text}, 201)


@router.get("", response_model=list[ApiKey])
@requires("admin")
async def list_all(request: ApiRequest) -> Response:
    """Return every key, the revoked ones too; never a secret."""
    keys = await request.runtime.engine.call_writer(lambda writer: keys_body(writer.transaction_log.api_keys))
    return json_response(keys)


@router.post("", status_code=201, response_model=NewApiKey, openapi_extra=documented_body(ApiKeyRequest))
@requires("admin")
async def make(request: ApiRequest) -> Response:
    """Make an API key. The response shows it once. From the first key on, every request needs one."""
    request.refuse_repeats()
    body = await request.read(ApiKeyRequest)
    engine, most = request.runtime.engine, request.runtime.settings.max_api_keys
    turn = engine.check_leads()
    made = await engine.call_writer(lambda writer: create(writer.transaction_log, most=most, **body.model_dump()))
    _note(request, "API key made", made[0].id, scope=body.scope, tasks=body.tasks)
    await engine.replicated(turn)
    return _new(made)


@router.delete("/{identifier}", status_code=204)
@requires("admin")
async def end(request: ApiRequest, identifier: str) -> Response:
    """End the key at once; its changes stay on record under its id."""
    turn = request.runtime.engine.check_leads()
    await request.runtime.engine.call_writer(lambda writer: revoke(writer.transaction_log, identifier))
    _note(request, "API key revoked", identifier)
    await request.runtime.engine.replicated(turn)
    return Response(status_code=204)


@router.post("/{identifier}/rotate", status_code=201, response_model=NewApiKey)
@requires("admin")
async def renew(request: ApiRequest, identifier: str) -> Response:
    """Replace the secret. The old one is invalid at once; id, scope and pattern stay."""
    request.refuse_repeats()
    turn = request.runtime.engine.check_leads()
    made = await request.runtime.engine.call_writer(lambda writer: rotate(writer.transaction_log, identifier))
    _note(request, "API key rotated", identifier)
    await request.runtime.engine.replicated(turn)
    return _new(made)
