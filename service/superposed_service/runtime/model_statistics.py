"""Counts of what models were asked, since the start: bounded, and for the event loop's thread only."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from superposed.errors import ContextError

_MOST_MODELS, _LONGEST_NAME = 10_000, 256


@dataclass
class _Outcomes:
    count: int = 0
    ns: int = 0


@dataclass
class _Counts:
    rows: int = 0
    last_ms: int = 0
    success: _Outcomes = field(default_factory=_Outcomes)
    fail: _Outcomes = field(default_factory=_Outcomes)


class Statistics:
    """Requests, rows and time by model; the models asked longest ago are forgotten first."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, _Counts] = OrderedDict()

    @contextmanager
    def measured(self, model: str, rows: int) -> Iterator[None]:
        """Count one request and its duration, also where it fails; unknown models are not counted."""
        started = time.perf_counter_ns()
        good, there = False, len(model) <= _LONGEST_NAME
        try:
            yield
            good = True
        except ContextError:
            there = False  # no such model
            raise
        finally:
            if there:
                self._count(model, rows, time.perf_counter_ns() - started, good=good)

    def _count(self, model: str, rows: int, taken: int, *, good: bool) -> None:
        counts = self._models.setdefault(model, _Counts())
        self._models.move_to_end(model)
        if len(self._models) > _MOST_MODELS:
            self._models.popitem(last=False)
        counts.last_ms = time.time_ns() // 1_000_000
        counts.rows += rows if good else 0
        outcomes = counts.success if good else counts.fail
        outcomes.count += 1
        outcomes.ns += taken

    def body(self, version: str, wanted: Callable[[str], bool]) -> dict[str, Any]:
        """Return the statistics of the models that are wanted, as the Open Inference Protocol has them."""
        return {
            "model_stats": [
                {
                    "name": model,
                    "version": version,
                    "last_inference": counts.last_ms,
                    "inference_count": counts.rows,
                    "execution_count": counts.success.count,
                    "inference_stats": {"success": asdict(counts.success), "fail": asdict(counts.fail)},
                }
                for model, counts in self._models.items()
                if wanted(model)
            ]
        }
