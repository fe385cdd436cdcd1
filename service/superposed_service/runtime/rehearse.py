"""Consolidation in slices: on request, and by itself while nothing else is learned."""

from __future__ import annotations

from superposed_service.changes.base import JsonObject
from superposed_service.changes.rehearsal import Consolidate
from superposed_service.engine.engine import Engine
from superposed_service.errors import InvalidRequest
from superposed_service.runtime.resumable import ResumableRequest

_OWN_ERRAND = ResumableRequest()


async def consolidate(
    engine: Engine,
    steps: int,
    slice_steps: int,
    resumable: ResumableRequest = _OWN_ERRAND,
    *,
    gaining: bool = False,
) -> JsonObject:
    """Rehearse all tasks in slices, up to the first that is not accepted.

    Args:
        engine: Runs each slice in its turn among the updates.
        steps: In all.
        slice_steps: Of one slice.
        resumable: The request; default the service's own.
        gaining: Whether a slice is only accepted where the tasks are better after it, not as good.

    Returns:
        Sequence, accuracies before and after, how many steps count, and whether all were accepted.

    Raises:
        InvalidRequest: No rows are kept.
        SuperposedError: As `Engine.change`.
    """
    taken, before, after, answer = 0, None, JsonObject(), JsonObject()
    for number, start in enumerate(range(0, steps, slice_steps)):
        size = min(slice_steps, steps - start)
        await resumable.check()
        change = Consolidate(size, gaining=gaining)
        answer = await engine.change(change, resumable.part(number), resumable.author, limited=False)
        before = answer["before"] if before is None else before
        after = answer["after"] if answer["accepted"] else after or answer["before"]
        if not answer["accepted"]:
            break
        taken += size
    facts = {"sequence": answer["sequence"], "accepted": answer["accepted"]}
    return facts | {"before": before, "after": after, "steps": taken}


class IdleConsolidation:
    """Consolidates while no change comes: one slice at a time, until one makes the tasks no better.

    Args:
        engine: Runs the slices.
        slice_steps: Of one slice.
        after_s: How long nothing may have changed; 0 for never.
    """

    def __init__(self, engine: Engine, slice_steps: int, after_s: float) -> None:
        self._engine = engine
        self._slice = slice_steps
        self._after_s = after_s
        self._sequence = -1
        self._idle_s = 0.0
        self._done = False

    async def tick(self, seconds: float) -> None:
        """Consolidate where the store has been idle long enough; raises as `consolidate`.

        Args:
            seconds: How long ago the last call was.
        """
        if not self._after_s:
            return
        sequence = await self._engine.call(lambda store: store.sequence)
        if sequence != self._sequence:
            self._sequence, self._idle_s, self._done = sequence, 0.0, False
            return
        self._idle_s += seconds
        if self._done or self._idle_s < self._after_s:
            return
        self._done = True  # also where it fails: it would fail again, until something changes
        try:
            answer = await consolidate(self._engine, self._slice, self._slice, gaining=True)
        except InvalidRequest:  # nothing is kept
            return
        self._done = not answer["accepted"]
        self._sequence = answer["sequence"]
