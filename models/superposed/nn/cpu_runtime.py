"""A network made ready to answer: for inference on the CPU, beside the one that learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from superposed.contexts import Binding
from superposed.nn.build import Network
from superposed.nn.layers import SuperposedLinear
from superposed.nn.layers.fused_kernels import Kernel, Layout, kernel_for
from superposed.nn.mlp import ACTIVATIONS, LAYER_NORM_EPSILON, MLP

# Rows that go through all layers before the next ones, so that their numbers stay in the cache.
BLOCK_ROWS = 256


@dataclass(frozen=True)
class _Layer:
    """One layer: its product's matrix (width, D_out) and bias, and how its input is bound."""

    name: str
    matrix: Tensor
    bias: Tensor | None
    kernel: Kernel
    bound: Tensor  # (block, width), written anew for each block
    product: Tensor  # (block, D_out)


class _Block(NamedTuple):
    """Output buffer of one layer for a block of rows, as a tensor and as numpy arrays of the same memory."""

    bound: Tensor  # (rows, width)
    bound_array: NDArray[Any]
    product: Tensor  # (rows, D_out)
    product_array: NDArray[Any]


def prepared(network: Network) -> FusedMLP | Network:
    """Return a network made ready to answer on the CPU; itself where there are no kernels for it."""
    if isinstance(network, MLP) and FusedMLP.can_prepare(network):
        return FusedMLP(network)
    return network


class FusedMLP:
    """Answers as `MLP.forward` does, up to rounding, with the fused kernels. One thread at a time.

    Args:
        network: The network; where its weights change, so do the answers.
    """

    def __init__(self, network: MLP) -> None:
        self._network = network
        self._versions: tuple[int, ...] = ()
        config = network.config
        relu = config.activation == "relu"
        self._active = None if relu else ACTIVATIONS[config.activation]
        self._lanes = network.family.components
        self._layers: list[_Layer] = []
        self._blocks: dict[int, list[_Block]] = {}
        for place, (name, layer) in enumerate(network.superposed_layers().items()):
            hidden = place > 0
            kernel = kernel_for(
                network.family,
                _layout(layer),
                relu=hidden and relu,
                normalise=hidden and config.normalisation == "layer",
            )
            assert kernel is not None  # noqa: S101 - `can_prepare` has said so
            matrix = layer.matrix().detach()
            self._layers.append(
                _Layer(
                    name,
                    matrix.t(),
                    None if layer.bias is None else torch.as_tensor(layer.shared_bias()).detach(),
                    kernel,
                    matrix.new_empty(BLOCK_ROWS, matrix.shape[1]),
                    matrix.new_empty(BLOCK_ROWS, len(matrix)),
                )
            )

    @staticmethod
    def can_prepare(network: MLP) -> bool:
        """Return True if there are kernels for the network's family."""
        return kernel_for(network.family, Layout(0, 0, 0, -1), relu=False, normalise=False) is not None

    def __call__(self, inputs: Tensor, bindings: Mapping[str, Binding], needed: int | None = None) -> Tensor:
        """Return logits of a batch whose rows may belong to different contexts; as `MLP.forward`.

        Args:
            inputs: (B, inputs), on the CPU.
            bindings: Every layer's binding.
            needed: How many of the outputs are asked for, the first ones; None for all.

        Returns:
            (B, outputs); 0 beyond those that are needed.
        """
        self._refresh()
        if self._lanes == 2:
            inputs = torch.cat([inputs, torch.zeros_like(inputs)], dim=-1)  # (B, 2 inputs)
        tables, slots = self._tables(bindings, len(inputs))
        rows = inputs.numpy()
        outputs = self._layers[-1].product.shape[1]
        if needed is None or needed > outputs // 2:  # hardly less work, by a product of another shape
            needed = outputs
        answers = np.zeros((len(rows), outputs), rows.dtype)
        for start in range(0, len(rows), BLOCK_ROWS):
            of = slice(start, start + BLOCK_ROWS)
            self._answer(rows[of], tables, slots[of], answers[of, :needed])
        return torch.from_numpy(answers)

    def _block(self, rows: int) -> list[_Block]:
        """Return every layer's buffers for `rows` rows; they are kept, because slicing costs more."""
        if rows not in self._blocks:
            cut = [(layer.bound[:rows], layer.product[:rows]) for layer in self._layers]
            self._blocks[rows] = [
                _Block(bound, bound.numpy(), product, product.numpy()) for bound, product in cut
            ]
        return self._blocks[rows]

    def _refresh(self) -> None:
        """Copy what is not the weights themselves: complex ones are multiplied as a block matrix."""
        if self._lanes == 1:
            return
        versions = tuple(parameter._version for parameter in self._network.parameters())
        if versions == self._versions:
            return
        self._versions = versions
        for prepared, layer in zip(self._layers, self._network.superposed_layers().values(), strict=True):
            prepared.matrix.copy_(layer.matrix().detach().t())
            if prepared.bias is not None:
                prepared.bias.copy_(torch.as_tensor(layer.shared_bias()))

    @staticmethod
    def _tables(
        bindings: Mapping[str, Binding], rows: int
    ) -> tuple[dict[str, NDArray[np.floating[Any]]], NDArray[np.int64]]:
        """Return every layer's contexts, (K, ...), and each row's slot in them."""
        tables, slots = {}, np.zeros(rows, dtype=np.int64)
        for name, (contexts, mine) in bindings.items():
            tables[name] = (contexts[None] if mine is None else contexts).numpy()
            slots = slots if mine is None else mine.numpy()
        return tables, slots

    def _answer(
        self,
        signal: NDArray[Any],
        tables: Mapping[str, NDArray[np.floating[Any]]],
        slots: NDArray[np.int64],
        answers: NDArray[Any],
    ) -> None:
        needed = answers.shape[1]
        for layer, block in zip(self._layers, self._block(len(signal)), strict=True):
            layer.kernel(signal, tables[layer.name], slots, block.bound_array, LAYER_NORM_EPSILON)
            if layer is self._layers[-1] and needed < layer.matrix.shape[1]:
                product = block.bound @ layer.matrix[:, :needed]
                signal = (product if layer.bias is None else product + layer.bias[:needed]).numpy()
                continue
            if layer.bias is None:
                torch.mm(block.bound, layer.matrix, out=block.product)
            else:
                torch.addmm(layer.bias, block.bound, layer.matrix, out=block.product)
            signal = block.product_array
            if self._active is not None and layer is not self._layers[-1]:
                signal = self._active(block.product).numpy()
        answers[:] = signal


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
