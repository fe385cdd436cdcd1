"""Snapshots: take one, list them."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response

from superposed_service.api.auth import requires
from superposed_service.api.v1.routes.common import idempotency_key, json_response, principal, runtime
from superposed_service.api.v1.schemas import RollbackAnswer, SnapshotBody

router = APIRouter(prefix="/v1/snapshots", tags=["snapshots"])


@router.post("", response_model=SnapshotBody, summary="Take a snapshot")
@requires("admin")
async def take(request: Request) -> Response:
    """Take a snapshot; it is on the disk when the response leaves."""
    snapshot = await runtime(request).snapshot()
    return json_response(snapshot.model_dump())


@router.post("/{identifier}/restore", response_model=RollbackAnswer, summary="Restore a snapshot")
@requires("admin")
async def restore(request: Request, identifier: str) -> Response:
    """Roll back to the snapshot's sequence number; a later rollback can undo it."""
    answer = await runtime(request).restore(
        identifier, await idempotency_key(request), principal(request).author
    )
    return json_response(answer)


@router.get("", response_model=list[SnapshotBody], summary="List snapshots")
@requires("admin")
async def list_snapshots(request: Request) -> Response:
    """List the snapshots on the disk, oldest first."""
    snapshots = await asyncio.to_thread(runtime(request).directory.snapshots.list)
    return json_response([snapshot.model_dump() for snapshot in snapshots])
