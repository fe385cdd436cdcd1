"""Scaling: rows and targets in standard units, by fixed numbers or by the running statistics of a task.

Running statistics are state that learns: an update reads and moves them when it is applied, and nothing else
does. The number of updates that are prepared together therefore changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Standard deviations from the mean at which a scaled feature is cut off.
CLIP = 10.0
# Rows after which older ones fade: the statistics follow a drift at this pace.
WINDOW = 10_000
# Largest target whose size fits float32, where an export folds it into the weights.
LARGEST_TARGET = 1e30
# Rows from which on an outlier counts no more than the clip allows.
_SETTLED = 64
# A spread that is smaller than this share of the mean is rounding, not information.
_NO_SPREAD = 1e-14


@dataclass(frozen=True)
class Scaling:
    """Transformation of the first features of a row: `(x - offset) / scale`, cut off at `clip`.

    Args:
        offset: (n,) float64.
        scale: (n,) float64.
        clip: Largest absolute value of the result; None for any.
    """

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float | None

    def apply(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return rows (B, width) with their first n features scaled; a missing one (NaN) becomes 0."""
        count = min(len(self.offset), rows.shape[1])
        scaled = rows.astype(np.float64)
        _scale(scaled[:, :count], self.offset[:count], self.scale[:count], self.clip)
        return scaled

    def bounded(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows (B, width) with means for missing numbers, cut off where scaled rows are."""
        count, bounded = min(len(self.offset), rows.shape[1]), rows.copy()
        offset, reach = self.offset[:count], (self.clip or np.inf) * self.scale[:count]
        own = np.where(np.isnan(rows[:, :count]), offset, rows[:, :count])
        bounded[:, :count] = np.clip(own, offset - reach, offset + reach)
        return bounded


def _scale(rows: NDArray[Any], offset: NDArray[Any], scale: NDArray[Any], clip: float | None) -> None:
    """Scale rows (B, n) in place."""
    with np.errstate(over="ignore"):  # what is too large is found by the caller, or cut off
        rows -= offset
        rows /= scale
    if clip is not None:
        np.clip(rows, -clip, clip, out=rows)
        if _has_missing(rows):
            rows[np.isnan(rows)] = 0.0


def _has_missing(rows: NDArray[np.float64]) -> bool:
    """Return True if a number is NaN, in one pass."""
    with np.errstate(all="ignore"):
        return bool(np.isnan(rows.sum()))


def scaled_each(
    scalings: Sequence[Scaling | None], index: NDArray[np.int64], values: NDArray[Any]
) -> NDArray[Any]:
    """Return rows (B, features), each scaled by one of several scalings.

    Args:
        scalings: K scalings; None for rows as they are.
        index: (B,) each row's place among them.
        values: (B, features).
    """
    first, features = scalings[0], values.shape[1]
    if all(one is first for one in scalings):
        return values if first is None else first.apply(values)
    scaled = values.astype(np.float64)
    alike = [one for one in scalings if one is not None and len(one.offset) >= features]
    if len(alike) == len(scalings) and len({one.clip for one in alike}) == 1:
        numbers = np.stack([(one.offset[:features], one.scale[:features]) for one in alike], axis=1)
        offset, scale = numbers if len(values) == len(alike) else numbers[:, index]  # (B, features) each
        _scale(scaled, offset, scale, alike[0].clip)
        return scaled
    for place, one in enumerate(scalings):
        if one is not None:
            rows = index == place
            scaled[rows] = one.apply(values[rows])
    return scaled


def fixed_scaling(offset: Sequence[float] | None, scale: Sequence[float] | None) -> Scaling | None:
    """Return the scaling by given numbers; None where there are none."""
    if offset is None and scale is None:
        return None
    count = len(offset or scale or ())
    return Scaling(np.asarray(offset or [0.0] * count), np.asarray(scale or [1.0] * count), None)


class RunningStatistics:
    """Mean and variance of each feature over a stream, of which old rows fade slowly.

    Once there are 64 rows, an outlier counts as if it lay 10 standard deviations from the mean.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979.

    Attributes:
        values: (3, n) float64: weight in rows, mean, and sum of squared differences of each feature.
    """

    def __init__(self, values: NDArray[np.float64] | None = None) -> None:
        self.values = np.zeros((3, 0)) if values is None else values
        self._scaling: Scaling | None = None

    def copy(self) -> RunningStatistics:
        """Return the same statistics, apart from these."""
        return RunningStatistics(self.values.copy())

    def absorb(self, rows: NDArray[np.float64]) -> None:
        """Take in rows (B, n); missing numbers (NaN) do not count."""
        count = rows.shape[1]
        if count > self.values.shape[1]:
            self.values = np.concatenate([self.values, np.zeros((3, count - self.values.shape[1]))], axis=1)
        weight, mean, squares = (part[:count] for part in self.values)
        present = ~np.isnan(rows) if _has_missing(rows) else None
        added = np.full(count, float(len(rows))) if present is None else present.sum(0, dtype=np.float64)
        settled = (weight >= _SETTLED) & (squares > 0)
        if settled.any():
            reach = np.where(settled, CLIP * np.sqrt(squares / np.maximum(weight, 1.0)), np.inf)
            rows = np.clip(rows, mean - reach, mean + reach)
        batch_mean = (rows if present is None else np.where(present, rows, 0.0)).sum(0) / np.maximum(
            added, 1.0
        )
        centred = rows - batch_mean
        if present is not None:
            centred[~present] = 0.0
        batch_squares = np.einsum("ij,ij->j", centred, centred)
        kept = np.minimum(weight, np.maximum(WINDOW - added, 0.0))
        squares *= kept / np.maximum(weight, 1.0)
        total = np.maximum(kept + added, 1.0)
        distance = batch_mean - mean
        squares += np.where(added > 0, batch_squares + np.square(distance) * kept * added / total, 0.0)
        mean += np.where(added > 0, distance * added / total, 0.0)
        weight[:] = kept + added
        self._scaling = None

    def scaling(self, clip: float | None) -> Scaling:
        """Return the scaling to mean 0 and variance 1; a feature that did not vary is only centred."""
        if self._scaling is None or self._scaling.clip != clip:
            weight, mean, squares = self.values
            spread = np.sqrt(squares / np.maximum(weight, 1.0))
            varies = spread > np.maximum(_NO_SPREAD * np.abs(mean), np.finfo(np.float64).tiny)
            self._scaling = Scaling(mean.copy(), np.where(varies, spread, 1.0), clip)
        return self._scaling
