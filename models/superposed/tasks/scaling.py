"""Scaling: rows and targets in standard units, by fixed numbers or by the running statistics of a task.

Running statistics are state that learns: an update reads and moves them when it is applied, and nothing else
does. The number of updates that are prepared together therefore changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from superposed.tasks import row_kernels

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
    """Transformation of the first features of a row: `(x - offset) / scale`, by (n,) float64 numbers each.

    `clip` is the largest absolute value of the result; None for any.
    """

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]
    clip: float | None

    def apply(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return rows (B, width) with their first n features scaled; a missing one (NaN) becomes 0."""
        index = np.zeros(len(rows), dtype=np.int64)
        return _scaled(rows, index, self.offset[None], self.scale[None], self.clip)

    def bounded(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return rows (B, width) with means for missing numbers, cut off where scaled rows are."""
        count, bounded = min(len(self.offset), rows.shape[1]), np.empty_like(rows)
        row_kernels.bound(rows, self.offset[:count], self.scale[:count], self.clip or np.inf, bounded)
        return bounded


def _scaled(
    rows: NDArray[Any],
    index: NDArray[np.int64],
    offsets: NDArray[np.float64],
    scales: NDArray[np.float64],
    clip: float | None,
) -> NDArray[np.float64]:
    """Return rows (B, width) with their first n features scaled, each by its place in (K, n) numbers."""
    values = np.ascontiguousarray(rows, dtype=np.float64)
    count, scaled = min(offsets.shape[1], values.shape[1]), np.empty(values.shape)
    limit = np.inf if clip is None else clip
    row_kernels.scale(values, index, offsets[:, :count], scales[:, :count], limit, scaled)
    return scaled


def scaled_each(scalings: Sequence[Scaling | None], index: NDArray[np.int64], values: NDArray[Any]) -> NDArray[Any]:
    """Return rows (B, features), each scaled by that of its place (B,) in `index`; None for rows as they are."""
    first, features = scalings[0], values.shape[1]
    if all(one is first for one in scalings):
        return values if first is None else first.apply(values)
    alike = [one for one in scalings if one is not None and len(one.offset) >= features]
    if len(alike) == len(scalings) and len({one.clip for one in alike}) == 1:
        offsets, scales = (np.stack([getattr(one, name)[:features] for one in alike]) for name in ("offset", "scale"))
        return _scaled(values, index, offsets, scales, alike[0].clip)
    scaled = values.astype(np.float64)
    for place, one in enumerate(scalings):
        if one is not None:
            rows = index == place
            scaled[rows] = one.apply(values[rows])
    return scaled


class RunningStatistics:
    """Mean and variance of each feature over a stream, of which old rows fade slowly.

    Once there are 64 rows, an outlier counts as if it lay 10 standard deviations from the mean. `values` are (3, n)
    float64: weight in rows, mean, and sum of squared differences of each feature.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm", 1979.
    """

    def __init__(self, values: NDArray[np.float64] | None = None) -> None:
        self.values = np.zeros((3, 0)) if values is None else values
        self._scaling: Scaling | None = None

    def copy(self) -> "RunningStatistics":
        """Return the same statistics, apart from these."""
        return RunningStatistics(self.values.copy())

    def absorb(self, rows: NDArray[np.float64]) -> None:
        """Take in rows (B, n); missing numbers (NaN) do not count."""
        count = rows.shape[1]
        if count > self.values.shape[1]:
            self.values = np.concatenate([self.values, np.zeros((3, count - self.values.shape[1]))], axis=1)
        row_kernels.absorb(np.ascontiguousarray(rows), self.values, float(_SETTLED), CLIP, float(WINDOW))
        self._scaling = None

    def scaling(self, clip: float | None) -> Scaling:
        """Return the scaling to mean 0 and variance 1; a feature that did not vary is only centred."""
        if self._scaling is None or self._scaling.clip != clip:
            weight, mean, squares = self.values
            spread = np.sqrt(squares / np.maximum(weight, 1.0))
            varies = spread > np.maximum(_NO_SPREAD * np.abs(mean), np.finfo(np.float64).tiny)
            self._scaling = Scaling(mean.copy(), np.where(varies, spread, 1.0), clip)
        return self._scaling
