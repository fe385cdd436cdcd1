"""Any network, superposed: its linear and convolution layers bind each row's context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from superposed.contexts import Binding, Family
from superposed.errors import ConfigError
from superposed.layers.conv import SuperposedConv2d
from superposed.layers.linear import SuperposedLinear

__all__ = ["SuperposedModule", "superpose"]


class _Bound(nn.Module):
    """Stands where a layer stood in somebody's network, and gives the superposed one its binding."""

    def __init__(
        self, name: str, layer: SuperposedLinear | SuperposedConv2d, owner: SuperposedModule
    ) -> None:
        super().__init__()
        self.name, self.layer = name, layer
        self._owner = (owner,)  # in a tuple: a module would become a child, and its own ancestor

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) as the layer that it stands for."""
        owner = self._owner[0]
        if owner.observe is not None:
            inner = self.layer if isinstance(self.layer, SuperposedLinear) else self.layer.patches
            seen = x if isinstance(self.layer, SuperposedLinear) else self.layer.unfold(x)
            owner.observe(self.name, inner, seen)
        answer: Tensor = self.layer(x, owner.bindings[self.name])
        return answer


class SuperposedModule(nn.Module):
    """A network whose linear and convolution layers were replaced by superposed ones.

    Its other weights (of normalisations, say) are shared by all tasks alike, bound by nothing. Not
    thread-safe: the bindings of a batch are what all its layers look at.

    Args:
        module: The network; changed in place. It takes (B, *input_shape).
        family: A context family of real features.
        input_shape: What the rows of a batch, (B, features), are reshaped to.

    Raises:
        ConfigError: A layer that cannot be superposed, a normalisation over the batch, or nothing to
            superpose.
    """

    def __init__(self, module: nn.Module, family: Family[Any], input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.family = family
        self._input_shape = input_shape
        self.bindings: Mapping[str, Binding] = {}
        self.observe: Any = None
        self._layers: dict[str, SuperposedLinear] = {}
        self.module = module
        self._replace(module, "")
        if not self._layers:
            raise ConfigError("the network has no linear or convolution layer to superpose")

    def _replace(self, parent: nn.Module, prefix: str) -> None:
        for name, child in list(parent.named_children()):
            path = f"{prefix}{name}"
            if isinstance(child, _BatchNorm):
                raise ConfigError(
                    "a prediction would depend on its neighbours in the batch, or on other tasks' statistics",
                    expected="GroupNorm or LayerNorm in place of batch normalisation",
                    received=path,
                )
            layer = _superposed(child, self.family)
            if layer is None:
                self._replace(child, f"{path}.")
                continue
            setattr(parent, name, _Bound(path, layer, self))
            self._layers[path] = layer if isinstance(layer, SuperposedLinear) else layer.patches

    def superposed_layers(self) -> dict[str, SuperposedLinear]:
        """What binds, by the names that contexts are derived from; of a convolution, its patches' product."""
        return dict(self._layers)

    def bound_features(self) -> dict[str, int]:
        """How many features each layer binds (inputs and the constant)."""
        return {name: layer.bound_features for name, layer in self._layers.items()}

    def forward(self, inputs: Tensor, bindings: Mapping[str, Binding], observe: Any = None) -> Tensor:
        """Logits of a batch whose rows may belong to different contexts; arguments as `MLP.forward`."""
        self.bindings, self.observe = bindings, observe
        try:
            answer: Tensor = self.module(inputs.view(len(inputs), *self._input_shape))
            return answer
        finally:
            self.bindings, self.observe = {}, None


def superpose(module: nn.Module, family: Family[Any], input_shape: tuple[int, ...]) -> SuperposedModule:
    """Turns an ordinary network into a superposed one; see `SuperposedModule`.

    Its weights become the initial weights, as drawn ones would be: to have a *trained* network answer under a
    key, it is learned in (`superposed.distillation`).

    Args:
        module: Changed in place.
        family: The context family.
        input_shape: Of one row.

    Example:
        >>> from superposed.contexts import family_named
        >>> net = superpose(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), family_named("phase"), (1, 2, 2))
        >>> sorted(net.bound_features().items())
        [('1', 5)]
    """
    return SuperposedModule(module, family, input_shape)


def _superposed(layer: nn.Module, family: Family[Any]) -> SuperposedLinear | SuperposedConv2d | None:
    """The superposed layer that takes the place of another; None for what is none."""
    if isinstance(layer, nn.Linear):
        linear = SuperposedLinear(layer.in_features, layer.out_features, family, dtype=layer.weight.dtype)
        _start_from(linear, layer.weight, layer.bias)
        return linear
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, family)
    if isinstance(layer, nn.modules.conv._ConvNd | nn.MultiheadAttention | nn.Embedding | nn.RNNBase):
        raise ConfigError(
            "this layer cannot be superposed",
            expected="Linear and Conv2d layers",
            received=type(layer).__name__,
        )
    return None


def _convolution(layer: nn.Conv2d, family: Family[Any]) -> SuperposedConv2d:
    if layer.groups != 1 or layer.dilation != (1, 1) or not isinstance(layer.padding, tuple):
        raise ConfigError(
            "this convolution cannot be superposed",
            expected="groups 1, dilation 1, padding as numbers",
            received=str(layer),
        )
    kernel, stride, padding = (
        (sizes[0], sizes[1]) for sizes in (layer.kernel_size, layer.stride, layer.padding)
    )
    conv = SuperposedConv2d(
        layer.in_channels,
        layer.out_channels,
        kernel,
        family,
        stride=stride,
        padding=padding,
        dtype=layer.weight.dtype,
    )
    _start_from(conv.patches, layer.weight.flatten(1), layer.bias)
    return conv


def _start_from(linear: SuperposedLinear, weight: Tensor, bias: Tensor | None) -> None:
    if linear.family.lanes != 1:
        raise ConfigError(
            "a wrapped network has real features",
            expected="a family on real features (phase, binary, cyclic, rotation)",
            received=linear.family.name,
        )
    with torch.no_grad():
        linear.weight[:, : linear.in_features] = weight
        if bias is not None:
            linear.weight[:, linear.in_features] = bias
