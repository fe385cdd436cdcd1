"""Layers that bind."""

from superposed.nn.layers.conv import SuperposedConv2d
from superposed.nn.layers.linear import SuperposedLinear
from superposed.nn.layers.wrap import FORWARD_ERRORS, SuperposedModule

__all__ = ["FORWARD_ERRORS", "SuperposedConv2d", "SuperposedLinear", "SuperposedModule"]
