"""The optimizers that move a store's weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from superposed.config import OptimizerConfig

__all__ = ["make_optimizer"]


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimizer over these weights, everything else as torch has it by default."""
    match config.name:
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters, lr=config.learning_rate, alpha=config.decay, eps=config.epsilon
            )
        case "adam":
            return torch.optim.Adam(parameters, lr=config.learning_rate)
        case "sgd":
            return torch.optim.SGD(parameters, lr=config.learning_rate)
