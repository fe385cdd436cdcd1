"""Layers that bind."""

from superposed.layers.conv import SuperposedConv2d
from superposed.layers.linear import SuperposedLinear
from superposed.layers.wrap import SuperposedModule, superpose

__all__ = ["SuperposedConv2d", "SuperposedLinear", "SuperposedModule", "superpose"]
