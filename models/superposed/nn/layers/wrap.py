"""Any network, superposed: its linear and convolution layers bind each row's context."""

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from superposed.contexts import Binding, Family, expanded
from superposed.errors import ConfigError
from superposed.nn.layers.conv import SuperposedConv2d
from superposed.nn.layers.linear import SuperposedLinear

# Errors that torch and a user's `forward` raise at rows that do not fit.
FORWARD_ERRORS = (RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError)

# The contexts, of two, of the rows that a network is tried with.
_TRIED = (0, 1, 0)


class _Bound(nn.Module):
    """Replacement of a layer in a user's network, which gives the superposed layer its binding."""

    def __init__(self, name: str, layer: SuperposedLinear | SuperposedConv2d, owner: "SuperposedModule") -> None:
        super().__init__()
        self.name, self.layer = name, layer
        self._owner = (owner,)  # in a tuple: a module would become a child, and its own ancestor

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ...) as the layer that it stands for."""
        owner = self._owner[0]
        if owner.observe is not None:
            inner = self.layer if isinstance(self.layer, SuperposedLinear) else self.layer.patches
            seen = x if isinstance(self.layer, SuperposedLinear) else self.layer.unfold(x)
            owner.observe(self.name, inner, seen)
        answer: Tensor = self.layer(x, owner.bindings[self.name])
        return answer


class SuperposedModule(nn.Module):
    """A network whose linear and convolution layers were replaced by superposed ones.

    Its other weights (of normalisations, say) are shared by all tasks. It stays in evaluation mode: learning and
    inference compute the same. Not thread-safe. The last layers, which a member of a group binds as its own, are those
    that the network registered last. Weights become the initial weights; an expanded layer starts at 0.

    Args:
        module: The network; changed in place. It takes (B, *input_shape).
        family: A context family of real features.
        input_shape: What the rows of a batch, (B, features), are reshaped to.
        expansions: Number of blocks of linear layers whose contexts are expanded, by name.

    Raise `ConfigError` for a layer that cannot be superposed, answers that would depend on chance or on other rows,
    weights that two layers share, or nothing to superpose; or it does not take such rows; or it has no linear layer of
    a name in `expansions`.
    """

    def __init__(
        self,
        module: nn.Module,
        family: Family[Any],
        input_shape: tuple[int, ...],
        expansions: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.family = family
        self._expansions = dict(expansions or {})
        self._input_shape = input_shape
        self.bindings: Mapping[str, Binding] = {}
        self.observe: Any = None
        self._layers: dict[str, SuperposedLinear] = {}
        self.module = module
        _refuse_ties(module)
        self._replace(module, "")
        if not self._layers:
            raise ConfigError("the network has no linear or convolution layer to superpose")
        if self._expansions:
            problem = "the network has no such output layer to expand"
            expected = f"a linear layer: one of {', '.join(self._layers)}"
            raise ConfigError(problem, expected=expected, received=", ".join(self._expansions))
        self.train(False)
        self._try()

    def train(self, mode: bool = True) -> "SuperposedModule":
        """Stay in evaluation mode, whatever `mode` is."""
        return super().train(False)

    def _try(self) -> None:
        """Refuse a network that cannot be bound, or whose answer to a row depends on the rows beside it."""
        dtype = next(iter(self._layers.values())).weight.dtype
        random = torch.Generator().manual_seed(0)
        rows = torch.randn(len(_TRIED), math.prod(self._input_shape), generator=random, dtype=dtype)
        contexts = {
            name: torch.randn(2, *layer.family.context_shape(layer.bound_features), generator=random, dtype=dtype)
            for name, layer in self._layers.items()
        }
        try:
            with torch.inference_mode():
                slots = torch.tensor(_TRIED)
                together = self(rows, {name: Binding(both, slots) for name, both in contexts.items()})
                alone = [
                    self(row[None], {name: Binding(both[slot]) for name, both in contexts.items()})
                    for row, slot in zip(rows, _TRIED, strict=True)
                ]
        except FORWARD_ERRORS as error:
            problem = "the network does not run once its layers are bound"
            expected = f"rows of {self._input_shape}, and (rows, features) at every linear layer"
            raise ConfigError(problem, expected=expected, received=str(error)) from error
        if not isinstance(together, Tensor) or together.ndim != 2 or len(together) != len(rows):
            received = tuple(together.shape) if isinstance(together, Tensor) else type(together).__name__
            raise ConfigError("the network does not answer row by row", expected="(rows, outputs)", received=received)
        reach = float(together.nan_to_num().abs().max())
        if not torch.allclose(together, torch.cat(alone), rtol=0.0, atol=1e-2 * reach, equal_nan=True):
            problem = "the network's answer to a row depends on the rows beside it"
            expected = "each row answered as it is alone, whatever context the others have"
            raise ConfigError(problem, expected=expected, received="other answers together than alone")

    def _replace(self, parent: nn.Module, prefix: str) -> None:
        for name, child in list(parent.named_children()):
            path = f"{prefix}{name}"
            _refuse_unsteady(child, path)
            blocks = self._expansions.pop(path, 1) if isinstance(child, nn.Linear) else 1
            layer = _superposed(child, expanded(self.family, blocks))
            if layer is None:
                self._replace(child, f"{path}.")
                continue
            setattr(parent, name, _Bound(path, layer, self))
            self._layers[path] = layer if isinstance(layer, SuperposedLinear) else layer.patches

    def superposed_layers(self) -> dict[str, SuperposedLinear]:
        """Return the binding layers by name; of a convolution, the product over its patches."""
        return dict(self._layers)

    def forward(self, inputs: Tensor, bindings: Mapping[str, Binding], observe: Any = None) -> Tensor:
        """Return the answers (B, outputs) to rows (B, features), each bound by its context."""
        self.bindings, self.observe = bindings, observe
        try:
            answer: Tensor = self.module(inputs.view(len(inputs), *self._input_shape))
            return answer
        finally:
            self.bindings, self.observe = {}, None

    def retrieve(self, bindings: Mapping[str, Binding]) -> dict[str, Tensor]:
        """Return the state of an ordinary network that answers as this one does under one context for all rows.

        These are parameters and buffers of the network that was wrapped, by its names; each layer that was
        superposed has a bias, also where it had none.
        """
        bound = {layer.name: layer.layer for layer in self.module.modules() if isinstance(layer, _Bound)}
        state: dict[str, Tensor] = {
            name: tensor
            for name, tensor in chain(self.module.named_parameters(), self.module.named_buffers())
            if name.rpartition(".layer.")[0] not in bound
        }
        for name, layer in bound.items():
            state[f"{name}.weight"], state[f"{name}.bias"] = layer.retrieve(bindings[name].contexts)
        return state


def _refuse_ties(module: nn.Module) -> None:
    owners: dict[int, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        first = owners.setdefault(id(parameter), name)
        if first != name:
            problem = "weights that stand in two places of a network cannot be superposed"
            received = f"{first} and {name} are one"
            raise ConfigError(problem, expected="layers with weights of their own", received=received)


def _refuse_unsteady(layer: nn.Module, path: str) -> None:
    """Refuse layers whose answer to a row does not follow from the row and the weights."""
    received = f"{type(layer).__name__} at {path}"
    if isinstance(layer, _BatchNorm) or (isinstance(layer, _NormBase) and layer.track_running_stats):
        problem = "a prediction would depend on its neighbours in the batch, or on other tasks' statistics"
        expected = "GroupNorm or LayerNorm, or InstanceNorm without running statistics"
        raise ConfigError(problem, expected=expected, received=received)
    if isinstance(layer, _DropoutNd):
        problem = "dropout makes an update depend on chance, and replay could not repeat it"
        raise ConfigError(problem, expected="a network without dropout", received=received)


# Layers whose products no context could bind: their weights would be every task's alike.
_NOT_SUPERPOSED: tuple[type[nn.Module], ...] = (nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.Bilinear)
_NOT_SUPERPOSED += (nn.MultiheadAttention, nn.Embedding, nn.EmbeddingBag)


def _superposed(layer: nn.Module, family: Family[Any]) -> SuperposedLinear | SuperposedConv2d | None:
    """Return the superposed layer that takes the place of another; None for what is none."""
    if isinstance(layer, nn.Linear | nn.Conv2d):
        hooked = layer._forward_hooks or layer._forward_pre_hooks
        if type(layer) not in (nn.Linear, nn.Conv2d) or hooked:  # a plain one would stand in its place
            problem = "a layer that computes something of its own cannot be superposed"
            expected = "torch.nn.Linear and Conv2d themselves, without hooks or parametrisations"
            received = f"{type(layer).__name__}{', with hooks' if hooked else ''}"
            raise ConfigError(problem, expected=expected, received=received)
    if isinstance(layer, nn.Linear):
        linear = SuperposedLinear(layer.in_features, layer.out_features, family, dtype=layer.weight.dtype)
        _start_from(linear, layer.weight, layer.bias)
        return linear
    if isinstance(layer, nn.Conv2d):
        return _convolution(layer, family)
    if isinstance(layer, _NOT_SUPERPOSED):
        received = type(layer).__name__
        raise ConfigError("this layer cannot be superposed", expected="Linear and Conv2d layers", received=received)
    return None


def _convolution(layer: nn.Conv2d, family: Family[Any]) -> SuperposedConv2d:
    plain = layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
    if not plain or not isinstance(layer.padding, tuple):
        expected = "groups 1, dilation 1, padding as numbers, with zeros"
        raise ConfigError("this convolution cannot be superposed", expected=expected, received=str(layer))
    kernel, stride, padding = ((sizes[0], sizes[1]) for sizes in (layer.kernel_size, layer.stride, layer.padding))
    conv = SuperposedConv2d(
        layer.in_channels, layer.out_channels, kernel, family, stride=stride, padding=padding, dtype=layer.weight.dtype
    )
    _start_from(conv.patches, layer.weight.flatten(1), layer.bias)
    return conv


def _start_from(linear: SuperposedLinear, weight: Tensor, bias: Tensor | None) -> None:
    if linear.family.components != 1:
        expected = "a family on real features (phase, binary, cyclic, rotation)"
        raise ConfigError("a wrapped network has real features", expected=expected, received=linear.family.name)
    with torch.no_grad():
        if linear.family.blocks > 1:  # an expanded layer starts at 0
            return
        linear.weight[:, : linear.in_features] = weight
        if bias is not None:
            linear.weight[:, linear.in_features] = bias
