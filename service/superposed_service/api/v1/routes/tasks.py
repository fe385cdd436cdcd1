"""Tasks: register, show, list, delete."""

import base64
import binascii
from functools import partial
from typing import Annotated, Any

from fastapi import Query
from fastapi.responses import Response

from superposed_client.models import Erasure, EvaluatedAccuracy, TaskInfo, TaskPage
from superposed_service.api.v1.routes.common import ApiRequest, ApiRouter, json_response
from superposed_service.api.v1.schemas import TaskAlteration, TaskRegistration
from superposed_service.api.v1.serializers import evaluations_body, task_schema
from superposed_service.changes.registration import Alter, Delete, Register, task_body, task_page
from superposed_service.changes.task_rows import read_task_rows
from superposed_service.errors import InvalidRequest

router = ApiRouter(prefix="/v1/tasks", tags=["tasks"])

_LONG = {"labels", "offset", "scale"}
_REGISTERED_BEFORE = {200: {"model": TaskInfo, "description": "The same task was registered before."}}


@router.serve(
    "POST", "", "update", status_code=201, response_model=TaskInfo, body=TaskRegistration, responses=_REGISTERED_BEFORE
)
async def register(request: ApiRequest) -> Response:
    """Cost no weight memory. The same key with another schema is 409 `task-exists`.

    A group that is not there yet is registered with its first member.
    """
    body = await request.read(TaskRegistration)
    request.principal.check_task(body.key)
    if body.group is not None:
        request.principal.check_group(body.group)
    if body.composition is not None:
        request.principal.check_contexts([body.composition])
    settings = request.runtime.settings
    change = Register(partial(task_schema, body, settings.max_tasks), settings.max_tasks_per_key)
    answer = await request.submit(change)
    return json_response(answer["task"], 201 if answer["new"] else 200)


@router.serve("GET", "", "infer", response_model=TaskPage)
async def list_all(
    request: ApiRequest,
    cursor: str = "",
    limit: Annotated[int, Query(ge=1)] = 100,
    prefix: str = "",
    brief: bool = False,
) -> Response:
    """Return one page in the order of keys; `next_cursor` asks for the next one, null on the last.

    `brief=true` leaves out what may be long: labels, offset and scale.
    """
    after = _read_cursor(cursor)
    most = min(limit, request.runtime.settings.max_page)
    may_name = request.principal.may_name
    tasks, last = await request.runtime.engine.call(lambda store: task_page(store, prefix, after, most, may_name))
    if brief:
        tasks = [{name: value for name, value in task.items() if name not in _LONG} for task in tasks]
    next_cursor = last and base64.urlsafe_b64encode(last.encode()).decode()
    return json_response({"tasks": tasks, "next_cursor": next_cursor})


def _read_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError) as error:
        text = "cursor: not one that this service gave"
        raise InvalidRequest(text, expected="a next_cursor", received=cursor[:100]) from error


@router.serve("GET", "/{key:path}/evaluations", "infer", response_model=list[EvaluatedAccuracy])
async def evaluations(request: ApiRequest, key: str) -> Response:
    """Return the task's accuracy at the numbers of tasks it was evaluated at: how much it has forgotten."""
    key = await request.task_key(key)
    return json_response(await request.runtime.engine.call(lambda store: evaluations_body(store, key)))


@router.serve("GET", "/{key:path}/data", "update", response_model=list[dict[str, Any]])
async def rows(request: ApiRequest, key: str, after: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Return rows and targets of the task's next updates after a record, as `POST /v1/update` takes them.

    From the beginning come kept rows first, if the journal has not every update. No further ones: `[]`.
    """
    key = await request.task_key(key)
    found = await request.runtime.engine.call_writer(
        lambda writer: read_task_rows(writer.transaction_log, writer.store, key, after)
    )
    hidden = set() if request.principal.is_admin else {"origin"}
    return json_response([{name: one[name] for name in one.keys() - hidden} for one in found])


@router.serve("DELETE", "/{key:path}/data", "update", response_model=Erasure)
async def erase(request: ApiRequest, key: str) -> Response:
    """Remove the rows of a task from the journal and from rehearsal; what they taught stays in the weights.

    Older snapshots of a rehearsing store may hold such rows and are other tasks' way back: scope admin
    removes them at once; after an erasure by scope update they stay for a stated time.
    """
    asker = request.principal
    key = await request.task_key(key)
    erased = await request.runtime.erase_rows(key, asker.author, at_once=asker.is_admin)
    return json_response(erased.model_dump())


@router.serve("GET", "/{key:path}", "infer", response_model=TaskInfo)
async def get(request: ApiRequest, key: str) -> Response:
    """Return a task's schema, counters, and test-then-train accuracy and loss."""
    key = await request.task_key(key)
    return json_response(await request.runtime.engine.call(lambda store: task_body(store, store.tasks.get(key))))


@router.serve("PATCH", "/{key:path}", "update", response_model=TaskInfo, body=TaskAlteration)
async def alter(request: ApiRequest, key: str) -> Response:
    """Add labels, scale rows otherwise, or end its standby; updates that wait meanwhile stay valid."""
    body = await request.read(TaskAlteration)
    if (known := await request.answered_before()) is not None:
        return json_response(known["task"])
    key = await request.task_key(key)
    scaling = body.model_dump(include={"offset", "scale", "standby"}, exclude_none=True)
    change = Alter(key, add_labels=body.add_labels or (), scaling=scaling or None, version=body.schema_version)
    return json_response((await request.submit(change))["task"])


@router.serve("DELETE", "/{key:path}", "update", status_code=204)
async def delete(request: ApiRequest, key: str, updates: Annotated[int | None, Query(ge=0)] = None) -> Response:
    """Delete a task. If its key is registered again, it gets a fresh context.

    `updates=N` deletes it only if N updates have taught it (else 409 `task-in-use`).
    """
    if await request.answered_before() is None:
        key = await request.task_key(key)
        await request.submit(Delete(key, updates))
        request.runtime.encoders.cache.forget({key})
    return Response(status_code=204)
