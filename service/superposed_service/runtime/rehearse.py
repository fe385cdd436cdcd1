"""Consolidation in slices."""

from __future__ import annotations

from superposed.errors import CapacityExceeded
from superposed_service.changes.base import JsonObject
from superposed_service.changes.rehearsal import Consolidate
from superposed_service.engine.engine import Engine
from superposed_service.runtime.resumable import ResumableRequest
from superposed_service.settings import Settings


async def consolidate(
    engine: Engine, settings: Settings, steps: int, resumable: ResumableRequest
) -> JsonObject:
    """Rehearse all tasks in slices, up to the first that is not accepted.

    Args:
        engine: Runs each slice in its turn among the updates.
        settings: The steps of one slice, and of a request at most.
        steps: In all.
        resumable: The request.

    Returns:
        Sequence, accuracies before and after, how many steps count, and whether all were accepted.

    Raises:
        CapacityExceeded: More steps than a request may take.
        InvalidRequest: No rows are kept.
        SuperposedError: As `Engine.change`.
    """
    if steps > (most := settings.max_request_steps):
        raise CapacityExceeded(
            "more steps than a request may take", expected=f"{most} at most", received=steps
        )
    slice_steps = settings.consolidation_slice
    taken, before, after, answer = 0, None, JsonObject(), JsonObject()
    for number, start in enumerate(range(0, steps, slice_steps)):
        size = min(slice_steps, steps - start)
        await resumable.check()
        change = Consolidate(size)
        answer = await engine.change(change, resumable.part(number), resumable.author, limited=False)
        before = answer["before"] if before is None else before
        after = answer["after"] if answer["accepted"] else after or answer["before"]
        if not answer["accepted"]:
            break
        taken += size
    facts = {"sequence": answer["sequence"], "accepted": answer["accepted"]}
    return facts | {"before": before, "after": after, "steps": taken}
