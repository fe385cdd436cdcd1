"""How much an API key may ask for in a second: requests, rows, updates."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from superposed_service.errors import QuotaExceeded
from superposed_service.settings import Settings
from superposed_service.storage import ApiKey

__all__ = ["Quotas"]

Unit: TypeAlias = Literal["requests", "rows", "updates"]


class _Bucket:
    """Fills at a steady rate, up to what comes in within `burst_s`.

    What costs more than it can hold is let through when it is full, and paid for afterwards: the rate holds,
    and no request is too large for ever.
    """

    def __init__(self, rate: float, burst_s: float, now: float) -> None:
        self.rate = rate
        self._most = max(1.0, rate * burst_s)
        self._level = self._most
        self._when = now

    def take(self, cost: float, now: float) -> float:
        """Takes the cost out; or takes nothing, and says in how many seconds it could."""
        self._level = min(self._most, self._level + (now - self._when) * self.rate)
        self._when = now
        missing = min(cost, self._most) - self._level
        if missing > 1e-9:
            return missing / self.rate
        self._level -= cost
        return 0.0


class Quotas:
    """The quotas of all API keys, in memory: a start begins with full ones. Any thread may call it.

    Args:
        settings: What holds for keys that have no quota of their own, and on a server without keys for
            everyone together.
        clock: Seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._buckets: dict[tuple[str, Unit], _Bucket] = {}
        self._lock = threading.Lock()

    def spend(self, key: ApiKey | None, unit: Unit, cost: int = 1) -> None:
        """Counts what a key asks for.

        Raises:
            QuotaExceeded: It would be more than it may; nothing is counted then.
        """
        rate = self._rate(key, unit)
        if not rate or not cost:
            return
        name = ("" if key is None else key.id, unit)
        now = self._clock()
        with self._lock:
            bucket = self._buckets.get(name)
            if bucket is None or bucket.rate != rate:
                bucket = self._buckets[name] = _Bucket(rate, self._settings.quota_burst_s, now)
            wait_s = bucket.take(cost, now)
        if wait_s:
            raise QuotaExceeded(
                f"the quota of {unit} is used up",
                expected=f"{rate:g} {unit} a second",
                received=f"{cost} more",
                retry_after_s=wait_s,
            )

    def _rate(self, key: ApiKey | None, unit: Unit) -> float:
        """What a key may do in a second; 0 for as much as it likes."""
        own: float | None = None if key is None else getattr(key, f"{unit}_per_second")
        default: float = getattr(self._settings, f"quota_{unit}_per_s")
        return default if own is None else own
