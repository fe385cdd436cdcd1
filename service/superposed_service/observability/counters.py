"""Counts and times in Prometheus's form, in a registry of their own; names as in Triton and MLServer."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

# The label of all tasks without one of their own: no task key begins so.
OTHER_TASKS = "_other"

SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)
_SIZES = tuple(float(2**power) for power in range(13))


class Distribution:
    """A histogram for one writing thread at a time, and any that reads: prometheus-client's takes a lock.

    `bounds` are the upper bounds of its buckets, rising.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add it to what is shown."""
        ends = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(ends, accumulate(self._counts), strict=True)), self._sum)


class Metrics(Collector):
    """Counts and times of a running service; `tasks` tasks have a label of their own.

    The event loop writes HTTP requests, the owner of the store all else; any thread reads.
    """

    def __init__(self, tasks: int) -> None:
        self.registry = CollectorRegistry()  # everything that `GET /metrics` shows
        # Of each route: how long its requests took, and how many had each status.
        self._routes: dict[tuple[str, str], tuple[Distribution, dict[int, int]]] = defaultdict(
            lambda: (Distribution(SECONDS), defaultdict(int))
        )
        self.queue, self.compute, self.change_queue, self.journal, self.apply = (
            Distribution(SECONDS) for _ in range(5)
        )
        self.batch_rows, self.group_records = Distribution(_SIZES), Distribution(_SIZES)
        self.answered = self.rows = self.learned = 0  # inference requests; rows inferred; rows learned
        self.failures: Counter[str] = Counter()  # inference requests refused by the engine, by error
        self.changes: Counter[tuple[str, str]] = Counter()  # by kind, and what became of them
        self.task_rows = TaskRows(tasks)
        self.registry.register(self)
        self.registry.register(self.task_rows)

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an HTTP request; its method is of a bounded set, and its path is its route's template."""
        durations, statuses = self._routes[method, path]
        durations.observe(seconds)
        statuses[status] += 1

    def collect(self) -> Iterator[Metric]:
        """Return the counts and times."""
        yield from self._http()
        for name, text, values in (
            ("inference_queue_duration_seconds", "Seconds of waiting for a mixed batch.", self.queue),
            ("inference_compute_duration_seconds", "Seconds of computing one mixed batch.", self.compute),
            ("inference_batch_size_rows", "Number of rows in a mixed batch.", self.batch_rows),
            ("change_queue_duration_seconds", "Seconds of waiting for the journal.", self.change_queue),
            ("journal_duration_seconds", "Seconds of one journal transaction, fsync included.", self.journal),
            ("journal_group_size_records", "Number of records in a journal transaction.", self.group_records),
            ("apply_duration_seconds", "Seconds of applying one change.", self.apply),
        ):
            histogram = HistogramMetricFamily(f"superposed_{name}", text)
            values.add_to(histogram, ())
            yield histogram
        for name, text, count in (
            ("inference_request_success", "Number of inference requests that succeeded.", self.answered),
            ("inference_count", "Number of rows inferred.", self.rows),
            ("update_count", "Number of rows learned.", self.learned),
        ):
            yield CounterMetricFamily(f"superposed_{name}", text, count)
        failures = CounterMetricFamily(
            "superposed_inference_request_failure",
            "Number of inference requests that the engine rejected, by error.",
            labels=["reason"],
        )
        for reason, count in list(self.failures.items()):
            failures.add_metric([reason], count)
        changes = CounterMetricFamily(
            "superposed_change", "Number of changes of the store, by outcome.", labels=["kind", "outcome"]
        )
        for labels, count in list(self.changes.items()):
            changes.add_metric(labels, count)
        yield from (failures, changes)

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "superposed_rest_server_requests",
            "Number of HTTP requests; path is the route's template.",
            labels=["method", "path", "status_code"],
        )
        durations = HistogramMetricFamily(
            "superposed_rest_server_request_duration_seconds",
            "Seconds from an HTTP request's head to the end of its response.",
            labels=["method", "path"],
        )
        for labels, (distribution, statuses) in list(self._routes.items()):
            distribution.add_to(durations, labels)
            for status, count in list(statuses.items()):
                requests.add_metric([*labels, str(status)], count)
        yield from (requests, durations)


class TaskRows(Collector):
    """Rows by task, for the first `most` tasks; further tasks share one label.

    Written by the owner of the store, read by any thread.
    """

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
        found = self._rows.get(key)
        if found is None and len(self._rows) > self._most:
            return self._rows[OTHER_TASKS]
        return self._rows.setdefault(key, [0, 0]) if found is None else found

    def forget(self, key: str) -> None:
        """Free a deleted task's label; what it counted goes to the rest."""
        if key != OTHER_TASKS and (gone := self._rows.pop(key, None)) is not None:
            rest = self._rows[OTHER_TASKS]
            rest[0] += gone[0]
            rest[1] += gone[1]

    def collect(self) -> Iterator[Metric]:
        """Return the counts and times."""
        counted = list(self._rows.items())
        for place, what in enumerate(("inference", "update")):
            family = CounterMetricFamily(
                f"superposed_task_{what}_count", f"Number of rows of {what}, by task.", labels=["task"]
            )
            for key, rows in counted:
                family.add_metric([key], rows[place])
            yield family
