"""Consolidation in slices."""

from collections.abc import Awaitable, Callable

from superposed.errors import CapacityExceeded
from superposed_service.changes.base import JsonObject
from superposed_service.changes.rehearsal import Consolidate
from superposed_service.runtime.runtime import Runtime
from superposed_service.storage.idempotency import IdempotencyKey


async def consolidate(
    runtime: Runtime, steps: int, key: IdempotencyKey | None, author: str | None, check: Callable[[], Awaitable[None]]
) -> JsonObject:
    """Rehearse all tasks for `steps` in all, in slices, up to the first that is not accepted.

    Each slice has its turn among the updates. A request sent again, under its key, goes on where it stopped.
    `check` is called before each slice, and raises where no more should follow.

    Returns:
        Sequence, accuracies before and after, how many steps count, and whether all were accepted.

    Raises:
        CapacityExceeded: More steps than a request may take.
        SuperposedError: As `Engine.change`.
    """
    settings = runtime.settings
    if steps > (most := settings.max_request_steps):
        raise CapacityExceeded("more steps than a request may take", expected=f"{most} at most", received=steps)
    taken, before, after, answer = 0, None, JsonObject(), JsonObject()
    for number, start in enumerate(range(0, steps, settings.consolidation_slice)):
        size = min(settings.consolidation_slice, steps - start)
        await check()
        change = Consolidate(size)
        answer = await runtime.engine.change(change, key and key.part(number), author, limited=False)
        before = answer["before"] if before is None else before
        after = answer["after"] if answer["accepted"] else after or answer["before"]
        if not answer["accepted"]:
            break
        taken += size
    facts = {"sequence": answer["sequence"], "accepted": answer["accepted"]}
    return facts | {"before": before, "after": after, "steps": taken}
