"""Quotas of an API key for each second: requests, rows, updates."""

import threading
import time
from collections.abc import Callable

from superposed_service.errors import QuotaExceeded
from superposed_service.settings import Settings
from superposed_service.storage import ApiKey

_UNITS = ("requests", "rows", "updates")


class _Bucket:
    """Fills at a steady rate, up to what comes in within `burst_s`.

    What costs more than it can hold is let through when it is full, and paid for afterwards: the rate holds,
    and no request is too large for ever.
    """

    def __init__(self, rate: float, burst_s: float, now: float) -> None:
        self.rate = rate
        self._most = max(1.0, rate * burst_s)
        self.level = self._most
        self._when = now

    def wait_s(self, cost: float, now: float) -> float:
        """Return the seconds until the cost can be taken out."""
        self.level = min(self._most, self.level + (now - self._when) * self.rate)
        self._when = now
        missing = min(cost, self._most) - self.level
        return missing / self.rate if missing > 1e-9 else 0.0


class Quotas:
    """The quotas of all API keys, in memory: a start begins with full ones. Any thread may call it.

    The settings hold for keys without quotas of their own, and on a server without keys for everyone together.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._clock = settings, clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._lock = threading.Lock()
        self._limits_anyone = any(self._rate(None, unit) for unit in _UNITS)

    def spend(self, key: ApiKey | None, **costs: int) -> None:
        """Count the `requests`, `rows` or `updates` of a request; `key` is None where there are no keys.

        Raise `QuotaExceeded` where there would be more of one than the key may ask for; nothing is counted then.
        """
        if key is None and not self._limits_anyone:
            return
        rates = {unit: self._rate(key, unit) for unit, cost in costs.items() if cost}
        if not any(rates.values()):
            return
        now = self._clock()
        with self._lock:
            buckets = {unit: self._bucket(key, unit, rate, now) for unit, rate in rates.items() if rate}
            for unit, bucket in buckets.items():
                if wait_s := bucket.wait_s(costs[unit], now):
                    rate, more = f"{bucket.rate:g} {unit} a second", f"{costs[unit]} more"
                    text = f"the quota of {unit} is used up"
                    raise QuotaExceeded(text, expected=rate, received=more, retry_after_s=wait_s)
            for unit, bucket in buckets.items():
                bucket.level -= costs[unit]

    def _bucket(self, key: ApiKey | None, unit: str, rate: float, now: float) -> _Bucket:
        name = ("" if key is None else key.id, unit)
        bucket = self._buckets.get(name)
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[name] = _Bucket(rate, self._settings.quota_burst_s, now)
        return bucket

    def _rate(self, key: ApiKey | None, unit: str) -> float:
        """Return a key's rate a second; 0 for no limit."""
        own: float | None = None if key is None else getattr(key, f"{unit}_per_second")
        default: float = getattr(self._settings, f"quota_{unit}_per_s")
        return default if own is None else own
