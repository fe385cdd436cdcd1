"""The optimizers that move a store's weights, and the state of weights and optimizer by name."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from superposed.config import OptimizerConfig
from superposed.errors import ConfigError
from superposed.nn.layers import SuperposedLinear

Group = dict[str, Any]


def parameter_groups(config: OptimizerConfig, network: nn.Module) -> list[Group]:
    """Return a network's weights in groups of one learning rate.

    Adam and RMSprop move each weight by about the rate, and an expanded layer of m blocks has m times the weights, each
    with a factor of 1/√m. So its rate is divided by √m: a step then moves its answers as far as another layer's.
    """
    groups: dict[float, Group] = {}
    for module in network.modules():
        blocks = module.family.blocks if isinstance(module, SuperposedLinear) and config.name != "sgd" else 1
        rate = config.learning_rate / math.sqrt(blocks)
        if own := list(module.parameters(recurse=False)):
            groups.setdefault(rate, {"params": [], "lr": rate})["params"] += own
    return list(groups.values())


class Optimizer:
    """The configured optimizer over groups of weights, by torch's functions: its classes would import its compiler.

    With `fused` it updates all weights of a group in one pass. `param_groups` are groups of weights, each with its
    learning rate; `state` the tensors that a step reads and moves, by weight and name, empty before the first step.
    """

    def __init__(self, config: OptimizerConfig, groups: list[Group], *, fused: bool = False) -> None:
        self.param_groups = groups
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._config, self._fused = config, fused

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the weights along their gradients."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._move(weights, [weight.grad for weight in weights], group["lr"])

    def _move(self, weights: list[Tensor], gradients: list[Tensor], rate: float) -> None:
        config, fused = self._config, self._fused or None
        how: dict[str, Any] = {"lr": rate, "weight_decay": 0.0}
        match config.name:
            case "rmsprop":
                squares, steps = self._fields(weights, "square_avg", "step")
                how |= {"alpha": config.decay, "eps": config.epsilon, "momentum": 0.0, "centered": False}
                rmsprop(weights, gradients, squares, [], [], steps, **how)
            case "adam":
                means, squares, steps = self._fields(weights, "exp_avg", "exp_avg_sq", "step")
                how |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
                how |= {"amsgrad": False, "maximize": False, "fused": fused}
                adam(weights, gradients, means, squares, [], steps, **how)
            case "sgd":
                how |= {"momentum": 0.0, "dampening": 0.0, "nesterov": False}
                sgd(weights, gradients, [None] * len(weights), maximize=False, fused=fused, **how)

    def _fields(self, weights: Sequence[Tensor], *names: str) -> list[list[Tensor]]:
        for weight in weights:
            if weight not in self.state:
                self.state[weight] = {
                    name: torch.zeros(()) if name == "step" else torch.zeros_like(weight) for name in names
                }
        return [[self.state[weight][name] for weight in weights] for name in names]


def optimizer_state(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors by the weights' names, sharing memory."""
    return {
        f"optimizer.{name}.{field}": value
        for name, parameter in network.named_parameters()
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def state(network: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return weights and optimizer state by name, sharing memory."""
    weights = {f"network.{name}": value.detach() for name, value in network.named_parameters()}
    return weights | optimizer_state(network, optimizer)


def load_state(network: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore what `state` returned, in place of the optimizer's state; raise `ConfigError` for other weights."""
    optimizer.state.clear()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            saved = tensors.get(f"network.{name}")
            if saved is None or saved.shape != parameter.shape or saved.dtype != parameter.dtype:
                raise ConfigError("the saved weights do not fit the saved configuration", received=name)
            parameter.copy_(saved)
            prefix = f"optimizer.{name}."
            fields = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if fields:
                # `step` counters stay on the CPU, as torch.optim keeps them
                optimizer.state[parameter] = {
                    field: value.clone() if field == "step" else value.to(parameter.device, copy=True)
                    for field, value in fields.items()
                }
