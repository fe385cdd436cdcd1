"""Load of the engine, counted with each response and summed up once a second; and the progress of a replay."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
_log = logging.getLogger("superposed.recovery")
_LOG_EVERY_S = 5.0
# Latencies kept of one interval: percentiles of more would be no truer.
_MOST = 4096
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass
class _Interval:
    started: float = field(default_factory=time.perf_counter)
    requests: int = 0
    updates: int = 0
    batches: int = 0
    rows: int = 0
    latencies_s: list[float] = field(default_factory=list)


class Load:
    """Load since the last summary. One thread counts; another may sum up, and then miss what is counted meanwhile."""

    def __init__(self) -> None:
        self._now = _Interval()

    def batch(self, rows: int, latencies_s: Sequence[float]) -> None:
        """Count one mixed batch of inference; each of its requests has a latency, from its admission on."""
        now = self._now
        now.batches += 1
        now.rows += rows
        now.requests += len(latencies_s)
        now.latencies_s += latencies_s[: _MOST - len(now.latencies_s)]

    def change(self, latency_s: float) -> None:
        """Count one request that changed the store."""
        now = self._now
        now.requests += 1
        now.updates += 1
        if len(now.latencies_s) < _MOST:
            now.latencies_s.append(latency_s)

    def summary(self) -> dict[str, Any]:
        """Return the load since the last summary as JSON values: rates a second, times in milliseconds.

        `batch_rows` and the latencies are null where nothing was answered.
        """
        past, self._now = self._now, _Interval()
        seconds = self._now.started - past.started or 1e-9
        ordered = sorted(past.latencies_s)
        return {
            "requests_per_s": past.requests / seconds,
            "updates_per_s": past.updates / seconds,
            "rows_per_s": past.rows / seconds,
            "batch_rows": past.rows / past.batches if past.batches else None,
            "latency_ms": {
                name: ordered[int(share * (len(ordered) - 1))] * 1000 if ordered else None
                for name, share in _QUANTILES.items()
            },
        }


@dataclass
class Progress:
    """Of the newest replay: at the start, or by a rollback. Written by one thread, read by any."""

    total: int = 0  # records to apply
    done: int = 0  # of them applied

    def watch(self, walk: Iterable[T], total: int) -> Iterator[T]:
        """Go with a replay, and log every few seconds how far it is."""
        self.total, self.done = total, 0
        logged = time.monotonic()
        for one in walk:
            self.done += 1
            yield one
            if (now := time.monotonic()) - logged > _LOG_EVERY_S:
                logged = now
                _log.info("replaying", extra={"done": self.done, "total": total})
