"""Counts and times in Prometheus's form, in a registry of their own; names as in Triton and MLServer."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# The label of all tasks without one of their own: no task key begins so.
OTHER_TASKS = "_other"

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_SIZES = tuple(float(2**power) for power in range(13))

Labels = TypeVar("Labels", bound=tuple[str, ...])


class Distribution:
    """A histogram of one writing thread, without prometheus-client's lock; `bounds` end its buckets, rising."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def shown(self) -> tuple[list[tuple[str, float]], float]:
        """Return its buckets, as Prometheus has them, and its sum."""
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(ends, accumulate(self._counts), strict=True)), self._sum


def family(
    kind: type[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily],
    name: str,
    text: str,
    values: Mapping[Labels, float | Distribution],
    *labels: str,
) -> Metric:
    """Return a metric with its values by labels; any thread may change these meanwhile."""
    made: Any = kind(f"superposed_{name}", text, labels=labels)
    for own, value in list(values.items()):
        made.add_metric(own, *(value.shown() if isinstance(value, Distribution) else (value,)))
    found: Metric = made
    return found


class Metrics(Collector):
    """Counts and times of a running service; `tasks` tasks have a label of their own.

    The event loop writes HTTP requests, the owner of the store all else; any thread reads.
    """

    def __init__(self, tasks: int) -> None:
        self.registry = CollectorRegistry()  # everything that `GET /metrics` shows
        self._requests: Counter[tuple[str, str, str]] = Counter()  # by method, route and status
        self._durations: dict[tuple[str, str], Distribution] = defaultdict(lambda: Distribution(SECONDS))  # by route
        self.queue, self.compute, self.change_queue, self.journal, self.apply = map(Distribution, [SECONDS] * 5)
        self.batch_rows, self.group_records = Distribution(_SIZES), Distribution(_SIZES)
        self.answered = self.rows = self.learned = 0  # inference requests; rows inferred; rows learned
        self.failures: Counter[tuple[str]] = Counter()  # inference requests refused by the engine, by error
        self.changes: Counter[tuple[str, str]] = Counter()  # by kind, and what became of them
        self.task_rows = TaskRows(tasks)
        self.registry.register(self)
        self.registry.register(self.task_rows)

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an HTTP request; its method is of a bounded set, and its path is its route's template."""
        self._durations[method, path].observe(seconds)
        self._requests[method, path, str(status)] += 1

    def collect(self) -> Iterator[Metric]:
        """Return the counts and times."""
        for name, text, values in (
            ("inference_queue_duration_seconds", "Seconds of waiting for a mixed batch.", self.queue),
            ("inference_compute_duration_seconds", "Seconds of computing one mixed batch.", self.compute),
            ("inference_batch_size_rows", "Number of rows in a mixed batch.", self.batch_rows),
            ("change_queue_duration_seconds", "Seconds of waiting for the journal.", self.change_queue),
            ("journal_duration_seconds", "Seconds of one journal transaction, fsync included.", self.journal),
            ("journal_group_size_records", "Number of records in a journal transaction.", self.group_records),
            ("apply_duration_seconds", "Seconds of applying one change.", self.apply),
        ):
            yield family(HistogramMetricFamily, name, text, {(): values})
        name = "rest_server_request_duration_seconds"
        text = "Seconds from an HTTP request's head to the end of its response."
        yield family(HistogramMetricFamily, name, text, self._durations, "method", "path")
        counter = partial(family, CounterMetricFamily)
        yield counter("inference_request_success", "Number of inference requests that succeeded.", {(): self.answered})
        yield counter("inference_count", "Number of rows inferred.", {(): self.rows})
        yield counter("update_count", "Number of rows learned.", {(): self.learned})
        text = "Number of inference requests that the engine rejected, by error."
        yield counter("inference_request_failure", text, self.failures, "reason")
        yield counter("change", "Number of changes of the store, by outcome.", self.changes, "kind", "outcome")
        text, labels = "Number of HTTP requests; path is the route's template.", ("method", "path", "status_code")
        yield counter("rest_server_requests", text, self._requests, *labels)


class TaskRows(Collector):
    """Rows by task, the first `most` of them; others share one label. The store's owner writes it, any thread reads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[str, list[int]] = {OTHER_TASKS: [0, 0]}

    def inferred(self, key: str, rows: int) -> None:
        """Count rows inferred."""
        self._of(key)[0] += rows

    def learned(self, rows: Mapping[str, int]) -> None:
        """Count rows learned, by task key."""
        for key, count in rows.items():
            self._of(key)[1] += count

    def _of(self, key: str) -> list[int]:
        own = key in self._rows or len(self._rows) <= self._most
        return self._rows.setdefault(key if own else OTHER_TASKS, [0, 0])

    def forget(self, key: str) -> None:
        """Free a deleted task's label; what it counted goes to the rest."""
        if key != OTHER_TASKS and (gone := self._rows.pop(key, None)) is not None:
            self._rows[OTHER_TASKS] = [sum(both) for both in zip(self._rows[OTHER_TASKS], gone, strict=True)]

    def collect(self) -> Iterator[Metric]:
        """Return the counts and times."""
        for place, what in enumerate(("inference", "update")):
            counted = {(key,): rows[place] for key, rows in list(self._rows.items())}
            name, text = f"task_{what}_count", f"Number of rows of {what}, by task; _other has further tasks."
            yield family(CounterMetricFamily, name, text, counted, "task")
