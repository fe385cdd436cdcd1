"""Telemetry of the engine: a request's way through the queue as counts, times and spans."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from superposed.errors import SuperposedError
from superposed_service.changes.registration import Delete
from superposed_service.engine.batcher import InferenceResult, Outcome
from superposed_service.observability.counters import Metrics
from superposed_service.observability.load import Load, Progress
from superposed_service.observability.request_ids import request_id
from superposed_service.storage import Record

if TYPE_CHECKING:
    from superposed_service.observability.opentelemetry import Tracing

_log = logging.getLogger("superposed.engine")


@dataclass(slots=True)
class RequestTiming:
    """Of a request that waits for the engine."""

    asked: float  # when it began to wait, on `perf_counter`'s clock
    request: str  # the HTTP request's id; empty for work that no request asked for
    trace: object  # the trace that it belongs to, where there is one


class Telemetry:
    """Counts, times and traces (by `tracing`) what the engine does; only `start_timing` is for any thread."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None = None) -> None:
        self.metrics = metrics
        self.tracing = tracing
        self.replay = Progress()
        self.load = Load()

    def start_timing(self) -> RequestTiming:
        """Return the timing of a request that begins to wait now."""
        trace = None if self.tracing is None else self.tracing.current()
        return RequestTiming(perf_counter(), request_id.get(), trace)

    def answered(self, timings: Sequence[RequestTiming], outcomes: Sequence[Outcome], began: float) -> None:
        """Report a mixed batch that began at `began` and has just ended."""
        ended, metrics, total = perf_counter(), self.metrics, 0
        for timing, outcome in zip(timings, outcomes, strict=True):
            metrics.queue.observe(began - timing.asked)
            if isinstance(outcome, InferenceResult):
                metrics.answered += 1
                total += len(outcome.places)
                _count(metrics, outcome)
            else:
                metrics.failures[(_code(outcome),)] += 1
        metrics.compute.observe(ended - began)
        metrics.rows += total
        self.load.batch(total, [ended - timing.asked for timing in timings])
        if total:
            metrics.batch_rows.observe(total)
        if self.tracing is not None:
            attributes = {"superposed.batch.rows": total, "superposed.batch.requests": len(timings)}
            for timing in timings:
                self._span(timing, "queue", timing.asked, began, {})
                self._span(timing, "batch", began, ended, attributes)

    def journalled(self, timings: Sequence[RequestTiming | None], began: float, ended: float, last: int) -> None:
        """Report changes that were committed together, the newest under the sequence number `last`."""
        metrics = self.metrics
        metrics.journal.observe(ended - began)
        metrics.group_records.observe(len(timings))
        attributes = {"superposed.journal.records": len(timings), "superposed.journal.last": last}
        for timing in timings:
            if timing is not None:
                metrics.change_queue.observe(began - timing.asked)
                self._span(timing, "queue", timing.asked, began, {})
                self._span(timing, "journal", began, ended, attributes)

    def applied(
        self,
        timing: RequestTiming | None,
        record: Record,
        rows: Mapping[str, int],
        refused: Exception | None,
        began: float,
    ) -> None:
        """Report a journalled change, which taught tasks some rows or was refused; its arithmetic began at `began`."""
        ended, metrics = perf_counter(), self.metrics
        metrics.apply.observe(ended - began)
        outcome = "applied" if refused is None else _code(refused)
        metrics.changes[record.kind, outcome] += 1
        if refused is None:
            if timing is not None:
                self.load.change(ended - timing.asked)
            metrics.learned += sum(rows.values())
            metrics.task_rows.learned(rows)
            if record.kind == Delete.kind:
                metrics.task_rows.forget(record.head["key"])
        level = logging.DEBUG if refused is None else logging.INFO
        if _log.isEnabledFor(level):
            known = {"sequence": record.sequence, "kind": record.kind, "outcome": outcome}
            _log.log(level, "change", extra=known | ({"request_id": timing.request} if timing else {}))
        if timing is not None:
            self._span(timing, "apply", began, ended, {"superposed.sequence": record.sequence})

    def _span(self, timing: RequestTiming, name: str, began: float, ended: float, known: Mapping[str, Any]) -> None:
        if self.tracing is not None and timing.trace is not None:
            self.tracing.span(timing.trace, name, began, ended, known)


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, SuperposedError) else type(error).__name__


def _count(metrics: Metrics, answer: InferenceResult) -> None:
    """Count a result's rows by task; a composition's belong to its largest-weight component."""
    if len(answer.tasks) == 1:
        metrics.task_rows.inferred(answer.tasks[0].key, len(answer.places))
        return
    counts = np.bincount(answer.places, minlength=len(answer.tasks)).tolist()
    for task, rows in zip(answer.tasks, counts, strict=True):
        metrics.task_rows.inferred(task.key, rows)
