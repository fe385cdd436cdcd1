"""Counts of what models were asked, since the start: bounded, and for the event loop's thread only."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from superposed.errors import ContextError

_MOST_MODELS, _LONGEST_NAME = 10_000, 256


class Statistics:
    """Requests, rows and time by model; the models asked longest ago are forgotten first."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, dict[str, Any]] = OrderedDict()  # as the protocol shows them

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
        outcomes = {"success": {"count": 0, "ns": 0}, "fail": {"count": 0, "ns": 0}}
        unasked = {"last_inference": 0, "inference_count": 0, "execution_count": 0, "inference_stats": outcomes}
        counts = self._models.setdefault(model, unasked)
        self._models.move_to_end(model)
        if len(self._models) > _MOST_MODELS:
            self._models.popitem(last=False)
        counts["last_inference"] = time.time_ns() // 1_000_000
        counts["inference_count"] += rows if good else 0
        counts["execution_count"] += good
        outcome = counts["inference_stats"]["success" if good else "fail"]
        outcome["count"] += 1
        outcome["ns"] += taken

    def body(self, version: str, wanted: Callable[[str], bool]) -> dict[str, Any]:
        """Return the statistics of the models that are wanted, as the Open Inference Protocol has them."""
        found = [(model, counts) for model, counts in self._models.items() if wanted(model)]
        return {"model_stats": [{"name": model, "version": version, **counts} for model, counts in found]}
