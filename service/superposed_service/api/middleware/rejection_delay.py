"""Delayed rejection: rejections leave later, one after another, so that floods of them cost little."""

import time
from collections.abc import Callable, Hashable

# Longest delay of a rejection, in delays.
_MOST_PAUSES = 20


class RejectionDelay:
    """Spaces the refusals (429 and 503) that one source gets. On the event loop only.

    A client that asks again at once, whatever `Retry-After` says, or from hundreds of connections, gets its
    refusals at a walk; one that is refused now and then waits for a single pause.

    A refusal leaves `pause_s` later at least. For one source `per_s` a second leave at most, while none of them
    waits twenty pauses.
    """

    def __init__(self, pause_s: float, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s, self._gap_s, self._clock = pause_s, 1 / per_s, clock
        self._next: dict[Hashable, float] = {}  # sources are API keys: there are not many

    def wait_s(self, source: Hashable) -> float:
        """Return the seconds that the next rejection of a source is delayed."""
        now = self._clock()
        earliest = now + self._pause_s
        leaves = min(max(earliest, self._next.get(source, 0.0)), now + _MOST_PAUSES * self._pause_s)
        self._next[source] = leaves + self._gap_s
        return leaves - now
