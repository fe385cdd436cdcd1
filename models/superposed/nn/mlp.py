"""The multi-layer perceptron, with a context at every layer."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superposed.config import MLPConfig
from superposed.contexts import Binding, Family, expanded
from superposed.errors import ConfigError
from superposed.nn.fused_mlp import ACTIVATIONS, FusedMLP
from superposed.nn.layers import SuperposedLinear

LAYER_NORM_EPSILON = 1e-5

Observer = Callable[[str, SuperposedLinear, Tensor], None]


class MLP(nn.Module):
    """`x⁽ˡ⁺¹⁾ = norm(g(W⁽ˡ⁾ (C(k)⁽ˡ⁾ [x⁽ˡ⁾, 1])))`, the last layer without g and norm.

    For complex contexts the activation acts on real and imaginary parts separately and the output is
    the real part. `generator` draws the initial weights; without one they are 0 until they are loaded.
    """

    def __init__(
        self,
        config: MLPConfig,
        family: Family[Any],
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if min(config.hidden, default=1) < 1:
            raise ConfigError("a hidden layer has no units", expected="1 or more", received=config.hidden)
        self.config, self.family = config, family
        sizes = (config.inputs, *config.hidden, config.outputs)
        last = len(sizes) - 2
        self.layers = nn.ModuleList(
            SuperposedLinear(
                sizes[place],
                sizes[place + 1],
                expanded(family, config.expansion) if place == last else family,
                bias=config.bias,
                real_output=place == last,
                # Normalised signals keep their scale by themselves, and small weights are learned over
                # faster (docs/decisions/0004-learning-rate.md).
                gain=1.0 if config.normalisation == "layer" else 6.0**0.5,
                # An expanded layer starts at 0: what it were drawn from would be noise to every task.
                generator=None if place == last and config.expansion > 1 else generator,
                dtype=dtype,
            )
            for place in range(last + 1)
        )
        layers, normalise = self.superposed_layers(), config.normalisation == "layer"
        self._fused = FusedMLP(layers, config.activation, normalise=normalise, epsilon=LAYER_NORM_EPSILON)

    def prepare(self, dtype: torch.dtype) -> None:
        """Compile the fused kernels, where the network has some."""
        self._fused.prepare(dtype)

    def superposed_layers(self) -> dict[str, SuperposedLinear]:
        """Return the layers that bind, by the names that their contexts are derived from."""
        return {
            f"layers.{place}": layer for place, layer in enumerate(self.layers) if isinstance(layer, SuperposedLinear)
        }

    def forward(
        self,
        inputs: Tensor,
        bindings: Mapping[str, Binding],
        observe: Observer | None = None,
        needed: int | None = None,
    ) -> Tensor:
        """Return logits of a batch (B, inputs) whose rows may belong to different contexts.

        They are (B, outputs), or (B, needed) where only the first ones are asked for. `observe` is called before
        each layer with its name, itself and its input (B, components x D_in).
        """
        signal = inputs
        if self.family.components == 2:
            signal = torch.cat([inputs, torch.zeros_like(inputs)], dim=-1)  # (B, 2 inputs)
        if observe is None and self._fused.can_run(signal, bindings):
            return self._fused(signal, bindings, needed)
        last = len(self.layers) - 1
        for place, (name, layer) in enumerate(self.superposed_layers().items()):
            if observe is not None:
                observe(name, layer, signal)
            signal = layer(signal, bindings[name])
            if place < last:
                signal = self.activate_and_normalise(signal)
        return signal[:, :needed]

    def activate_and_normalise(self, signal: Tensor) -> Tensor:
        """Apply activation and normalisation between two layers."""
        return activate(signal, self.config.activation, self.config.normalisation, LAYER_NORM_EPSILON)


def activate(signal: Tensor, activation: str, normalisation: str, epsilon: float) -> Tensor:
    """Apply the activation, and where asked for the normalisation, that stand between two layers."""
    active = ACTIVATIONS[activation](signal)
    return active if normalisation == "none" else F.layer_norm(active, active.shape[-1:], eps=epsilon)


def plain_forward(
    inputs: Tensor, layers: Sequence[tuple[Tensor, Tensor]], activate_and_normalise: Callable[[Tensor], Tensor]
) -> Tensor:
    """Run an ordinary network of each layer's weight (D_out, D_in) and bias (D_out,): (B, inputs) to (B, outputs).

    A first weight may have further columns for imaginary parts, which real inputs do not have. After every layer
    but the last comes `activate_and_normalise`.
    """
    signal = inputs
    for place, (weight, bias) in enumerate(layers):
        signal = F.linear(signal, weight[:, : signal.shape[1]], bias)
        if place < len(layers) - 1:
            signal = activate_and_normalise(signal)
    return signal
