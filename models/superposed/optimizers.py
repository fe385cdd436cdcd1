"""The optimizers that move a store's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from superposed.config import OptimizerConfig

__all__ = ["make_optimizer"]

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimizer over these weights, everything else as torch has it by default."""
    return _OPTIMIZERS[config.name](parameters, lr=config.learning_rate)
