"""Ordinary convolutional networks, ready to be superposed: a small one, and ResNet-18."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from superposed.config import ConvNetConfig, ResNetConfig

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
