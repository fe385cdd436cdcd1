"""Arithmetic on rows of float64 numbers, each in one pass while they are in the cache."""

from typing import Any

import numpy as np

from superposed.nn.compiled import compiled


@compiled()
def absorb(rows: Any, values: Any, settled: float, clip: float, window: float) -> None:
    """Move running statistics (3, n) in place by rows (B, n); see `RunningStatistics`.

    Args:
        rows: A missing number is NaN.
        values: Weight in rows, mean, and sum of squared differences of each feature.
        settled: Weight from which on an outlier is cut off.
        clip: Where, in standard deviations.
        window: Largest weight.
    """
    count = rows.shape[1]
    low, high = np.full(count, -np.inf), np.full(count, np.inf)
    for j in range(count):
        if values[0, j] >= settled and values[2, j] > 0.0:
            reach = clip * np.sqrt(values[2, j] / max(values[0, j], 1.0))
            low[j], high[j] = values[1, j] - reach, values[1, j] + reach
    added, mean, squares = np.zeros(count), np.zeros(count), np.zeros(count)
    for number in range(len(rows)):
        row = rows[number]
        for j in range(count):
            added[j] += 1.0 if row[j] == row[j] else 0.0  # not NaN
            mean[j] += _cut(row[j], low[j], high[j], 0.0)
    mean /= np.maximum(added, 1.0)
    for number in range(len(rows)):
        row = rows[number]
        for j in range(count):
            distance = _cut(row[j], low[j], high[j], mean[j]) - mean[j]
            squares[j] += distance * distance
    _merge(values, added, mean, squares, window)


@compiled()
def _merge(values: Any, added: Any, mean: Any, squares: Any, window: float) -> None:
    """Merge statistics of new rows, (n,) each, into running ones (Chan, Golub, LeVeque 1979)."""
    for j in range(len(added)):
        kept = min(values[0, j], max(window - added[j], 0.0))
        total, distance = max(kept + added[j], 1.0), mean[j] - values[1, j]
        values[2, j] *= kept / max(values[0, j], 1.0)
        values[0, j] = kept + added[j]
        if added[j] > 0.0:
            values[2, j] += squares[j] + distance * distance * kept * added[j] / total
            values[1, j] += distance * added[j] / total


@compiled()
def _cut(x: float, low: float, high: float, missing: float) -> float:
    """Return a number cut off at both ends; another where it is NaN."""
    cut = low if x < low else high if x > high else x
    return cut if x == x else missing


@compiled()
def scale(rows: Any, index: Any, offsets: Any, scales: Any, clip: float, out: Any) -> None:
    """Write rows (B, n) to `out` in standard units: `(x - offset) / scale`, cut off at `clip`; NaN becomes 0.

    Args:
        rows: The numbers.
        index: (B,) int64, each row's place in `offsets` and `scales`.
        offsets: (K, m), of the first m features; further ones are copied.
        scales: (K, m).
        clip: Largest absolute value; infinity for any, and then NaN stays.
        out: (B, n).
    """
    for number in range(len(rows)):
        row, own = rows[number], out[number]
        offset, size = offsets[index[number]], scales[index[number]]
        for j in range(len(offset)):
            x = (row[j] - offset[j]) / size[j]
            own[j] = x if clip == np.inf else _cut(x, -clip, clip, 0.0)
        for j in range(len(offset), len(row)):
            own[j] = row[j]


@compiled()
def bound(rows: Any, offset: Any, size: Any, clip: float, out: Any) -> None:
    """Write rows (B, n) to `out`, cut off `clip` scales from the offset (m,); NaN becomes the offset."""
    for number in range(len(rows)):
        row, own = rows[number], out[number]
        for j in range(len(offset)):
            reach = clip * size[j]
            own[j] = _cut(row[j], offset[j] - reach, offset[j] + reach, offset[j])
        for j in range(len(offset), len(row)):
            own[j] = row[j]


@compiled()
def to_levels(rows: Any, low: Any, high: Any, levels: int, out: Any) -> None:
    """Write numbers (B, n) to `out` as whole numbers up to `levels`, between the ends (n,) of ranges."""
    for j in range(rows.shape[1]):
        step = (high[j] - low[j]) / levels
        step = step if step > 0.0 else 1.0
        for number in range(len(rows)):
            place = np.rint((rows[number, j] - low[j]) / step)
            out[number, j] = np.uint8(max(0.0, min(place, float(levels))))


@compiled()
def from_levels(numbers: Any, index: Any, lows: Any, highs: Any, levels: int, out: Any) -> None:
    """Write the inverse of `to_levels`, to rounding, each row (B,) in the range (K, n) of its place."""
    for number in range(len(numbers)):
        row, own = numbers[number], out[number]
        low, high = lows[index[number]], highs[index[number]]
        for j in range(len(row)):
            own[j] = low[j] + row[j] * ((high[j] - low[j]) / levels)
