"""Calibration: one temperature a task, so that its probabilities are what they say."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Curvature that speaks for a temperature of 1, and the most that is remembered: the pace of a drift.
_PRIOR_CURVATURE, _MOST_CURVATURE = 20.0, 50.0
_MOST_LOG = 3.0
# Rows learned again after which little is left of what was measured.
_AGE = 500.0
# Rows that are remembered, and the number of their hashes.
_MOST_SEEN, _HASHES = 512, 2**32
# Numbers of a row that its hash is made of.
_HASHED = 64


def row_hashes(rows: NDArray[Any]) -> NDArray[np.uint32]:
    """Return a hash (B,) of some numbers of each row (B, n), the same wherever the row comes again."""
    few = rows[:, :: max(1, rows.shape[1] // _HASHED)]
    words = np.ascontiguousarray(few, dtype=np.float32).view(np.uint32).astype(np.uint64)
    factors = np.arange(1, words.shape[1] + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) | np.uint64(1)
    mixed = (words * factors).sum(1, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    hashes: NDArray[np.uint32] = (mixed >> np.uint64(32)).astype(np.uint32)
    return hashes


@dataclass
class Calibration:
    """Temperature of a task's probabilities: its logits are divided by it.

    It follows what the task answers to rows before it learns them, by Newton steps on the log of the temperature. A row
    that comes again says nothing, as it was learned; learning it changes the model, and what was measured ages. Which
    rows came before is known of a sample of them, those with the smallest hashes; only those count.

    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017; Gibbons,
    "Distinct sampling for highly-accurate answers to distinct values queries", VLDB 2001.

    Args:
        log_temperature: 0 for logits as they are.
        curvature: Of the loss in it, summed over the stream.
        limit: Rows with smaller hashes count.
        seen: (n,) float64, the hashes of those that came.
    """

    log_temperature: float = 0.0
    curvature: float = 0.0
    limit: int = _HASHES
    seen: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def temperature(self) -> float:
        """The divisor of logits."""
        return float(np.exp(self.log_temperature))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, which `seen` completes."""
        return {"log_temperature": self.log_temperature, "curvature": self.curvature, "limit": self.limit}

    def learn(self, logits: NDArray[np.float64], classes: NDArray[np.int64], hashes: NDArray[np.uint32]) -> None:
        """Follow answers (B, outputs) that were given before their classes (B,) were learned."""
        counted = np.flatnonzero(hashes < self.limit)
        few = hashes[counted].astype(np.float64)
        known = np.append(self.seen, np.inf)[np.searchsorted(self.seen, few)] == few
        # Lean back to a temperature of 1: rows that come again change the model that was measured.
        repeated = int(known.sum()) * _HASHES / self.limit
        kept = float(np.exp(-repeated / _AGE))
        self.log_temperature, self.curvature = self.log_temperature * kept, self.curvature * kept
        fresh, first = np.unique(few[~known], return_index=True)
        if not len(fresh):
            return
        new = counted[~known][first]
        self.seen = np.sort(np.concatenate([self.seen, fresh]))
        while len(self.seen) > _MOST_SEEN:
            self.limit //= 2
            self.seen = self.seen[self.seen < self.limit]
        self._step(logits[new], classes[new])

    def _step(self, logits: NDArray[np.float64], classes: NDArray[np.int64]) -> None:
        scaled = logits / self.temperature
        shares = np.exp(scaled - scaled.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        expected = (shares * scaled).sum(1)  # (B,)
        slope = float((scaled[np.arange(len(classes)), classes] - expected).sum())
        curvature = float((shares * np.square(scaled - expected[:, None])).sum())
        if not np.isfinite(slope + curvature):
            return
        self.curvature = min(self.curvature + curvature, _MOST_CURVATURE)
        step = np.clip(slope / (self.curvature + _PRIOR_CURVATURE), -0.5, 0.5)
        self.log_temperature = float(np.clip(self.log_temperature - step, -_MOST_LOG, _MOST_LOG))
