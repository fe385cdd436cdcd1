"""A store that rehearses."""

from __future__ import annotations

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig
from superposed.config import RehearsalConfig

__all__ = ["CONFIG"]


CONFIG = plain_config(
    network=MLPConfig(inputs=6, hidden=(24,), outputs=3),
    optimizer=OptimizerConfig(name="adam", learning_rate=3e-3),
    rehearsal=RehearsalConfig(rows_per_task=100),
)
