"""A store that one harmful stream can ruin."""

from __future__ import annotations

from experiments.plain import plain_config
from superposed import MLPConfig, OptimizerConfig

__all__ = ["CONFIG"]


# Plain gradient descent without normalisation: here large rows really hurt the others.
CONFIG = plain_config(
    network=MLPConfig(inputs=64, hidden=(48,), outputs=10, normalisation="none"),
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.02),
)
