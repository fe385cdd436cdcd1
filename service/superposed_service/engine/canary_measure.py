"""Canary rows: sampled from a task's stream, and measured later to see how the task fares."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from superposed.store.losses import row_losses
from superposed.store.store import WeightStore
from superposed.tasks.schema import TaskSchema
from superposed.tasks.targets import Targets, scaled_targets, targets_of_arrays
from superposed_service.changes.rows import pack, unpack
from superposed_service.changes.update import PreparedUpdate
from superposed_service.storage import Canary, Record

# Floors of an mse task's variance: a tenth in the network's own units, and a tenth of the targets' size.
_SPREAD, _RELATIVE_SPREAD = 0.01, 0.01


def sample(
    update: PreparedUpdate, key: str, record: Record, seen: int, free: Sequence[int], most: int
) -> Iterator[tuple[int, Canary]]:
    """Sample the rows of an applied update to keep: uniform over a task's whole stream.

    `seen` rows of the task came before. Of its `most` places those in `free` are empty. The record's sequence
    number seeds the choice. Yield the place that a row takes, and the row.

    Source: reservoir sampling, Vitter 1985, algorithm R.
    """
    places, author = update.places_of(key), record.head.get("author") or ""
    taken = min(len(free), len(places))
    before = seen + np.arange(taken, len(places))  # rows of the task before each of the others
    drawn = np.random.default_rng(record.sequence).integers(0, before + 1)
    kept = np.flatnonzero(drawn < most)
    for place, slot in [*enumerate(free[:taken]), *zip((taken + kept).tolist(), drawn[kept].tolist(), strict=True)]:
        row, target = update.row(places[place])
        form = "record" if update.rows.are_records else "inputs"
        yield slot, Canary(record.sequence, pack({form: row, "target": target}), author)


def measure(store: WeightStore, canaries: Mapping[str, Sequence[Canary]]) -> dict[str, float]:
    """Measure how badly each task answers its canaries: 0 for right, 1 for no better than chance.

    It is a mean over rows. A cross-entropy row counts the probability left to other classes, over that of a uniform
    answer. An mse row counts the squared error over the spread of the task's targets, which has a floor. No row counts
    more than 1. Raise `SuperposedError` where a row does not fit its task.
    """
    names = [key for key, rows in canaries.items() for _ in rows]
    if not names:
        return {}
    arrays = [unpack(canary.payload) for rows in canaries.values() for canary in rows]
    batch = store.batch_per_row(names, [row_of(one) for one in arrays])
    targets = [one["target"] for one in arrays]
    aims = scaled_targets(batch, targets_of_arrays(batch, targets, store.config.network.outputs))
    losses = row_losses(store.logits(batch), batch.outputs(), aims).losses.double().tolist()
    own: dict[str, list[float]] = defaultdict(list)
    spreads = {key: _spread_of(store.tasks.get(key).schema, names, aims) for key in canaries}
    for name, loss in zip(names, losses, strict=True):
        own[name].append(_badness(loss, spreads[name], store.tasks.get(name).schema.outputs))
    return {key: float(np.mean(values)) for key, values in own.items()}


def row_of(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the row of a canary, numbers or a record."""
    return arrays["inputs"] if "inputs" in arrays else orjson.loads(arrays["record"].tobytes())


def _spread_of(schema: TaskSchema, names: Sequence[str], aims: Targets) -> float | None:
    """Return the variance of an mse task's targets in the network's units, with floors; None for other tasks."""
    if schema.loss != "mse" or aims.values is None:
        return None
    rows = [row for row, name in enumerate(names) if name == schema.key]
    targets = aims.values[rows, : schema.outputs].double().numpy()
    return max(float(np.var(targets)), _SPREAD, _RELATIVE_SPREAD * float(np.mean(np.square(targets))))


def _badness(loss: float, spread: float | None, outputs: int) -> float:
    if not math.isfinite(loss):
        return 1.0
    if spread is not None:
        return min(1.0, loss / spread)
    chance = 1.0 - 1.0 / outputs
    return min(1.0, (1.0 - math.exp(-loss)) / chance) if chance else 0.0
