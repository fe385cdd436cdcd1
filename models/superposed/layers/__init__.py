"""Layers that bind their input with a context."""

from superposed.layers.linear import SuperposedLinear

__all__ = ["SuperposedLinear"]
