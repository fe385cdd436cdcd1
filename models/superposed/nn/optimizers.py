"""The optimizers that move a store's weights, and the state of weights and optimizer by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from superposed.config import OptimizerConfig
from superposed.errors import ConfigError
from superposed.nn.layers import SuperposedLinear

Group = dict[str, Any]


def parameter_groups(config: OptimizerConfig, network: nn.Module) -> list[Group]:
    """Return a network's weights in groups of one learning rate.

    Adam and RMSprop move each weight by about the rate, and an expanded layer of m blocks has m times the
    weights, each with a factor of 1/√m. So its rate is divided by √m: a step then moves its answers as far
    as another layer's.
    """
    groups: dict[float, Group] = {}
    for module in network.modules():
        blocks = module.family.blocks if isinstance(module, SuperposedLinear) and config.name != "sgd" else 1
        rate = config.learning_rate / math.sqrt(blocks)
        if own := list(module.parameters(recurse=False)):
            groups.setdefault(rate, {"params": [], "lr": rate})["params"] += own
    return list(groups.values())


def make_optimizer(
    config: OptimizerConfig, parameters: Iterable[nn.Parameter] | Iterable[Group]
) -> torch.optim.Optimizer:
    """Return the configured optimizer over these weights, everything else as torch has it by default."""
    match config.name:
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters, lr=config.learning_rate, alpha=config.decay, eps=config.epsilon
            )
        case "adam":
            return torch.optim.Adam(parameters, lr=config.learning_rate)
        case "sgd":
            return torch.optim.SGD(parameters, lr=config.learning_rate)


def optimizer_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors by the weights' names, sharing memory."""
    return {
        f"optimizer.{name}.{field}": value
        for name, parameter in network.named_parameters()
        for field, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return weights and optimizer state by name, sharing memory."""
    weights = {f"network.{name}": value.detach() for name, value in network.named_parameters()}
    return weights | optimizer_state(network, optimizer)


def load_state(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `state` returned; the optimizer's former state is lost.

    Raises:
        ConfigError: Other weights than the network's.
    """
    optimizer.state.clear()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            saved = tensors.get(f"network.{name}")
            if saved is None or saved.shape != parameter.shape or saved.dtype != parameter.dtype:
                raise ConfigError("the saved weights do not fit the saved configuration", received=name)
            parameter.copy_(saved)
            prefix = f"optimizer.{name}."
            fields = {
                key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
            }
            if fields:
                # `step` counters stay on the CPU, as torch.optim keeps them
                optimizer.state[parameter] = {
                    field: value.clone() if field == "step" else value.to(parameter.device, copy=True)
                    for field, value in fields.items()
                }
