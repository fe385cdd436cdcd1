"""Gauges that are read on demand: the store, its disk, its device, and readiness."""

import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from importlib.metadata import version
from shutil import disk_usage

import torch
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from superposed.analysis.capacity import layer_crosstalk
from superposed_service.engine.writer import Writer
from superposed_service.observability.counters import family
from superposed_service.runtime.runtime import Runtime

_JOURNAL_FILES = ("journal.db", "journal.db-wal")
_CROSSTALK = "Response energy to an independent context over that to the task's own, measured and predicted."


def observe(registry: CollectorRegistry, runtime: Runtime, writer: Writer) -> None:
    """Add what a service that is up has to show, and what the process itself has."""
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    registry.register(Readings(runtime, writer))


class Readings(Collector):
    """Gauges of a running service.

    Read on a thread that owns nothing: whole numbers and references are read as they are at that moment, and
    nothing waits in the engine's queue for them, so that they are there when that is full.
    """

    def __init__(self, runtime: Runtime, writer: Writer) -> None:
        self._runtime = runtime
        self._writer = writer

    def collect(self) -> Iterator[Metric]:
        """Return all gauges, read now."""
        release = {"version": version("superposed")}
        yield InfoMetricFamily("superposed_build", "Release of the running service.", value=release)
        gauge = partial(family, GaugeMetricFamily)
        for name, text, value in (*self._engine(), *self._disk()):
            yield gauge(name, text, {(): value})
        waiting = dict(zip((("inference",), ("other",)), self._runtime.engine.waiting, strict=True))
        yield gauge("pending_request_count", "Requests that wait for the engine.", waiting, "queue")
        yield gauge("crosstalk_ratio", _CROSSTALK, dict(self._crosstalk()), "layer", "kind")
        yield gauge("device_memory_bytes", "Memory of the CUDA device; none on a CPU.", dict(self._device()), "kind")

    def _engine(self) -> Iterator[tuple[str, str, float]]:
        runtime, store, replay = self._runtime, self._writer.store, self._runtime.telemetry.replay
        ready = runtime.not_ready is None
        yield "ready", "1 while requests are admitted and the journal can be written.", ready
        if runtime.following is not None:
            behind = runtime.following.newest - store.sequence
            yield "replication_lag_records", "Records of the leader that are not applied here.", max(0, behind)
        yield "journal_failed", "1 once the journal could not be written.", runtime.engine.failure is not None
        yield "replay_records", "Records of the newest replay, at the start or by a rollback.", replay.total
        yield "replay_records_done", "Records of the newest replay that are applied.", replay.done
        yield "store_sequence", "Sequence number of the newest applied record.", store.sequence
        yield "store_tasks", "Registered tasks.", len(store.tasks)
        yield "store_weights_bytes", "Bytes of the weights.", store.weight_bytes
        yield "store_optimizer_bytes", "Bytes of the optimizer's state.", store.optimizer_bytes
        yield "contexts_cached_bytes", "Bytes of materialised contexts.", store.contexts.cached_bytes
        yield "quarantined_sources", "Task keys and API keys in quarantine.", len(store.tasks.quarantined)

    def _disk(self) -> Iterator[tuple[str, str, float]]:
        since = self._writer.records_since_snapshot
        yield "snapshot_records_behind", "Records after the newest snapshot.", since
        with contextlib.suppress(OSError):  # the rest is wanted most when a disk has failed
            directory = self._runtime.directory
            if snapshots := directory.snapshots.list():
                newest = datetime.fromisoformat(snapshots[-1].created).timestamp()
                yield "snapshot_timestamp_seconds", "Unix time of the newest snapshot.", newest
                yield "snapshot_age_seconds", "Age of the newest snapshot.", max(0.0, time.time() - newest)
                yield "snapshots_bytes", "Bytes of all snapshots.", sum(one.bytes for one in snapshots)
            files = [directory.path / name for name in _JOURNAL_FILES]
            size = sum(file.stat().st_size for file in files if file.exists())
            yield "journal_bytes", "Bytes of the journal's files.", size
            yield "data_free_bytes", "Bytes free where the data directory is.", disk_usage(directory.path).free

    def _crosstalk(self) -> Iterator[tuple[tuple[str, str], float]]:
        for layer in layer_crosstalk(self._writer.store.tasks.all()):
            yield (layer.name, "measured"), layer.crosstalk_measured
            yield (layer.name, "predicted"), layer.crosstalk_predicted

    def _device(self) -> Iterator[tuple[tuple[str], float]]:
        device = self._writer.store.device
        if device.type == "cuda":
            yield ("allocated",), torch.cuda.memory_allocated(device)
            yield ("reserved",), torch.cuda.memory_reserved(device)
            yield from zip((("free",), ("total",)), torch.cuda.mem_get_info(device), strict=True)
