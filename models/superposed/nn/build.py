"""From a configuration to the network of a store; ordinary convolutional ones among them, ready to be superposed."""

import importlib
from itertools import pairwise
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superposed.config import ConvNetConfig, MLPConfig, ModuleConfig, NetworkConfig, ResNetConfig
from superposed.contexts import Family
from superposed.errors import ConfigError
from superposed.nn.layers import FORWARD_ERRORS, SuperposedModule
from superposed.nn.mlp import MLP

_GROUPS = 8


def convnet(config: ConvNetConfig) -> nn.Module:
    """Build convolutions of 3 x 3 with stride 2, then linear layers; none uses batch statistics."""
    channels, height, width = config.input_shape
    layers: list[nn.Module] = []
    for before, after in pairwise((channels, *config.channels)):
        height, width = (height + 1) // 2, (width + 1) // 2
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU(), _normalise(after)]
    sizes = (height * width * (config.channels[-1] if config.channels else channels), *config.hidden)
    layers.append(nn.Flatten())
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.LayerNorm(after, elementwise_affine=False)]
    layers.append(nn.Linear(sizes[-1], config.outputs))
    return nn.Sequential(*layers)


def _normalise(channels: int) -> nn.Module:
    groups = _GROUPS if channels % _GROUPS == 0 else 1
    return nn.GroupNorm(groups, channels, affine=False)


class _Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.second = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm = _normalise(after)
        plain = stride == 1 and before == after
        self.shortcut = nn.Identity() if plain else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, before, H, W) to (B, after, H', W')."""
        inner = F.relu(self.norm(self.first(x)))
        answer: Tensor = F.relu(self.norm(self.second(inner)) + self.shortcut(x))
        return answer


def resnet18(config: ResNetConfig) -> nn.Module:
    """Build ResNet-18 for small images (a first convolution of 3 x 3, no pooling), with group normalisation.

    Source: He et al. 2016, table 1; Wu and He 2018 for the normalisation, which needs no batch statistics.
    """
    widths = tuple(config.width * factor for factor in (1, 2, 4, 8))
    first = nn.Conv2d(config.input_shape[0], widths[0], 3, padding=1, bias=False)
    layers: list[nn.Module] = [first, _normalise(widths[0]), nn.ReLU()]
    before = widths[0]
    for place, after in enumerate(widths):
        layers += [_Block(before, after, 1 if place == 0 else 2), _Block(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, config.outputs))


Network: TypeAlias = MLP | SuperposedModule


def build(
    config: NetworkConfig, family: Family[Any], seed: int, dtype: torch.dtype, *, initialized: bool = True
) -> Network:
    """Return the network of a configuration, with initial weights.

    Whatever a module draws besides its weights is drawn again from the seed wherever its store is loaded, so buffers
    are not saved: a new store's must come out the same twice. Without `initialized` the weights are loaded afterwards.
    Raise `ConfigError` where it cannot be built, or not in this family.
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
        expected = "package:function, installed or in the working directory, which returns a torch.nn.Module"
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
