"""Taking a task's model out of a store as an ordinary network; the algebra of superposing matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from superposed import tensorfile
from superposed.config import MLPConfig
from superposed.contexts import Family
from superposed.errors import CompositionNotSupported
from superposed.networks import LAYER_NORM_EPSILON, activate, plain_forward
from superposed.store import WeightStore

__all__ = ["RetrievedModel", "residual_variance", "retrieve", "retrieve_model", "superpose"]


def superpose(family: Family[Any], weights: Tensor, contexts: Tensor) -> Tensor:
    """`W = Σ_k W(k) C(k)⁻¹`.

    Args:
        family: The context family.
        weights: (K, D_out, width).
        contexts: (K, ...), materialised, in the weights' dtype.

    Returns:
        (D_out, width).
    """
    return family.superpose(weights, contexts)


def retrieve(family: Family[Any], weight: Tensor, context: Tensor) -> Tensor:
    """`Ŵ(k) = W C(k)`, which is W(k) and a residual: (D_out, width)."""
    return family.retrieve(weight, context)


def residual_variance(family: Family[Any], others: Tensor, x: Tensor) -> Tensor:
    """The law: `Var ε` of the response to `x` from the other tasks' weights, over random contexts.

    Args:
        family: The context family.
        others: (K - 1, D_out, width), the weights W(s) of the other tasks.
        x: (B, width).

    Returns:
        (B, D_out): for the diagonal families `Σ_s Σ_i w_si² x_i²` (a pair counts half its product of
        energies), for rotations `Σ_s ‖w_s‖² ‖x‖² / D_in`.
    """
    return torch.stack([family.response_energy(weight, x) for weight in others]).sum(0)


@dataclass(frozen=True)
class RetrievedModel:
    """A task's model as an ordinary network with no trace of the store.

    Args:
        tensors: `layers.{i}.weight` (D_out, D_in) and `layers.{i}.bias` (D_out,), the context folded in,
            cut to the task's own inputs and outputs; `input.offset` and `input.scale` (inputs,), float64,
            as an offset may be far larger than what is left of it.
        metadata: activation, normalisation (kind, epsilon, where), labels, loss, context, sequence.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any]

    def __call__(self, inputs: Tensor) -> Tensor:
        """Answers rows (B, inputs) with (B, outputs), from the tensors and the metadata alone."""
        offset, scale = self.tensors["input.offset"], self.tensors["input.scale"]
        signal = ((inputs.to(offset.dtype) - offset) / scale).to(self.tensors["layers.0.weight"].dtype)
        count = sum(name.endswith(".weight") for name in self.tensors)
        layers = [
            (self.tensors[f"layers.{i}.weight"], self.tensors[f"layers.{i}.bias"]) for i in range(count)
        ]
        normalisation = self.metadata["normalisation"]

        def between(signal: Tensor) -> Tensor:
            return activate(
                signal,
                self.metadata["activation"],
                normalisation["kind"],
                normalisation.get("epsilon", LAYER_NORM_EPSILON),
            )

        return plain_forward(signal, layers, between)

    def to_bytes(self) -> bytes:
        """A safetensors file; the same store, secret and sequence give the same tensors."""
        return tensorfile.dump(self.tensors, self.metadata)

    @classmethod
    def from_bytes(cls, data: bytes) -> RetrievedModel:
        """The inverse of `to_bytes`.

        Raises:
            ConfigError: Not such a file.
        """
        tensors, metadata = tensorfile.parse(data)
        return cls(tensors, metadata)


def retrieve_model(store: WeightStore, context: object) -> RetrievedModel:
    """Takes a context's model out of the store: the same logits, to rounding, as the store serves.

    For complex contexts the network has both real and imaginary parts as ordinary units.

    Raises:
        ContextError: A context that cannot be addressed.
        CompositionNotSupported: The store holds another network than an mlp.
    """
    network = store.config.network
    if not isinstance(network, MLPConfig):
        raise CompositionNotSupported(
            "only multi-layer perceptrons can be taken out",
            expected="a store of kind mlp",
            received=network.kind,
        )
    resolved = store.resolve(context)
    schema = resolved.task.schema
    contexts = store.contexts.bind_all(resolved.context)
    tensors = {
        "input.offset": _or(schema.offset, 0.0, schema.inputs),
        "input.scale": _or(schema.scale, 1.0, schema.inputs),
    }
    layers = store.network.superposed_layers()
    with torch.no_grad():
        for place, (name, layer) in enumerate(layers.items()):
            weight, bias = layer.retrieve(contexts[name].contexts)
            if place == 0:
                weight = weight[:, : schema.inputs]  # padded inputs are 0, and so are imaginary ones
            if place == len(layers) - 1:
                weight, bias = weight[: schema.outputs], bias[: schema.outputs]
            tensors[f"layers.{place}.weight"] = weight.cpu().contiguous()
            tensors[f"layers.{place}.bias"] = bias.cpu().contiguous()
    metadata = {
        "activation": network.activation,
        "normalisation": {
            "kind": network.normalisation,
            "epsilon": LAYER_NORM_EPSILON,
            "where": "after the activation of every hidden layer",
        },
        "labels": list(schema.labels) if schema.labels else None,
        "loss": schema.loss,
        "sequence": store.sequence,
    }
    return RetrievedModel(tensors, metadata)


def _or(values: Sequence[float] | None, default: float, count: int) -> Tensor:
    return torch.tensor(values or [default] * count, dtype=torch.float64)
