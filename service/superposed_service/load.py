"""How busy the engine is: counted as requests are answered, summed up once a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from superposed_service.changes import Change, JsonObject
from superposed_service.engine import Engine
from superposed_service.lines import Read
from superposed_service.origin import Origin
from superposed_service.rows import Answer, Rows
from superposed_service.settings import Settings
from superposed_service.writer import Writer

__all__ = ["Load", "MeasuredEngine"]

# So many latencies of one interval are kept: percentiles of more would be no truer.
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
    """Requests, updates, batches and latencies since the last summary. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = _Interval()

    def batch(self, rows: int) -> None:
        """Counts one mixed batch of inference."""
        with self._lock:
            self._now.batches += 1
            self._now.rows += rows

    def answered(self, since: float, *, changed: bool = False) -> None:
        """Counts one request that was answered.

        Args:
            since: When it was admitted (`time.perf_counter`).
            changed: Whether it changed the store.
        """
        with self._lock:
            self._now.requests += 1
            self._now.updates += changed
            if len(self._now.latencies_s) < _MOST:
                self._now.latencies_s.append(time.perf_counter() - since)

    def summary(self) -> dict[str, Any]:
        """What happened since the last summary, as JSON values: rates a second, times in milliseconds.

        `batch_rows` and the latencies are null where nothing was answered.
        """
        with self._lock:
            past, self._now = self._now, _Interval()
        seconds = self._now.started - past.started or 1e-9
        ordered = sorted(past.latencies_s)
        return {
            "requests_per_s": past.requests / seconds,
            "updates_per_s": past.updates / seconds,
            "rows_per_s": past.rows / seconds,
            "batch_rows": past.rows / past.batches if past.batches else None,
            "latency_ms": {name: _quantile(ordered, share) for name, share in _QUANTILES.items()},
        }


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[int(share * (len(ordered) - 1))] * 1000 if ordered else None


class MeasuredEngine(Engine):
    """An engine that counts what it answers.

    Attributes:
        load: How busy it is.
    """

    def __init__(self, writer: Writer, settings: Settings) -> None:
        super().__init__(writer, settings)
        self.load = Load()

    async def infer(self, rows: Rows) -> Answer:
        """As `Engine.infer`, counted."""
        since = time.perf_counter()
        answer = await super().infer(rows)
        self.load.answered(since)
        return answer

    async def change(
        self,
        change: Change,
        origin: Origin | None = None,
        author: str | None = None,
        *,
        limited: bool = True,
    ) -> JsonObject:
        """As `Engine.change`, counted."""
        since = time.perf_counter()
        answer = await super().change(change, origin, author, limited=limited)
        self.load.answered(since, changed=True)
        return answer

    def _answer_reads(self, reads: list[Read]) -> None:
        super()._answer_reads(reads)
        self.load.batch(sum(len(read.rows) for read in reads))
