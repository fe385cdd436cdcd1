"""A multi-layer perceptron on the CPU by fused kernels, forwards and backwards."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from superposed.contexts import Binding
from superposed.nn.layers import SuperposedLinear
from superposed.nn.layers.fused_kernels import PARALLEL_FROM, FusedBinding, Layout

# Families that there are fused kernels for.
_WITH_KERNELS = {"phase", "complex", "cyclic", "binary"}
_aten = torch.ops.aten
_Function = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, _Function] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}
# Of those that are not in the kernels the gradient in their input, from that in their output.
_GRADIENTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": _aten.gelu_backward,
    "silu": _aten.silu_backward,
    "tanh": lambda gradient, rows: _aten.tanh_backward(gradient, rows.tanh()),
}


class _Layer(NamedTuple):
    """One layer's pass: how its input is activated, and bound with which contexts (K, ...) and slots (B,)."""

    kernels: FusedBinding
    activation: str | None
    contexts: Tensor
    slots: Tensor


class FusedMLP:
    """Answers and gradients of `MLP`, to rounding; `normalise` and `epsilon` are those of `FusedBinding`."""

    def __init__(
        self, layers: dict[str, SuperposedLinear], activation: str, *, normalise: bool, epsilon: float
    ) -> None:
        relu = activation == "relu"
        self._layers, self._activation = layers, None if relu else activation
        self._kernels = {
            name: FusedBinding(
                layer.family.name == "binary",
                tuple(_layout(layer)),
                relu=place > 0 and relu,
                normalise=place > 0 and normalise,
                epsilon=epsilon,
            )
            for place, (name, layer) in enumerate(layers.items())
        }
        self._has_kernels = all(layer.family.name in _WITH_KERNELS for layer in layers.values())
        self._shapes = {name: torch.Size(one.family.context_shape(one.bound_features)) for name, one in layers.items()}

    def can_run(self, inputs: Tensor, bindings: Mapping[str, Binding]) -> bool:
        """Return True if there are kernels for these rows and contexts."""
        if inputs.device.type != "cpu" or inputs.requires_grad:
            return False
        return self._has_kernels and all(
            bindings[name].contexts.shape[-len(shape) :] == shape and not bindings[name].contexts.requires_grad
            for name, shape in self._shapes.items()
        )

    def prepare(self, dtype: torch.dtype) -> None:
        """Compile the kernels for one thread, and for several where torch has as many."""
        for name, kernels in self._kernels.items() if self._has_kernels else ():
            contexts = torch.zeros(1, *self._shapes[name], dtype=dtype)
            width = self._layers[name].in_features * self._layers[name].family.components
            for count in (1, -(-PARALLEL_FROM // contexts.numel())):
                rows, slots = torch.zeros(count, width, dtype=dtype), torch.zeros(count, dtype=torch.int64)
                kernels.gradient(rows, contexts, slots, kernels.bind(rows, contexts, slots))

    def __call__(self, inputs: Tensor, bindings: Mapping[str, Binding], needed: int | None) -> Tensor:
        """Return logits; as `MLP.forward`."""
        weights: list[Tensor] = []
        biases: list[Tensor | None] = []
        steps: list[_Layer] = []
        first: Tensor | None = None
        for name, layer in self._layers.items():
            contexts, slots = bindings[name]
            if slots is None:
                slots = first = torch.zeros(len(inputs), dtype=torch.int64) if first is None else first
                contexts = contexts[None]
            activation = self._activation if steps else None
            steps.append(_Layer(self._kernels[name], activation, contexts.contiguous(), slots))
            weights.append(layer.matrix())
            biases.append(layer.shared_bias())
        if needed is not None:
            weights[-1], last = weights[-1][:needed], biases[-1]
            biases[-1] = None if last is None else last[:needed]
        if torch.is_grad_enabled():
            logits: Tensor = _Pass.apply(steps, inputs.contiguous(), *weights, *biases)  # type: ignore[no-untyped-call]  # torch
            return logits
        return _forward(steps, inputs.contiguous(), weights, biases, None)


def _forward(
    steps: Sequence[_Layer],
    rows: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    saved: list[tuple[Tensor, Tensor, Tensor]] | None,
) -> Tensor:
    """Run all layers; keep each one's input, activated input, and bound rows where they are needed again."""
    for step, weight, bias in zip(steps, weights, biases, strict=True):
        active = rows if step.activation is None else ACTIVATIONS[step.activation](rows)
        bound = step.kernels.bind(active, step.contexts, step.slots)
        if saved is not None:
            saved.append((rows, active, bound))
        rows = F.linear(bound, weight, bias)
    return rows


class _Pass(torch.autograd.Function):
    """The whole network, with gradients in its weights and biases."""

    @staticmethod
    def forward(ctx: Any, steps: Sequence[_Layer], inputs: Tensor, *weights: Tensor | None) -> Tensor:
        ctx.steps, ctx.kept, count = steps, [], len(steps)
        ctx.matrices = weights[:count]
        with torch.no_grad():
            return _forward(steps, inputs, weights[:count], weights[count:], ctx.kept)  # type: ignore[arg-type]  # matrices

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        gradient, count = gradients[0].contiguous(), len(ctx.steps)
        found: list[Tensor | None] = [None] * (2 * count)
        for place in reversed(range(count)):
            step, (rows, active, bound) = ctx.steps[place], ctx.kept[place]
            found[place] = gradient.t() @ bound
            if ctx.needs_input_grad[2 + count + place]:
                found[count + place] = gradient.sum(0)
            if place:
                bound_gradient = gradient @ ctx.matrices[place]
                gradient = step.kernels.gradient(active, step.contexts, step.slots, bound_gradient)
                if step.activation is not None:
                    gradient = _GRADIENTS[step.activation](gradient, rows)
        return (None, None, *found)


def _layout(layer: SuperposedLinear) -> Layout:
    features, blocks = layer.in_features, layer.family.blocks
    constant = features if layer.bound_features > features else -1
    if layer.family.components == 2:  # real parts with the constant, then imaginary parts
        return Layout(features, features, features, constant, blocks)
    if layer.family.name == "binary":
        return Layout(features, 0, 0, constant, blocks)
    pairs = layer.width // 2
    first = min(features, pairs)
    return Layout(first, features - first, pairs, constant, blocks)
