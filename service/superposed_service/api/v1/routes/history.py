"""The store's past: rollback, correction of an update, snapshots; rehearsal of all tasks; the quarantine of sources."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import Path
from fastapi.responses import Response

from superposed_client.models import Consolidation, Quarantine, Relabelling, Rollback, Snapshot
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.api.v1.schemas import ConsolidateBody, QuarantineBody, RelabelBody, RollbackBody
from superposed_service.api.v1.serializers import check_source, quarantine_list, update_head
from superposed_service.changes.quarantine import Quarantine as Hold
from superposed_service.changes.quarantine import Release
from superposed_service.changes.rollback import Relabel, RollbackChange, Selection
from superposed_service.errors import UnknownUpdate

router = ApiRouter(prefix="/v1")


@router.serve("POST", "/rollback", "admin", tags=["history"], response_model=Rollback, body=RollbackBody)
async def roll_back(request: ApiRequest) -> Response:
    """Rebuild the store as if the records had never been; other requests wait meanwhile.

    The store is bit for bit what a run that skipped those sequence numbers would have made. 409
    `beyond-horizon` where the journal does not reach back far enough.
    """
    body = await request.read(RollbackBody)
    without = {} if body.without is None else body.without.model_dump()
    selection = Selection(to_sequence=body.to_sequence, **without)
    key, author = await request.idempotency_key(), request.principal.author
    return json_response(await request.runtime.change_past(partial(RollbackChange, selection), key, author))


@router.serve(
    "POST", "/updates/{sequence}/relabel", "update", tags=["history"], response_model=Relabelling, body=RelabelBody
)
async def relabel(request: ApiRequest, sequence: Annotated[int, Path(ge=1, lt=2**63)]) -> Response:
    """Take an update out of the store's past and learn its rows with other targets, as one record.

    The store is rebuilt from a snapshot without the update; other requests wait meanwhile. So every record
    since counts against the quota of rows. 409 `beyond-horizon` where the journal does not reach back.
    """
    body, service, asker = await request.read(RelabelBody), request.runtime, request.principal
    if (known := await request.answered_before()) is not None:
        return json_response(known)
    head, since = await service.engine.call_writer(partial(update_head, sequence=sequence))
    contexts = [head["context"]] if "context" in head else head["contexts"]
    if not all(asker.may_address(context) for context in contexts):
        raise UnknownUpdate("the record is no update of this API key's tasks", received=sequence)
    asker.spend(rows=head["rows"] + since, updates=1)
    change = partial(Relabel, sequence, body.targets)
    return json_response(await service.change_past(change, await request.idempotency_key(), asker.author))


@router.serve("POST", "/snapshots", "admin", tags=["snapshots"], response_model=Snapshot)
async def take(request: ApiRequest) -> Response:
    """Take a snapshot; it is on the disk when the response leaves."""
    return json_response((await request.runtime.snapshot()).model_dump())


@router.serve("POST", "/snapshots/{identifier}/restore", "admin", tags=["snapshots"], response_model=Rollback)
async def restore(request: ApiRequest, identifier: str) -> Response:
    """Roll back to the snapshot's sequence number; a later rollback can undo it."""
    answer = await request.runtime.restore(identifier, await request.idempotency_key(), request.principal.author)
    return json_response(answer)


@router.serve("GET", "/snapshots", "admin", tags=["snapshots"], response_model=list[Snapshot])
async def list_snapshots(request: ApiRequest) -> Response:
    """List the snapshots on the disk, oldest first."""
    snapshots = await asyncio.to_thread(request.runtime.directory.snapshots.list)
    return json_response([snapshot.model_dump() for snapshot in snapshots])


@router.serve("POST", "/consolidate", "admin", tags=["history"], response_model=Consolidation, body=ConsolidateBody)
async def rehearse(request: ApiRequest) -> Response:
    """Rehearse in short slices, each one record, until one would make the tasks worse.

    A slice counts where the mean accuracy over tasks, on kept rows, is no lower after it than before.
    """
    body = await request.read(ConsolidateBody)
    key, author = await request.idempotency_key(), request.principal.author
    answer = await request.runtime.consolidate(body.steps, key, author, request.check_wanted)
    return json_response(answer)


@router.serve("GET", "/quarantine", "admin", tags=["quarantine"], response_model=list[Quarantine])
async def list_all(request: ApiRequest) -> Response:
    """List quarantined sources: since which sequence number, and why."""
    return json_response(await request.runtime.engine.call_writer(quarantine_list))


@router.serve("POST", "/quarantine", "admin", tags=["quarantine"], response_model=Quarantine, body=QuarantineBody)
async def quarantine(request: ApiRequest) -> Response:
    """Quarantine a source, as the poison detector does."""
    body = await request.read(QuarantineBody)
    if (known := await request.answered_before()) is None:
        await request.runtime.engine.call_writer(lambda writer: check_source(writer, body.source))
        known = await request.submit(Hold(body.source, {"by": "request", "text": body.reason}))
    return json_response(known)


@router.serve("DELETE", "/quarantine/{source}", "admin", tags=["quarantine"], status_code=204)
async def release(request: ApiRequest, source: str) -> Response:
    """Release a source. Updates held back stay so, unless the quarantine is rolled back."""
    if await request.runtime.engine.call(lambda store: source in store.tasks.quarantined):
        await request.submit(Release(source))
    return Response(status_code=204)
