"""From a configuration to the network of a store."""

from __future__ import annotations

import importlib
from typing import Any, TypeAlias

import torch
from torch import nn

from superposed.config import ConvNetConfig, MLPConfig, ModuleConfig, NetworkConfig, ResNetConfig
from superposed.contexts import Family
from superposed.errors import ConfigError
from superposed.layers import SuperposedModule, superpose
from superposed.networks.convnet import convnet, resnet18
from superposed.networks.mlp import MLP

__all__ = ["Network", "build"]

Network: TypeAlias = MLP | SuperposedModule


def build(config: NetworkConfig, family: Family[Any], seed: int | None, dtype: torch.dtype) -> Network:
    """The network of a configuration, with initial weights.

    Args:
        config: Which network.
        family: The context family.
        seed: Of the initial weights; None where they are loaded afterwards.
        dtype: Of the weights.

    Raises:
        ConfigError: It cannot be built, or not in this family.
    """
    if isinstance(config, MLPConfig):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return MLP(config, family, generator=generator, dtype=dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else seed % 2**63)
        module = _plain(config).to(dtype)
    return superpose(module, family, config.input_shape)


def _plain(config: ConvNetConfig | ResNetConfig | ModuleConfig) -> nn.Module:
    if isinstance(config, ConvNetConfig):
        return convnet(config)
    if isinstance(config, ResNetConfig):
        return resnet18(config)
    return _imported(config)


def _imported(config: ModuleConfig) -> nn.Module:
    package, _, name = config.factory.partition(":")
    try:
        module = getattr(importlib.import_module(package), name)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise ConfigError(
            "the network's factory cannot be called",
            expected="package:function, which takes nothing and returns a torch.nn.Module",
            received=f"{config.factory}: {error}",
        ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            "the factory made no network", expected="a torch.nn.Module", received=type(module).__name__
        )
    with torch.no_grad():
        answer = module(torch.zeros(1, *config.input_shape))
    if tuple(answer.shape) != (1, config.outputs):
        raise ConfigError(
            "the network does not answer as configured",
            expected=f"(rows, {config.outputs}) for rows of {config.input_shape}",
            received=tuple(answer.shape),
        )
    return module
