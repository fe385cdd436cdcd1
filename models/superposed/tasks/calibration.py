"""Calibration: one temperature a task, so that its probabilities are what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration"]

# Curvature that speaks for a temperature of 1, and the most that is remembered: the pace of a drift.
_PRIOR_CURVATURE, _MOST_CURVATURE = 20.0, 1000.0
_MOST_LOG = 3.0


@dataclass
class Calibration:
    """Temperature of a task's probabilities: its logits are divided by it.

    It follows what the task answers to rows before it learns them, by Newton steps on the log of the
    temperature.

    Source: Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", ICML 2017.

    Args:
        log_temperature: 0 for logits as they are.
        curvature: Of the loss in it, summed over the stream.
    """

    log_temperature: float = 0.0
    curvature: float = 0.0

    @property
    def temperature(self) -> float:
        """The divisor of logits."""
        return float(np.exp(self.log_temperature))

    def learn(self, logits: NDArray[np.float64], classes: NDArray[np.int64]) -> None:
        """Follow answers (B, outputs) that were given before their classes (B,) were learned."""
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
