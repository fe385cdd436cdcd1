"""Layers that bind."""

from superposed.layers.conv import SuperposedConv2d
from superposed.layers.linear import SuperposedLinear
from superposed.layers.wrap import FORWARD_ERRORS, SuperposedModule, superpose

__all__ = ["FORWARD_ERRORS", "SuperposedConv2d", "SuperposedLinear", "SuperposedModule", "superpose"]
