"""From a configuration to the network of a store."""

import importlib
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from superposed.config import ConvNetConfig, MLPConfig, ModuleConfig, NetworkConfig, ResNetConfig
from superposed.contexts import Family
from superposed.errors import ConfigError
from superposed.nn.convnet import convnet, resnet18
from superposed.nn.layers import FORWARD_ERRORS, SuperposedModule
from superposed.nn.mlp import MLP

Network: TypeAlias = MLP | SuperposedModule


def build(
    config: NetworkConfig, family: Family[Any], seed: int, dtype: torch.dtype, *, initialized: bool = True
) -> Network:
    """Return the network of a configuration, with initial weights.

    Whatever a module draws besides its weights is drawn again from the seed wherever its store is loaded, so
    buffers are not saved: a new store's must come out the same twice. Without `initialized` the weights are
    loaded afterwards.

    Raises:
        ConfigError: It cannot be built, or not in this family.
    """
    if isinstance(config, MLPConfig):
        generator = torch.Generator().manual_seed(seed) if initialized else None
        return MLP(config, family, generator=generator, dtype=dtype)
    module = plain_network(config, seed)
    if initialized and any(True for _ in module.buffers()):
        _check_buffers(module, plain_network(config, seed))
    last = config.output_layer if isinstance(config, ModuleConfig) else len(list(module.children())) - 1
    expansions = {str(last): config.expansion} if config.expansion > 1 else {}
    return SuperposedModule(module.to(dtype), family, config.input_shape, expansions)


def plain_network(config: Any, seed: int = 0) -> nn.Module:
    """Return a network other than an mlp as an ordinary module, with weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        if isinstance(config, ConvNetConfig):
            return convnet(config)
        if isinstance(config, ResNetConfig):
            return resnet18(config)
        return _imported(config)


def _check_buffers(module: nn.Module, again: nn.Module) -> None:
    """Refuse a module whose buffers could not be made again."""
    others = dict(again.named_buffers())
    for name, buffer in module.named_buffers():
        if name not in others or not torch.equal(buffer, others[name]):
            problem = "the network's factory makes other buffers each time, and they are not saved"
            expected = "buffers that follow from torch.manual_seed, or parameters"
            raise ConfigError(problem, expected=expected, received=name)


def _imported(config: ModuleConfig) -> nn.Module:
    package, _, name = config.factory.partition(":")
    try:
        module = getattr(importlib.import_module(package), name)()
    except (ImportError, *FORWARD_ERRORS) as error:
        expected = "package:function, which takes nothing and returns a torch.nn.Module"
        received = f"{config.factory}: {error}"
        raise ConfigError("the network's factory cannot be called", expected=expected, received=received) from error
    if not isinstance(module, nn.Module):
        raise ConfigError("the factory made no network", expected="a torch.nn.Module", received=type(module).__name__)
    _check_answers(module.eval(), config)
    return module


def _check_answers(module: nn.Module, config: ModuleConfig) -> None:
    """Refuse a network whose answers have another shape than configured, or differ from time to time."""
    expected = f"(rows, {config.outputs}) for rows of {config.input_shape}"
    rows = torch.randn(1, *config.input_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            first, second = module(rows), module(rows)
    except FORWARD_ERRORS as error:
        raise ConfigError("the network does not answer such rows", expected=expected, received=str(error)) from error
    if not isinstance(first, Tensor) or tuple(first.shape) != (1, config.outputs):
        received = tuple(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise ConfigError("the network does not answer as configured", expected=expected, received=received)
    if not torch.equal(first, second):
        problem = "the network answers the same row differently each time"
        raise ConfigError(problem, expected="answers that follow from the row and the weights", received=config.factory)
